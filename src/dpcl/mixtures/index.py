"""Indexes of corpora: recordings below a folder, their splits, and the CSV that read_corpus reads.

A layout (dpcl.mixtures.layouts) lists the recordings of a corpus as entries. This module finds
files, assigns splits, measures lengths and writes the index.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from dpcl.errors import InputError
from dpcl.io import Progress, Report, as_report, atomic, no_report
from dpcl.mixtures.corpus import COLUMNS, is_audio, measure_seconds
from dpcl.signal import av
from dpcl.signal.audio import Part, plain_seconds

SPLITS = ("train", "valid", "test")
VALID_FROM, TEST_FROM = 0.8, 0.9  # hashes in [0, 1) at which valid and test begin; train below
NEEDS_AV = 'format needs PyAV: pip install "dpcl[av]"'
UNREADABLE = {".wv2": "second microphone"}

INDEX = "index.csv"  # index in the folder of the corpus
# Names of splits, and the split of a corpus; other names are split by a hash of the talker.
NAMES = {"train": "train", "validation": "valid", "valid": "valid", "dev": "valid", "test": "test"}


@dataclass(frozen=True)
class Entry:
    """Recording of one talker or sound class."""

    part: Part
    speaker: str
    corpus: str
    gender: str = ""  # "f", "m" or ""
    split: str = ""  # one of SPLITS, or "" for the split of the speaker's name
    text: str = ""
    seconds: float = 0.0  # 0 until measured


class Omitted:
    """Files that are not in the index, by reason."""

    def __init__(self) -> None:
        self.files: dict[str, list[str]] = {}

    def add(self, path: str | os.PathLike[str], reason: str) -> None:
        """Record one file."""
        name = os.fsencode(path).decode("utf-8", "backslashreplace")
        self.files.setdefault(reason, []).append(name)


class Tree:
    """Files of a corpus. Every folder is read once, so links cannot form a loop.

    Args:
        root: folder of the corpus.

    Raises:
        InputError: root is not a folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"{root}: is not a folder; give the folder of the corpus")
        self.root = root
        self.omitted = Omitted()
        self._read: set[tuple[int, int]] = set()

    def need(self, name: str, remedy: str) -> Path:
        """Return the file or folder `name` of the published tree, or raise InputError."""
        path = self.root / name
        if not path.exists():
            raise InputError(f"{self.root}: {name} is missing; {remedy}")
        return path

    def folders(self, folder: Path) -> list[Path]:
        """Return the visible folders directly in `folder`, sorted by name."""
        return [path for path in self._children(folder) if path.is_dir()]

    def omit_files(self, folder: Path, reason: str) -> None:
        """Omit the recordings directly in `folder`."""
        for path in self._children(folder):
            if is_audio(path) and path.is_file():
                self.omitted.add(path, reason)

    def recordings(self, folder: Path) -> Iterator[Path]:
        """Yield the recordings below `folder`, sorted by name."""
        try:
            state = folder.stat()
        except OSError:
            self.omitted.add(folder, "folder cannot be read")
            return
        if (state.st_dev, state.st_ino) in self._read:
            self.omitted.add(folder, "link to a folder that is already listed")
            return
        self._read.add((state.st_dev, state.st_ino))
        for path in self._children(folder):
            reason = UNREADABLE.get(path.suffix.lower())
            encoded = is_audio(path, av.SUFFIXES)  # formats that libsndfile lacks
            if path.is_dir():
                if path.is_symlink() and folder.resolve().is_relative_to(path.resolve()):
                    self.omitted.add(path, "link to a folder that contains it")
                else:
                    yield from self.recordings(path)
            elif reason is not None:
                self.omitted.add(path, reason)
            elif encoded and not av.available():
                self.omitted.add(path, NEEDS_AV)
            elif encoded or is_audio(path):
                if path.is_file():
                    yield path
                else:
                    self.omitted.add(path, "link to a file that does not exist")

    def _children(self, folder: Path) -> list[Path]:
        """Return the visible files and folders directly in `folder`, sorted by name."""
        try:
            found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except OSError:
            self.omitted.add(folder, "folder cannot be read")
            return []
        readable = []
        for path in found:
            if _is_text(path.name):
                readable.append(path)
            else:
                self.omitted.add(path, "name is not valid Unicode")
        return readable


def _is_text(name: str) -> bool:
    """Return true if a name is valid Unicode."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Unquoted(csv.excel):
    """CSV dialect in which quotation marks are part of a field."""

    quoting = csv.QUOTE_NONE


def read_table(
    path: Path, columns: Sequence[str], delimiter: str = ",", quoted: bool = True
) -> list[dict[str, str]]:
    """Read a table with a header.

    Args:
        path: UTF-8 file.
        columns: names that the header must have.
        delimiter: character between fields.
        quoted: fields may stand in quotation marks; false: these are part of the field.

    Returns:
        One dictionary per row; names and values without surrounding blanks.

    Raises:
        InputError: the file cannot be read, or has no column of that name.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            dialect = csv.excel if quoted else _Unquoted
            reader = csv.DictReader(file, restval="", dialect=dialect, delimiter=delimiter)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            missing = [name for name in columns if name not in header]
            if missing:
                raise InputError(
                    f"{path}: the column `{missing[0]}` is missing; unpack the file again"
                )
            # Extra fields of a row have the key None.
            return [
                {name: value.strip() for name, value in row.items() if name is not None}
                for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); unpack the file again") from error


def split_of_name(name: str) -> str:
    """Return the split of a talker or class: 80 % train, 10 % valid, 10 % test, by SHA-256.

    Example:
        >>> split_of_name("p225")
        'train'
    """
    digest = hashlib.sha256(name.encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if share < VALID_FROM else "valid" if share < TEST_FROM else "test"


def assign_splits(entries: Iterable[Entry], by_name: bool) -> list[Entry]:
    """Assign each entry its published split, or by its speaker if there is none or `by_name`."""
    return [
        replace(entry, split=split_of_name(entry.speaker)) if by_name or not entry.split else entry
        for entry in entries
    ]


def keep_apart(entries: Sequence[Entry], omitted: Omitted) -> list[Entry]:
    """Omit recordings so that each talker is in one split: test first, valid second."""
    splits: dict[tuple[str, str], str] = {}
    for entry in entries:
        talker = (entry.corpus, entry.speaker)
        splits[talker] = max(splits.get(talker, entry.split), entry.split, key=SPLITS.index)
    kept = []
    for entry in entries:
        split = splits[entry.corpus, entry.speaker]
        if entry.split == split:
            kept.append(entry)
        else:
            omitted.add(entry.part.path, f"its talker is also in the split {split}")
    return kept


def measure(entries: Sequence[Entry], omitted: Omitted, report: Report = no_report) -> list[Entry]:
    """Return the entries with their lengths; omit entries that cannot be read as audio."""

    def seconds(entry: Entry) -> float | None:
        """Return the length of an entry, or None if it cannot be read."""
        if entry.seconds:
            return entry.seconds
        try:
            return measure_seconds(entry.part.path, "")
        except InputError:
            return None

    measured = []
    with ThreadPoolExecutor(8) as pool:  # reading headers waits for the disk
        for done, (entry, length) in enumerate(
            zip(entries, pool.map(seconds, entries), strict=True), 1
        ):
            if length is None:
                omitted.add(entry.part.path, "no readable audio")
            else:
                measured.append(replace(entry, seconds=length))
            report(Progress(done, len(entries), "recordings"))
    return measured


def write_index(entries: Iterable[Entry], path: Path) -> None:
    """Write the CSV index atomically. Its paths are relative to its folder.

    Raises:
        InputError: the index cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        base = path.parent.resolve()
        with atomic(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow((*COLUMNS, "seconds", "text"))
            for entry in sorted(entries, key=lambda e: (SPLITS.index(e.split), str(e.part.path))):
                place = replace(entry.part, path=Path(os.path.relpath(entry.part.path, base)))
                writer.writerow(
                    (
                        entry.split,
                        entry.corpus,
                        entry.speaker,
                        entry.gender,
                        place.name(Path()),
                        plain_seconds(entry.seconds),
                        " ".join(entry.text.split()),
                    )
                )
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); give another --out"
        ) from error


@dataclass(frozen=True)
class SplitSummary:
    """Size of one split."""

    speakers: int
    recordings: int
    hours: float


def summarise(entries: Sequence[Entry]) -> dict[str, SplitSummary]:
    """Return talkers, recordings and hours of each split, empty ones included."""
    recordings = Counter(entry.split for entry in entries)
    speakers = Counter(s for s, *_ in {(e.split, e.corpus, e.speaker) for e in entries})
    hours = dict.fromkeys(SPLITS, 0.0)
    for entry in entries:
        hours[entry.split] += entry.seconds / 3600
    return {
        split: SplitSummary(speakers[split], recordings[split], round(hours[split], 3))
        for split in SPLITS
    }


def write_corpus(
    dataset: Any,
    folder: str | os.PathLike[str],
    speaker: str = "speaker_id",
    gender: str | None = None,
    text: str | None = None,
    audio: str = "audio",
    name: str = "dataset",
    progress: Any = None,
) -> Path:
    """Write the recordings of a data set and their index, for `--corpus` and `read_corpus`.

    A talker who occurs in several splits stays in one of them: test before valid before train.

    Args:
        dataset: `datasets.Dataset`, `DatasetDict` (its splits are kept) or an iterable of rows.
            A row holds the file's bytes, its path, or samples and `sampling_rate`.
        folder: folder of the corpus; gets index.csv and audio/.
        speaker: column of the talkers.
        gender: column of their gender (f, m, female, male); None without one.
        text: column of the words; None without one.
        audio: column of the recordings.
        name: name of the corpus in the index.
        progress: function of the recordings done and in all, or a bar of tqdm or rich.

    Returns:
        Path of the index.

    Raises:
        InputError: A column is missing, a row holds no audio, or the folder holds an index.

    Example:
        >>> import tempfile
        >>> rows = [
        ...     {"speaker_id": who, "audio": {"array": np.zeros(800), "sampling_rate": 8000}}
        ...     for who in (7, 8)
        ... ]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_corpus({"test": rows}, folder).read_text().count("test,")
        2
    """
    folder = Path(folder)
    if (folder / INDEX).exists():
        raise InputError(f"{folder / INDEX}: exists; give another folder")
    splits = dataset if isinstance(dataset, Mapping) else {"": dataset}
    columns = {"speaker": speaker, "gender": gender, "text": text}
    entries: list[Entry] = []
    for split, rows in splits.items():
        labels = getattr(rows, "features", None) or {}
        for number, row in enumerate(_encoded(rows, audio)):
            where = f"row {number}{f' of {split}' if split else ''}"
            found = {
                key: _name(_cell(row, column, where), labels.get(column))
                for key, column in columns.items()
                if column
            }
            stem = f"{split or 'all'}-{number:07d}"
            path = _write(_cell(row, audio, where), folder / "audio", stem, where)
            sex = found.get("gender", "").lower()[:1]
            entries.append(
                Entry(
                    Part(path),
                    found["speaker"],
                    name,
                    sex if sex in ("f", "m") else "",
                    NAMES.get(split, ""),
                    found.get("text", ""),
                )
            )
    if not entries:
        raise InputError("the data set holds no rows; give another one, or another split")
    omitted = Omitted()
    report: Report = as_report(progress)
    kept = measure(keep_apart(assign_splits(entries, False), omitted), omitted, report)
    assert {entry.split for entry in kept} <= set(SPLITS)
    write_index(kept, folder / INDEX)
    return folder / INDEX


def _encoded(rows: Any, audio: str) -> Iterable[Mapping[str, Any]]:
    """Return rows with the files of their recordings, which `datasets` otherwise decodes."""
    features = getattr(rows, "features", None)
    if not features:
        return rows  # type: ignore[no-any-return]
    if audio not in features:
        names = ", ".join(features)
        raise InputError(f"the data set: has no column {audio!r}; name one of {names}")
    from datasets import Audio

    plain = rows.with_format(None)  # no tensors
    return plain.cast_column(audio, Audio(decode=False))  # type: ignore[no-any-return]


def _name(value: Any, feature: Any) -> str:
    """Return the text of a cell; a class label is a number, whose name its feature has."""
    if isinstance(value, int) and hasattr(feature, "int2str"):
        return str(feature.int2str(value))
    return str(value)


def _cell(row: Mapping[str, Any], column: str, where: str) -> Any:
    """Return the value of a column, or raise InputError."""
    if column not in row:
        raise InputError(
            f"{where}: has no column {column!r}; name one of {', '.join(map(str, row))}"
        )
    return row[column]


def _write(recording: Any, folder: Path, stem: str, where: str) -> Path:
    """Return the file of a recording; it is written unless the row names a file."""
    recording = recording if isinstance(recording, Mapping) else {}
    data, path = recording.get("bytes"), recording.get("path")
    if data is None and recording.get("array") is not None:
        buffer = io.BytesIO()
        samples = np.asarray(recording["array"], np.float32)
        soundfile.write(buffer, samples, recording["sampling_rate"], "FLOAT", format="WAV")
        data, path = buffer.getvalue(), "recording.wav"
    if data is None:
        if path and Path(path).is_file():
            return Path(path).absolute()
        raise InputError(f"{where}: holds no audio; give the column of the recordings as audio")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{stem}{Path(path or '.wav').suffix or '.wav'}"
    with atomic(target) as partial:
        partial.write_bytes(data)
    return target
