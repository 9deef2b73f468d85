"""The rows of a mixture list, and the fields that they are read from."""

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
SOURCE_COLUMNS = ("speaker", "paths", "start", "gain_db")  # each with _1, _2, … behind it
KIND_COLUMNS = ("pause", "group")  # so too, in lists that were drawn by kind
NOISE_COLUMNS = ("noise", "noise_start", "snr_db")
ROOM_COLUMNS = ("room", "rt60", "microphone")  # and position_1, position_2, …
CONDITIONS = {"corpora": ("within", "across"), "genders": ("same", "different", "unknown")}
PINK, BABBLE = "pink=", "babble="  # noise other than one recording
_SABINE = 24.0 * math.log(10.0) / 343.0  # s/m, at 343 m/s

Place = tuple[float, float, float]


@dataclass(frozen=True)
class SourceRow:
    """One talker of a mixture: files joined in this order, cut from `start`, at a gain."""

    speaker: str
    paths: tuple[str, ...]  # or parts of them; relative to the corpus root, with forward slashes
    start: float  # s, in the joined files
    gain_db: float  # over an active level of 0 dB
    pause: float = 0.0  # s of silence behind each file that is joined
    group: str = ""  # of speakers or sound classes that it was drawn from, in a list of kinds


@dataclass(frozen=True)
class NoiseRow:
    """The noise of a mixture: a file, or a part of one, from `start` on."""

    # relative to the corpus root, `pink=SEED`, or `babble=PATH|PATH|…` for all of them at once
    path: str
    start: float  # s
    snr_db: float  # of the loudest talker to it


@dataclass(frozen=True)
class RoomRow:
    """The room of a mixture, a shoebox with a corner at the origin; all in m, RT60 in s."""

    size: Place
    rt60: float
    microphone: Place
    positions: tuple[Place, ...]  # of the talkers


@dataclass(frozen=True)
class MixtureRow:
    """One mixture of a list; it lasts `seconds`, and so does each of its sources."""

    id: str
    list: str
    seed: int
    seconds: float
    corpora: str  # "within" one or "across" several
    genders: str  # "same", "different" or "unknown"
    sources: tuple[SourceRow, ...]
    # Where the mixture was rendered before, its file: it and its sources are taken as they are.
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
        """How messages begin that are about this mixture."""
        return f"Mixture {self.id} of list {self.list}"

    @property
    def kind(self) -> str:
        """Which sounds meet, such as speech+environment; "" where the list does not say."""
        if not all(source.group for source in self.sources):
            return ""
        groups = [source.group for source in self.sources]
        same = len({(source.group, source.speaker) for source in self.sources}) == 1
        return kind_name(groups, same and len(groups) > 1)


def gender_condition(genders: Iterable[str]) -> str:
    """What a row says of its talkers' genders, "f", "m" or ""."""
    found = set(genders)
    return "unknown" if "" in found else "same" if len(found) == 1 else "different"


@dataclass(frozen=True)
class Fields:
    """The fields of one row, each read with a sentence that says where it went wrong."""

    where: str
    values: dict[str, str]

    def wrong(self, column: str, wanted: str) -> InputError:
        return InputError(
            f"{self.where}, column {column}: {self.values.get(column, '')!r} is not {wanted}."
        )

    def text(self, column: str) -> str:
        if not self.values[column]:
            raise self.wrong(column, "a name")
        return self.values[column]

    def has(self, column: str) -> bool:
        return bool(self.values.get(column))

    def number(self, column: str, low: float = -math.inf) -> float:
        try:
            value = float(self.values.get(column, ""))
        except ValueError:
            value = math.nan
        if not low <= value < math.inf or value == -math.inf:
            raise self.wrong(column, f"a number{'' if low == -math.inf else f' from {low:g} on'}")
        return value

    def choice(self, column: str) -> str:
        if self.values[column] not in CONDITIONS[column]:
            raise self.wrong(column, " or ".join(CONDITIONS[column]))
        return self.values[column]

    def place(self, column: str, room: Place | None = None) -> Place:
        """Three numbers above zero and, for a place in a room, within it."""
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
        (path, *more) = self.paths(column)
        if more:
            raise self.wrong(column, "one path")
        return path

    def noise(self, column: str) -> str:
        """A path, `pink=SEED` or `babble=PATH|PATH|…`."""
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
        try:
            return parse_channel(self.values[column])
        except ValueError as error:
            raise InputError(f"{self.where}, column {column}: {error}.") from error

    def paths(self, column: str, prefix: str = "") -> tuple[str, ...]:
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
    """A row of a list of `num_sources` talkers; raises InputError naming the column that is wrong.

    The columns of COLUMNS and SOURCE_COLUMNS must be there.
    """
    identity = fields.text("id")
    if identity != Path(identity).name or identity == "..":
        raise fields.wrong("id", "a file name")  # it becomes one when the list is rendered
    seed = fields.number("seed", 0)
    if seed != int(seed):
        raise fields.wrong("seed", "a whole number")
    seconds = fields.number("seconds")
    if seconds <= 0:
        raise fields.wrong("seconds", "a positive number")
    sources = tuple(
        SourceRow(
            speaker=fields.text(f"speaker_{k}"),
            paths=fields.paths(f"paths_{k}"),
            start=fields.number(f"start_{k}", 0),
            gain_db=fields.number(f"gain_db_{k}"),
            pause=fields.number(f"pause_{k}", 0) if fields.has(f"pause_{k}") else 0.0,
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
    return NoiseRow(
        path=fields.noise("noise"),
        start=fields.number("noise_start", 0),
        snr_db=fields.number("snr_db"),
    )


def _parse_room(fields: Fields, num_sources: int) -> RoomRow:
    size = fields.place("room")
    rt60 = fields.number("rt60")
    # Sabine: with this much absorption nothing is left to come back.
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
    """The columns of each source: speaker_1, paths_1, …, speaker_2, paths_2, …"""
    return [f"{name}_{k}" for k in range(1, num_sources + 1) for name in names]


def optional_columns(num_sources: int) -> list[str]:
    """Columns that stand only in lists that need them, in their order."""
    positions = [f"position_{k + 1}" for k in range(num_sources)]
    return ["mixture", *NOISE_COLUMNS, *ROOM_COLUMNS, *positions, "channel"]


def optional_fields(row: MixtureRow) -> dict[str, object]:
    """What stands in the optional columns of a row, as far as it has them."""
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
    return " ".join(f"{value:g}" for value in place)
