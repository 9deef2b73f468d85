"""Rows of a mixture list, and the fields of its CSV file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dpcl.errors import InputError
from dpcl.mixtures.channels import Channel, parse_channel
from dpcl.mixtures.kinds import kind_name
from dpcl.mixtures.parts import parse_part

COLUMNS = ("id", "list", "seed", "seconds", "corpora", "genders")
# Columns of each source, with the suffix _1, _2, …; KIND_COLUMNS only in lists drawn by kind.
SOURCE_COLUMNS = ("speaker", "paths", "start", "gain_db")
KIND_COLUMNS = ("pause", "group")
NOISE_COLUMNS = ("noise", "noise_start", "snr_db")
ROOM_COLUMNS = ("room", "rt60", "microphone")  # position_1, position_2, … follow
CONDITIONS = {"corpora": ("within", "across"), "genders": ("same", "different", "unknown")}
PINK, BABBLE = "pink=", "babble="  # prefixes of noise that is not one recording
MOST_DB = 200.0  # largest gain and ratio in dB: beyond it, float32 overflows
LONGEST = 1e6  # largest time, s
_SABINE = 24.0 * math.log(10.0) / 343.0  # s/m, Sabine's constant for sound at 343 m/s

Place = tuple[float, float, float]


@dataclass(frozen=True)
class SourceRow:
    """One source of a mixture: joined files, cut from `start`, with a gain."""

    speaker: str
    paths: tuple[str, ...]  # files or parts, in this order, relative to the corpus root, with /
    start: float  # s, beginning of the cut in the joined files
    gain_db: float  # dB, relative to an active level of 0 dB
    pause: float = 0.0  # s of silence after each joined file
    group: str = ""  # group of speakers or sound classes, in a list drawn by kind


@dataclass(frozen=True)
class NoiseRow:
    """Noise of a mixture: a file, or a part of a file, from `start`."""

    # relative to the corpus root, `pink=SEED`, or `babble=PATH|PATH|…` for the sum of all of them
    path: str
    start: float  # s, beginning of the noise in the file
    snr_db: float  # dB, ratio of the loudest talker to the noise


@dataclass(frozen=True)
class RoomRow:
    """Room of a mixture: a shoebox with a corner at the origin; lengths in m, RT60 in s."""

    size: Place
    rt60: float
    microphone: Place
    positions: tuple[Place, ...]  # places of the talkers
    array: tuple[Place, ...] = ()  # further microphones; lists of conditions alone have them


@dataclass(frozen=True)
class MixtureRow:
    """One mixture of a list; it and each of its sources last `seconds`."""

    id: str
    list: str
    seed: int
    seconds: float
    corpora: str  # "within" one corpus or "across" several
    genders: str  # talkers' genders: "same", "different" or "unknown"
    sources: tuple[SourceRow, ...]
    # File of a rendered mixture, which is read as it is, like its sources; "" for other mixtures.
    mixture: str = ""
    noise: NoiseRow | None = None
    room: RoomRow | None = None
    channel: Channel | None = None

    @property
    def has_background(self) -> bool:
        """Whether the mixture differs from the sum of its sources."""
        return self.noise is not None or (self.channel is not None and self.channel.distorts)

    @property
    def where(self) -> str:
        """Return the beginning of messages about this mixture."""
        return f"mixture {self.id} of list {self.list}"

    @property
    def kind(self) -> str:
        """Return the kind, such as speech+environment; "" if the list has no groups."""
        if not all(source.group for source in self.sources):
            return ""
        groups = [source.group for source in self.sources]
        same = len({(source.group, source.speaker) for source in self.sources}) == 1
        return kind_name(groups, same and len(groups) > 1)


def gender_condition(genders: Iterable[str]) -> str:
    """Return the condition "same", "different" or "unknown" of genders "f", "m" or ""."""
    found = set(genders)
    return "unknown" if "" in found else "same" if len(found) == 1 else "different"


@dataclass(frozen=True)
class Fields:
    """Fields of one row; reading a wrong field raises InputError with its place."""

    where: str
    values: dict[str, str]

    def wrong(self, column: str, wanted: str) -> InputError:
        """Return the error for a field that is not `wanted`."""
        given = self.values.get(column, "")[:80]
        return InputError(f"{self.where}, column {column}: {given!r} is not {wanted}; correct it")

    def text(self, column: str) -> str:
        """Return a text that is not empty."""
        if not self.values[column]:
            raise self.wrong(column, "a name")
        return self.values[column]

    def has(self, column: str) -> bool:
        """Return true if the field exists and is not empty."""
        return bool(self.values.get(column))

    def number(self, column: str, low: float = -MOST_DB, most: float = MOST_DB) -> float:
        """Return a number from `low` to `most`."""
        try:
            value = float(self.values.get(column, ""))
        except ValueError:
            value = math.nan
        if not low <= value <= most:
            raise self.wrong(column, f"a number from {low:g} to {most:g}")
        return value

    def choice(self, column: str) -> str:
        """Return one of the column's CONDITIONS."""
        if self.values[column] not in CONDITIONS[column]:
            raise self.wrong(column, " or ".join(CONDITIONS[column]))
        return self.values[column]

    def place(self, column: str, room: Place | None = None) -> Place:
        """Return three numbers above zero, within `room` if it is given."""
        try:
            x, y, z = (float(word) for word in self.values.get(column, "").split())
        except ValueError:
            x = y = z = math.nan
        limits = room or (math.inf, math.inf, math.inf)
        if not all(0.0 < value < most for value, most in zip((x, y, z), limits, strict=True)):
            raise self.wrong(
                column, "three numbers of metres" + (" within the room" if room else "")
            )
        return x, y, z

    def path(self, column: str) -> str:
        """Return a single path."""
        (path, *more) = self.paths(column)
        if more:
            raise self.wrong(column, "one path")
        return path

    def noise(self, column: str) -> str:
        """Return a path, `pink=SEED` or `babble=PATH|PATH|…`."""
        text = self.values[column]
        if text.startswith(PINK):
            if not text.removeprefix(PINK).isdecimal():
                raise self.wrong(column, f"{PINK} and a whole number")
            return text
        if text.startswith(BABBLE):
            self.paths(column, BABBLE)
            return text
        return self.path(column)

    def channel(self, column: str) -> Channel:
        """Return a channel, such as `band=300-3400|codec=ulaw`."""
        try:
            return parse_channel(self.values[column])
        except ValueError as error:
            raise InputError(f"{self.where}, column {column}: {error}; correct it") from error

    def paths(self, column: str, prefix: str = "") -> tuple[str, ...]:
        """Return paths joined by |, relative to the corpus."""
        paths = tuple(self.values[column].removeprefix(prefix).split("|"))
        for path in map(PurePosixPath, paths):
            if not path.name or path.is_absolute() or ".." in path.parts:
                raise self.wrong(column, "paths relative to the corpus, joined by |")
        try:
            for name in paths:
                parse_part(name)
        except ValueError as error:
            raise self.wrong(column, "parts of recordings that end after they begin") from error
        return paths


def parse_row(fields: Fields, num_sources: int) -> MixtureRow:
    """Convert the fields of one row of a list.

    Args:
        fields: at least the columns COLUMNS and SOURCE_COLUMNS.
        num_sources: number of sources.

    Returns:
        The mixture.

    Raises:
        InputError: a field is wrong; the message names its column.
    """
    identity = fields.text("id")
    if identity != Path(identity).name or identity == "..":
        raise fields.wrong("id", "a file name")  # rendering a list uses the id as a file name
    seed = fields.number("seed", 0, 2.0**64)
    if seed != int(seed):
        raise fields.wrong("seed", "a whole number")
    seconds = fields.number("seconds", 0, LONGEST)
    if seconds <= 0:
        raise fields.wrong("seconds", "a positive number")
    sources = tuple(
        SourceRow(
            speaker=fields.text(f"speaker_{k}"),
            paths=fields.paths(f"paths_{k}"),
            start=fields.number(f"start_{k}", 0, LONGEST),
            gain_db=fields.number(f"gain_db_{k}"),
            pause=fields.number(f"pause_{k}", 0, LONGEST) if fields.has(f"pause_{k}") else 0.0,
            group=fields.values.get(f"group_{k}", ""),
        )
        for k in range(1, num_sources + 1)
    )
    return MixtureRow(
        id=identity,
        list=fields.text("list"),
        seed=int(seed),
        seconds=seconds,
        corpora=fields.choice("corpora"),
        genders=fields.choice("genders"),
        sources=sources,
        mixture=fields.path("mixture") if fields.has("mixture") else "",
        noise=_parse_noise(fields) if fields.has("noise") else None,
        room=_parse_room(fields, num_sources) if fields.has("room") else None,
        channel=fields.channel("channel") if fields.has("channel") else None,
    )


def _parse_noise(fields: Fields) -> NoiseRow:
    """Convert the fields of the noise."""
    return NoiseRow(
        path=fields.noise("noise"),
        start=fields.number("noise_start", 0, LONGEST),
        snr_db=fields.number("snr_db"),
    )


def _parse_room(fields: Fields, num_sources: int) -> RoomRow:
    """Convert the fields of the room."""
    size = fields.place("room")
    rt60 = fields.number("rt60", 0)
    # Shortest RT60 by Sabine's formula, with full absorption.
    shortest = _SABINE * math.prod(size) / (2.0 * sum(math.prod(size) / side for side in size))
    if rt60 <= shortest:
        raise fields.wrong("rt60", f"longer than the {shortest:.3f} s that such a room can have")
    return RoomRow(
        size=size,
        rt60=rt60,
        microphone=fields.place("microphone", size),
        positions=tuple(fields.place(f"position_{k + 1}", size) for k in range(num_sources)),
    )


def numbered_columns(names: Sequence[str], num_sources: int) -> list[str]:
    """Return the columns of all sources: speaker_1, paths_1, …, speaker_2, paths_2, …"""
    return [f"{name}_{k}" for k in range(1, num_sources + 1) for name in names]


def optional_columns(num_sources: int) -> list[str]:
    """Return the columns that stand only in lists that need them, in their order."""
    positions = [f"position_{k + 1}" for k in range(num_sources)]
    return ["mixture", *NOISE_COLUMNS, *ROOM_COLUMNS, *positions, "channel"]


def optional_fields(row: MixtureRow) -> dict[str, object]:
    """Return the optional columns of a row with their values."""
    fields: dict[str, object] = {}
    if row.mixture:
        fields["mixture"] = row.mixture
    if row.noise:
        noise = (row.noise.path, row.noise.start, row.noise.snr_db)
        fields |= zip(NOISE_COLUMNS, noise, strict=True)
    if row.room:
        room = (_joined(row.room.size), row.room.rt60, _joined(row.room.microphone))
        fields |= zip(ROOM_COLUMNS, room, strict=True)
        places = enumerate(row.room.positions, 1)
        fields |= {f"position_{k}": _joined(place) for k, place in places}
    if row.channel and row.channel.text:
        fields["channel"] = row.channel.text
    return fields


def _joined(place: Place) -> str:
    """Format the coordinates of a place."""
    return " ".join(f"{value:g}" for value in place)
