"""Kinds of mixtures: speech against environment, sound against sound, one class of sounds twice."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dpcl.errors import InputError
from dpcl.settings import Settings


class Kind(Settings):
    """One kind of mixture: the group that each of its sources is drawn from."""

    of: tuple[str, ...] = Field(min_length=1, max_length=10)
    share: float = Field(default=1.0, gt=0, allow_inf_nan=False)  # of mixtures, against the others
    same: bool = False  # all sources are of one class (or talker), from different recordings

    @property
    def name(self) -> str:
        """speech+environment, sound+sound, sound+sound:same."""
        return kind_name(self.of, self.same)


class Kinds(Settings):
    """Groups of speakers and sound classes, and the kinds of mixtures to draw of them.

    A group holds corpora, or corpus/speaker, in both of which * stands for anything, without those
    that an entry behind ! names. What is in no group is not drawn.
    """

    groups: dict[str, tuple[str, ...]]
    mixtures: tuple[Kind, ...] = Field(min_length=1)
    # s, the longest silence between two recordings that are joined to one source, and after the
    # last; the same throughout a source, and uniform: one-shot sounds do not become a rattle
    pause: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _says_what_can_be_drawn(self) -> Kinds:
        for kind in self.mixtures:
            if unknown := sorted(set(kind.of) - set(self.groups)):
                raise ValueError(f"there is no group {unknown[0]}; give groups.{unknown[0]}")
            if kind.same and len(set(kind.of)) > 1:
                raise ValueError(f"{'+'.join(kind.of)} cannot be the same class; name one group")
        if wrong := [name for name in self.groups if not name or set(name) & set("+: ")]:
            raise ValueError(f"a group cannot be called {wrong[0]!r}; leave out spaces, + and :")
        return self

    @property
    def numbers(self) -> list[int]:
        """How many sources there are in mixtures, in rising order."""
        return sorted({len(kind.of) for kind in self.mixtures})

    def of_sources(self, number: int) -> Kinds:
        """The kinds of so many sources alone. Raises InputError where there are none."""
        chosen = tuple(kind for kind in self.mixtures if len(kind.of) == number)
        if not chosen:
            raise InputError(
                f"The kinds of mixtures are of {' or '.join(map(str, self.numbers))} sources, not"
                f" of {number}: give one of these numbers, or add such a kind."
            )
        return self.model_copy(update={"mixtures": chosen})

    def members(self, speakers: Sequence[tuple[str, str]]) -> dict[str, NDArray[np.bool_]]:
        """Group -> (S,), which of the S speakers (corpus, name) are in it.

        Raises InputError for an entry that names none of them.
        """
        names = [f"{corpus}/{speaker}" for corpus, speaker in speakers]
        found = {}
        for group, entries in self.groups.items():
            found[group] = np.zeros(len(names), dtype=np.bool_)
            for entry in sorted(entries, key=lambda entry: entry.startswith("!")):  # these last
                pattern = entry.removeprefix("!")
                pattern = pattern if "/" in pattern else f"{pattern}/*"
                named = np.array([fnmatchcase(name, pattern) for name in names])
                if not named.any():
                    raise InputError(
                        f"The corpus has no {pattern} for the group {group}: correct the group, or"
                        " the corpora and the split."
                    )
                found[group][named] = not entry.startswith("!")
        return found


def kind_name(groups: Sequence[str], same: bool) -> str:
    """What a mixture of sources of these groups is called, its sources of one class or not."""
    return "+".join(groups) + (":same" if same else "")
