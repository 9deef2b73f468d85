"""Mixture lists of many conditions, derived from a few frozen lists that hold all draws.

A base list has talkers, and a room and a noise for each mixture. A condition keeps or drops these,
and sets their RT60, signal-to-noise ratio, levels and channel; so all conditions of a base list
share talkers, texts, places and noises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dpcl.errors import InputError
from dpcl.mixtures.channels import Channel, parse_channel
from dpcl.mixtures.lists import read_list
from dpcl.mixtures.noise import draw_babble, draw_pink
from dpcl.mixtures.room_bank import shortest_rt60
from dpcl.mixtures.rooms import draw_array
from dpcl.mixtures.rows import MixtureRow
from dpcl.settings import Settings, read_settings


class Condition(Settings):
    """One condition: a base list, the draws to keep of it, and the values to set."""

    name: str = Field(min_length=1)
    base: str  # name of a list beside the conditions
    title: str = ""
    room: bool = False  # keep the rooms of the list
    rt60: float | None = Field(default=None, gt=0)  # s, of all rooms; null: as drawn
    noise: Literal["drawn", "pink", "babble"] | None = None
    snr_db: float | None = None  # null: as drawn; pink noise and babble need it
    quieter_db: float | None = Field(default=None, ge=0)  # second talker below the first
    channel: str = ""  # such as band=300-3400|codec=ulaw
    microphones: int = Field(default=1, ge=1, le=64)  # of an array (see draw_array)

    @property
    def plain(self) -> bool:
        """Whether the talkers of the base list are mixed without room, noise and channel."""
        return not (self.room or self.noise or self.channel or self.quieter_db is not None)

    @model_validator(mode="after")
    def _fits_together(self) -> Condition:
        parse_channel(self.channel)
        if self.rt60 is not None and not self.room:
            raise ValueError("rt60 needs room: true")
        if self.snr_db is not None and self.noise is None:
            raise ValueError("snr_db needs noise: drawn, pink or babble")
        if self.noise in ("pink", "babble") and self.snr_db is None:
            raise ValueError(f"noise: {self.noise} needs snr_db")
        if self.microphones > 1 and (not self.room or self.noise or self.channel):
            raise ValueError("microphones needs room: true, without noise and channel")
        return self


class ConditionLists(Settings):
    """The conditions of one file."""

    seed: int = Field(default=0, ge=0)  # of pink noise
    babble: str | None = None  # name of a list whose talkers are the voices of babble
    voices: int = Field(default=8, ge=1)  # talkers of a babble
    conditions: tuple[Condition, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ_and_voices_are_there(self) -> ConditionLists:
        names = [condition.name for condition in self.conditions]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two conditions are called {min(twice)}; rename one")
        if self.babble is None and any(c.noise == "babble" for c in self.conditions):
            raise ValueError("noise: babble needs the list of its voices; give `babble`")
        return self


def read_conditions(path: Path) -> ConditionLists:
    """Read a file of conditions (YAML); InputError that names the wrong key."""
    return read_settings(ConditionLists, path)


def derive_lists(
    settings: ConditionLists, folder: Path, limit: int | None = None
) -> dict[str, list[MixtureRow]]:
    """Derive the list of each condition from the base lists in `folder`.

    Rows keep the id of their base row, by which conditions are compared; `list` is the name of the
    condition. limit: use only the first mixtures of each. Raises InputError, naming the condition,
    for lists that are missing and for what they lack.
    """
    bases: dict[str, list[MixtureRow]] = {}
    for name in {condition.base for condition in settings.conditions}:
        bases[name] = read_list(folder / f"{name}.csv")[:limit]
    voices = []
    if settings.babble and any(c.noise == "babble" for c in settings.conditions):
        voices = read_list(folder / f"{settings.babble}.csv")
    return {
        condition.name: _derive(condition, settings, bases[condition.base], voices)
        for condition in settings.conditions
    }


def _derive(
    condition: Condition,
    settings: ConditionLists,
    base: Sequence[MixtureRow],
    voices: Sequence[MixtureRow],
) -> list[MixtureRow]:
    rows = [replace(row, list=condition.name) for row in base]
    where = f"condition {condition.name}"
    if condition.room:
        rows = [_with_rt60(row, condition.rt60, where) for row in rows]
        if condition.microphones > 1:
            rows = [
                replace(row, room=draw_array(row.room, condition.microphones, settings.seed, k))
                for k, row in enumerate(rows)
                if row.room is not None
            ]
    else:
        rows = [replace(row, room=None) for row in rows]
    if condition.noise == "drawn":
        rows = [_with_snr(row, condition.snr_db, where) for row in rows]
    else:
        rows = [replace(row, noise=None) for row in rows]
    if condition.noise is not None and condition.snr_db is not None:
        ratio = (condition.snr_db, condition.snr_db)
        if condition.noise == "pink":
            rows = draw_pink(rows, settings.seed, ratio)
        elif condition.noise == "babble":
            rows = draw_babble(rows, voices, settings.seed, ratio, settings.voices)
    if condition.quieter_db is not None:
        rows = [_with_levels(row, condition.quieter_db, where) for row in rows]
    channel: Channel = parse_channel(condition.channel)
    return [replace(row, channel=channel) for row in rows] if condition.channel else rows


def _with_rt60(row: MixtureRow, rt60: float | None, where: str) -> MixtureRow:
    if row.room is None:
        raise InputError(f"{where}: {row.id} has no room; draw them with `dpcl mix add --rooms`")
    if rt60 is None:
        return row
    if rt60 <= shortest_rt60(row.room.size):
        raise InputError(
            f"{where}: the room of {row.id} cannot have an RT60 of {rt60:g} s; give more than"
            f" {shortest_rt60(row.room.size):.2f} s"
        )
    return replace(row, room=replace(row.room, rt60=rt60))


def _with_snr(row: MixtureRow, snr_db: float | None, where: str) -> MixtureRow:
    if row.noise is None:
        raise InputError(f"{where}: {row.id} has no noise; draw it with `dpcl mix add --noise`")
    return row if snr_db is None else replace(row, noise=replace(row.noise, snr_db=snr_db))


def _with_levels(row: MixtureRow, quieter_db: float, where: str) -> MixtureRow:
    if len(row.sources) != 2:
        raise InputError(f"{where}: {row.id} has not two talkers; leave out quieter_db")
    first, second = row.sources
    half = quieter_db / 2.0
    return replace(row, sources=(replace(first, gain_db=half), replace(second, gain_db=-half)))
