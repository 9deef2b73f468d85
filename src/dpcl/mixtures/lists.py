"""Frozen mixture lists: every mixture of a test set is one row of a CSV file, down to its gains."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.mixtures.kinds import kind_name
from dpcl.mixtures.mixing import mix_sources
from dpcl.signal.audio import read_mono, write_audio

COLUMNS = ("id", "list", "seed", "seconds", "corpora", "genders")
SOURCE_COLUMNS = ("speaker", "paths", "start", "gain_db")  # each with _1, _2, … behind it
KIND_COLUMNS = ("pause", "group")  # so too, in lists that were drawn by kind
CONDITIONS = {"corpora": ("within", "across"), "genders": ("same", "different", "unknown")}


@dataclass(frozen=True)
class SourceRow:
    """One talker of a mixture: files joined in this order, cut from `start`, at a gain."""

    speaker: str
    paths: tuple[str, ...]  # relative to the corpus root, with forward slashes
    start: float  # s, in the joined files
    gain_db: float  # over an active level of 0 dB
    pause: float = 0.0  # s of silence behind each file that is joined
    group: str = ""  # of speakers or sound classes that it was drawn from, in a list of kinds


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

    @property
    def kind(self) -> str:
        """Which sounds meet, such as speech+environment; "" where the list does not say."""
        if not all(source.group for source in self.sources):
            return ""
        groups = [source.group for source in self.sources]
        same = len({(source.group, source.speaker) for source in self.sources}) == 1
        return kind_name(groups, same and len(groups) > 1)


def write_list(rows: Sequence[MixtureRow], path: str | os.PathLike[str]) -> None:
    """Write the rows as a CSV file, atomically, over what was there."""
    path = Path(path)
    num_sources = max((len(row.sources) for row in rows), default=0)
    by_kind = any(source.pause or source.group for row in rows for source in row.sources)
    columns = (*SOURCE_COLUMNS, *(KIND_COLUMNS if by_kind else ()))
    header = [*COLUMNS, *(f"{name}_{k + 1}" for k in range(num_sources) for name in columns)]
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            for row in rows:
                fields: list[object] = [getattr(row, name) for name in COLUMNS]
                for source in row.sources:
                    values = {**vars(source), "paths": "|".join(source.paths)}
                    fields += [values[name] for name in columns]
                writer.writerow(fields)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}).") from error
    finally:
        partial.unlink(missing_ok=True)


def read_list(path: str | os.PathLike[str]) -> list[MixtureRow]:
    """Read and check a list; raises InputError naming the row and the column that is wrong."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            header = list(reader.fieldnames or [])
            numbered = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a mixture list ({error}).") from error
    num_sources = sum(name.startswith("speaker_") for name in header)
    expected = [*COLUMNS]
    for k in range(max(num_sources, 1)):
        expected += [f"{name}_{k + 1}" for name in SOURCE_COLUMNS]
    missing = [name for name in expected if name not in header]
    if missing:
        raise InputError(f"{path} is no mixture list: it has no column {', '.join(missing)}.")
    if not numbered:
        raise InputError(f"{path} lists no mixtures: draw them with dpcl mix.")

    rows: list[MixtureRow] = []
    seen: set[str] = set()
    for number, fields in numbered:
        if "" in fields:
            raise InputError(f"{path} row {number} has more fields than the header: correct it.")
        row = _parse_row(_Fields(f"{path} row {number}", fields), num_sources)
        if row.id in seen:
            raise InputError(f"{path} row {number}, column id: {row.id} occurs twice.")
        seen.add(row.id)
        rows.append(row)
    return rows


@dataclass(frozen=True)
class _Fields:
    """The fields of one row, each read with a sentence that says where it went wrong."""

    where: str
    values: dict[str, str]

    def wrong(self, column: str, wanted: str) -> InputError:
        return InputError(
            f"{self.where}, column {column}: {self.values[column]!r} is not {wanted}."
        )

    def text(self, column: str) -> str:
        if not self.values[column]:
            raise self.wrong(column, "a name")
        return self.values[column]

    def number(self, column: str, low: float = -math.inf) -> float:
        try:
            value = float(self.values[column])
        except ValueError:
            value = math.nan
        if not low <= value < math.inf or value == -math.inf:
            raise self.wrong(column, f"a number{'' if low == -math.inf else f' from {low:g} on'}")
        return value

    def choice(self, column: str) -> str:
        if self.values[column] not in CONDITIONS[column]:
            raise self.wrong(column, " or ".join(CONDITIONS[column]))
        return self.values[column]

    def paths(self, column: str) -> tuple[str, ...]:
        paths = tuple(self.values[column].split("|"))
        for path in map(PurePosixPath, paths):
            if not path.name or path.is_absolute() or ".." in path.parts:
                raise self.wrong(column, "paths relative to the corpus, joined by |")
        return paths


def _parse_row(fields: _Fields, num_sources: int) -> MixtureRow:
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
            pause=fields.number(f"pause_{k}", 0) if f"pause_{k}" in fields.values else 0.0,
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
    )


def check_files(rows: Sequence[MixtureRow], root: str | os.PathLike[str]) -> None:
    """Raise InputError naming the first row, and its file, that is missing below `root`."""
    for row in rows:
        for path in (Path(root) / path for source in row.sources for path in source.paths):
            if not path.is_file():
                raise InputError(
                    f"Mixture {row.id} of list {row.list}: {path} does not exist; correct the row"
                    " or copy the file."
                )


def render_mixture(
    row: MixtureRow, root: str | os.PathLike[str], sample_rate: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mixture (T,) and its sources (C, T) at `sample_rate`, from the corpus below `root`.

    Each source is read at that rate, joined with its pauses, cut, brought to its active level and
    gain; then all get one scale (see mix_sources). Raises InputError naming the row and the file.
    """
    samples = round(row.seconds * sample_rate)
    signals = []
    for source in row.sources:
        try:
            pieces = [read_mono(Path(root) / path, sample_rate) for path in source.paths]
        except InputError as error:
            raise InputError(f"Mixture {row.id} of list {row.list}: {error}") from error
        if source.pause:
            silence = np.zeros(round(source.pause * sample_rate), np.float32)
            pieces = [part for piece in pieces for part in (piece, silence)]
        start = round(source.start * sample_rate)
        signal = np.concatenate(pieces)[start : start + samples]
        missing = samples - len(signal)
        if missing > len(pieces) + 1:  # less is rounding: half a sample for each length
            raise InputError(
                f"Mixture {row.id} of list {row.list}: {'|'.join(source.paths)} ends"
                f" {missing / sample_rate:.3f} s too early; is it the same corpus?"
            )
        signals.append(np.pad(signal, (0, missing)))
    sources = mix_sources(signals, [source.gain_db for source in row.sources], sample_rate)
    return sources.sum(axis=0), sources


def render_list(
    rows: Sequence[MixtureRow],
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    sample_rate: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write out/mix/ID.wav and out/s1/ID.wav, out/s2/ID.wav, … of 16 bits, replacing older ones.

    Sources are rounded to 16 bits before they are summed, so the files add up bit by bit.
    """
    out = Path(out)
    check_files(rows, root)
    for done, row in enumerate(rows, 1):
        _, sources = render_mixture(row, root, sample_rate)
        sources = np.rint(sources * 32768.0) / 32768.0
        named = [("mix", sources.sum(axis=0))]
        named += [(f"s{k}", source) for k, source in enumerate(sources, 1)]
        for folder, samples in named:
            (out / folder).mkdir(parents=True, exist_ok=True)
            write_audio(out / folder / f"{row.id}.wav", samples, sample_rate)
        if progress is not None:
            progress(done, len(rows))
