"""Data sets of the Hugging Face library `datasets` as corpora: recordings and their index."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from dpcl.errors import InputError
from dpcl.io import Report, as_report, atomic
from dpcl.mixtures.index import (
    SPLITS,
    Entry,
    Omitted,
    assign_splits,
    keep_apart,
    measure,
    write_index,
)
from dpcl.mixtures.parts import Part

INDEX = "index.csv"  # index in the folder of the corpus
# Names of splits, and the split of a corpus; other names are split by a hash of the talker.
NAMES = {"train": "train", "validation": "valid", "valid": "valid", "dev": "valid", "test": "test"}


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
