"""Mixture lists: CSV files that fix every mixture of a test set, including gains.

A folder of rendered mixtures (mix/, s1/, s2/, …, as in wsj0-mix and similar corpora) is a list too.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath

from dpcl.errors import InputError
from dpcl.io import atomic
from dpcl.mixtures.channels import Channel, parse_channel
from dpcl.mixtures.corpus import is_audio, measure_seconds
from dpcl.mixtures.rooms import shortest_rt60
from dpcl.mixtures.rows import BABBLE, PINK, MixtureRow, NoiseRow, Place, RoomRow, SourceRow
from dpcl.signal.audio import parse_part

COLUMNS = ("id", "list", "seed", "seconds", "corpora", "genders")
# Columns of each source, with the suffix _1, _2, …; KIND_COLUMNS only in lists drawn by kind.
SOURCE_COLUMNS = ("speaker", "paths", "start", "gain_db")
KIND_COLUMNS = ("pause", "group")
NOISE_COLUMNS = ("noise", "noise_start", "snr_db")
ROOM_COLUMNS = ("room", "rt60", "microphone")  # position_1, position_2, … follow
CONDITIONS = {"corpora": ("within", "across"), "genders": ("same", "different", "unknown")}
MOST_DB = 200.0  # largest gain and ratio in dB: beyond it, float32 overflows
LONGEST = 1e6  # largest time, s


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
    shortest = shortest_rt60(size)
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


def write_list(rows: Sequence[MixtureRow], path: str | os.PathLike[str]) -> None:
    """Write the rows as a CSV file, atomically, replacing an existing file; make its folder.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    num_sources = max((len(row.sources) for row in rows), default=0)
    by_kind = any(source.pause or source.group for row in rows for source in row.sources)
    columns = (*SOURCE_COLUMNS, *(KIND_COLUMNS if by_kind else ()))
    header = [*COLUMNS, *numbered_columns(columns, num_sources)]
    optional = [optional_fields(row) for row in rows]
    additions = [
        name for name in optional_columns(num_sources) if any(name in fields for fields in optional)
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header + additions)
            for row, optional_row in zip(rows, optional, strict=True):
                fields: list[object] = [getattr(row, name) for name in COLUMNS]
                for source in row.sources:
                    values = {**vars(source), "paths": "|".join(source.paths)}
                    fields += [values[name] for name in columns]
                fields += [""] * (len(header) - len(fields))
                fields += [optional_row.get(name, "") for name in additions]
                writer.writerow(fields)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); give another path"
        ) from error


def read_list(path: str | os.PathLike[str]) -> list[MixtureRow]:
    """Read and check a list, or a folder of rendered mixtures (see `rendered_rows`).

    Raises:
        InputError: a row or a column is wrong or unknown; the message names it.
    """
    path = Path(path)
    if path.is_dir():
        return rendered_rows(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            header = list(reader.fieldnames or [])
            numbered = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as a mixture list ({error}); give another list"
        ) from error
    for separator, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and header[0].count(separator) > 1:
            raise InputError(f"{path}: its fields are separated by {word}; separate them by commas")
    num_sources = sum(name.startswith("speaker_") for name in header)
    expected = [*COLUMNS, *numbered_columns(SOURCE_COLUMNS, max(num_sources, 1))]
    missing = [name for name in expected if name not in header]
    if missing:
        raise InputError(
            f"{path} is no mixture list: it has no column {', '.join(missing)}; give another list"
        )
    by_kind = numbered_columns(KIND_COLUMNS, num_sources)
    known = {*expected, *by_kind, *optional_columns(num_sources)}
    unknown = [name for name in header if name and name not in known]
    if unknown:
        raise InputError(f"{path} has an unknown column {unknown[0]}; correct or remove it")
    if not numbered:
        raise InputError(f"{path} lists no mixtures; draw them with `dpcl mix`")

    rows: list[MixtureRow] = []
    seen: set[str] = set()
    for number, fields in numbered:
        if "" in fields:
            raise InputError(f"{path} row {number} has more fields than the header; correct it")
        row = parse_row(Fields(f"{path} row {number}", fields), num_sources)
        if row.id in seen:
            raise InputError(f"{path} row {number}, column id: {row.id} occurs twice; rename one")
        seen.add(row.id)
        rows.append(row)
    return rows


def rendered_rows(path: str | os.PathLike[str]) -> list[MixtureRow]:
    """Return the mixtures of a folder, sorted by name; the speakers are unknown.

    `path` holds mix/, s1/, s2/, … with files of the same names. Or it is one of several folders of
    mixtures (mix_clean, mix_both, mix_single; mix_both_reverb). Then s1, s2, … lie in the same
    folder as `path`, or s1_reverb, … as in WHAMR!. A mix_single uses s1 alone. Paths in the rows
    are relative to the folder of the sources, the root of such a list (see `rendered_root`).

    Raises:
        InputError: the folder has another structure, or a file is missing; the message names the
            first one.
    """
    path = Path(path)
    root, mixtures = _places(path)
    folders = _source_folders(root, mixtures.name) if mixtures.is_dir() else []
    if not folders:
        kinds = ", ".join(sorted(kind.name for kind in path.glob("mix_*") if kind.is_dir()))
        raise InputError(
            f"{path} is no folder of rendered mixtures: it has no mix/ with s1/, s2/, … beside it;"
            f" give {f'one of its {kinds}' if kinds else 'another folder'}"
        )
    rows = []
    for file in sorted(mixtures.iterdir()):
        if not is_audio(file):
            continue
        paths = [f"{folder}/{file.name}" for folder in folders]
        for name in paths:
            if not (root / name).is_file():
                raise InputError(f"{file} has no source {root / name}; copy it, or remove both")
        sources = tuple(
            SourceRow(folder, (name,), 0.0, 0.0)
            for folder, name in zip(folders, paths, strict=True)
        )
        rows.append(
            MixtureRow(
                id=file.stem,
                list=root.name or "rendered",
                seed=0,
                seconds=measure_seconds(file, str(path)),
                corpora="within",
                genders="unknown",
                sources=sources,
                mixture=f"{mixtures.name}/{file.name}",
            )
        )
    if not rows:
        raise InputError(f"{mixtures} holds no audio; give a folder of rendered mixtures")
    return rows


def rendered_root(path: str | os.PathLike[str], rows: Sequence[MixtureRow]) -> Path | None:
    """Return the folder that the paths of rendered rows are relative to; None for rows of a corpus.

    Args:
        path: the folder that `rendered_rows` read, or a list in the folder of the rendered files.
        rows: the rows.
    """
    path = Path(path)
    if path.is_dir():
        return _places(path)[0]
    return path.parent if all(row.mixture for row in rows) else None


def _places(path: Path) -> tuple[Path, Path]:
    """Return the root of a folder of rendered mixtures, and the folder of the mixtures."""
    if path.name in ("", ".."):  # a path without a name has no parent
        path = path.resolve()
    if path.name.startswith("mix") and not (path / "mix").is_dir():
        return path.parent, path
    return path, path / "mix"


def _source_folders(root: Path, mixtures: str) -> list[str]:
    """Return s1, s2, … beside the folder of mixtures, or those with its variant's suffix."""
    variant = "_" + mixtures.rpartition("_")[2]
    for suffix in ("", variant):
        folders = []
        for k in count(1):
            if not (root / f"s{k}{suffix}").is_dir():
                break
            folders.append(f"s{k}{suffix}")
        if folders:
            return folders[:1] if mixtures.startswith("mix_single") else folders
    return []
