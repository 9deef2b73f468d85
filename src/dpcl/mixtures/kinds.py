"""Kinds of mixtures: speech with environment, sound with sound, one class of sounds twice."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dpcl.errors import InputError
from dpcl.settings import Settings


class Kind(Settings):
    """One kind of mixture: the group from which each of its sources is drawn."""

    of: tuple[str, ...] = Field(min_length=1, max_length=10)
    share: float = Field(default=1.0, gt=0, allow_inf_nan=False)  # relative share of mixtures
    same: bool = False  # all sources are of one class (or talker), from different recordings

    @property
    def name(self) -> str:
        """Return its name: speech+environment, sound+sound, sound+sound:same."""
        return kind_name(self.of, self.same)


class Kinds(Settings):
    """Groups of speakers and sound classes, and the kinds of mixtures to draw from them.

    A group lists corpora, or corpus/speaker; * stands for any characters. Entries that begin with !
    are excluded from it. Speakers and classes in no group are not drawn.
    """

    groups: dict[str, tuple[str, ...]]
    mixtures: tuple[Kind, ...] = Field(min_length=1)
    # Longest silence in s after each recording that is joined to a source. The silence is drawn
    # uniformly, once per source. It keeps one-shot sounds from becoming a rattle.
    pause: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_groups(self) -> Kinds:
        """Raise ValueError for names of groups that are wrong or unknown."""
        for kind in self.mixtures:
            if unknown := sorted(set(kind.of) - set(self.groups)):
                raise ValueError(f"there is no group {unknown[0]}; give groups.{unknown[0]}")
            if kind.same and len(set(kind.of)) > 1:
                raise ValueError(f"{'+'.join(kind.of)} cannot be the same class; name one group")
        if wrong := [name for name in self.groups if not name or set(name) & set("+: ")]:
            raise ValueError(f"a group cannot be called {wrong[0]!r}; omit spaces, + and :")
        return self

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of sources of the mixtures, ascending."""
        return sorted({len(kind.of) for kind in self.mixtures})

    def of_sources(self, number: int) -> Kinds:
        """Return only the kinds with this number of sources.

        Raises:
            InputError: there are none.
        """
        chosen = tuple(kind for kind in self.mixtures if len(kind.of) == number)
        if not chosen:
            raise InputError(
                f"the kinds of mixtures are of {' or '.join(map(str, self.numbers))} sources, not"
                f" of {number}; give one of these numbers, or add such a kind"
            )
        return self.model_copy(update={"mixtures": chosen})

    def members(self, speakers: Sequence[tuple[str, str]]) -> dict[str, NDArray[np.bool_]]:
        """Return the members of each group.

        Args:
            speakers: corpus and name of each of S speakers.

        Returns:
            Group -> (S,), true for the speakers in it.

        Raises:
            InputError: an entry of a group matches no speaker.
        """
        names = [f"{corpus}/{speaker}" for corpus, speaker in speakers]
        found = {}
        for group, entries in self.groups.items():
            found[group] = np.zeros(len(names), dtype=np.bool_)
            # Exclusions last, so that they prevail.
            for entry in sorted(entries, key=lambda entry: entry.startswith("!")):
                pattern = entry.removeprefix("!")
                pattern = pattern if "/" in pattern else f"{pattern}/*"
                named = np.array([fnmatchcase(name, pattern) for name in names])
                if not named.any():
                    raise InputError(
                        f"the corpus has no {pattern} for the group {group}; correct the group, or"
                        " the corpora and the split"
                    )
                found[group][named] = not entry.startswith("!")
        return found


def kind_name(groups: Sequence[str], same: bool) -> str:
    """Return the name of a kind: sources of these groups, of one class if `same`."""
    return "+".join(groups) + (":same" if same else "")
