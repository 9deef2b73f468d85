"""Corpora: the recordings of a folder or an index, with their speakers."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path

import soundfile

from dpcl.errors import InputError
from dpcl.mixtures.manifests import read_manifest
from dpcl.mixtures.parts import parse_part
from dpcl.mixtures.utterance import Utterance as Utterance
from dpcl.signal import av
from dpcl.signal.formats import is_packed, sphere_fields
from dpcl.signal.reader import AudioReader

BLOCK = 1 << 18  # samples read at once
COLUMNS = ("split", "corpus", "speaker", "gender", "path")
AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"}
AUDIO_SUFFIXES |= {".sph", ".wv1"}  # NIST SPHERE; not .wv2, WSJ0's second microphone


@dataclass(frozen=True)
class Corpus:
    """Recordings below one folder, in the order of their index."""

    root: Path
    utterances: tuple[Utterance, ...]

    def of_speakers(self, speakers: Iterable[str]) -> Corpus:
        """Return the recordings of these speakers only.

        Raises:
            InputError: a speaker has no recordings.
        """
        wanted = set(speakers)
        missing = sorted(wanted - {u.speaker for u in self.utterances})
        if missing:
            raise InputError(
                f"{self.root} has no recordings of speaker {', '.join(missing)}; choose others"
            )
        return Corpus(self.root, tuple(u for u in self.utterances if u.speaker in wanted))


def read_corpus(
    path: str | os.PathLike[str], split: str | None = None, corpora: Iterable[str] | None = None
) -> Corpus:
    """Read a corpus: a CSV index, a folder, or a Lhotse manifest.

    A CSV index has the columns split, corpus, speaker, gender and path, and optionally seconds and
    text. Its paths are relative to its folder and may name a part of a file (dpcl.mixtures.parts).

    Args:
        path: a CSV file, a folder with index.csv, a folder with one folder per speaker, or a Lhotse
            manifest (.jsonl, .jsonl.gz; see `read_manifest`).
        split: read only this split.
        corpora: read only these corpora of the index.

    Returns:
        Corpus with at least one recording.

    Raises:
        InputError: a file is missing or cannot be read; the message names the row and the file.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a corpus index (CSV) or a folder")
    if path.is_dir() and not (path / "index.csv").is_file():
        if split is not None or corpora is not None:
            raise InputError(f"{path} has no index.csv, so it has no splits and corpora; omit them")
        return _read_speaker_folders(path)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        if split is not None or corpora is not None:
            raise InputError(f"{path} is one part of one corpus; choose it by its name alone")
        return Corpus(*read_manifest(path))
    return _read_index(path / "index.csv" if path.is_dir() else path, split, corpora)


def _read_index(index: Path, split: str | None, corpora: Iterable[str] | None) -> Corpus:
    """Read the rows of a CSV index that are in the split and the corpora."""
    try:
        with index.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
            if missing:
                raise InputError(f"{index} has no column {', '.join(missing)}; add it")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{index} cannot be read as a CSV index ({error}); correct it") from error

    _check_choice(index, "split", None if split is None else {split}, rows)
    wanted = None if corpora is None else set(corpora)
    _check_choice(index, "corpus", wanted, rows)
    utterances = tuple(
        _utterance(index, number, row)
        for number, row in rows
        if (split is None or row["split"] == split) and (wanted is None or row["corpus"] in wanted)
    )
    if not utterances:
        raise InputError(f"{index} lists no recording of split {split or 'any'}; choose another")
    return Corpus(index.parent, utterances)


def _check_choice(
    index: Path, column: str, wanted: set[str] | None, rows: list[tuple[int, dict[str, str]]]
) -> None:
    """Raise InputError if a wanted value does not occur in a column."""
    known = {row[column] for _, row in rows}
    unknown = sorted((wanted or set()) - known)
    if unknown:
        raise InputError(
            f"{index} has no {column} {', '.join(unknown)}; choose from {', '.join(sorted(known))}"
        )


def _utterance(index: Path, number: int, row: dict[str, str]) -> Utterance:
    """Convert one row of an index, checking its file."""
    where = f"{index} row {number}"
    if any(row[name] is None for name in COLUMNS) or None in row:
        raise InputError(f"{where} has another number of fields than the header; correct it")
    if not row["speaker"] or not row["path"]:
        raise InputError(f"{where} has no speaker or no path; fill it in")
    path = index.parent / row["path"]
    start, channel = None, None
    if not path.is_file() and "#t=" in row["path"]:
        try:
            part = parse_part(row["path"], index.parent)
        except ValueError as error:
            raise InputError(f"{where}: {error}; correct the path") from error
        path, start, channel = part.path, part.start, part.channel
        row["seconds"] = row.get("seconds") or str(part.seconds)
    if not path.is_file():
        raise InputError(f"{where}: {path} does not exist; correct the row or copy the file")
    if row.get("seconds"):
        try:
            seconds = float(row["seconds"])
        except ValueError:
            seconds = math.nan
        if not 0.0 < seconds < math.inf:
            raise InputError(
                f"{where}: seconds is {row['seconds']!r}, not a positive number; correct it"
            )
    else:
        seconds = measure_seconds(path, where)
    return Utterance(
        path,
        row["speaker"],
        row["corpus"],
        row["gender"],
        seconds,
        row["split"],
        row.get("text") or text_key(Path(row["path"]), row["speaker"]),
        start,
        channel,
    )


def _read_speaker_folders(root: Path) -> Corpus:
    """Read a folder that holds one folder per speaker."""
    utterances = []
    for folder in sorted(root.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        for path in sorted(folder.rglob("*")):
            if is_audio(path):
                key = text_key(path.relative_to(root), folder.name)
                seconds = measure_seconds(path, str(root))
                utterances.append(Utterance(path, folder.name, "", "", seconds, "", key))
    if not utterances:
        raise InputError(f"{root} has no index.csv and no folders of recordings; give a corpus")
    return Corpus(root, tuple(utterances))


def is_audio(path: Path, suffixes: Set[str] = AUDIO_SUFFIXES) -> bool:
    """Return true if a file has the name of a recording and is not hidden."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def measure_seconds(path: Path, where: str) -> float:
    """Return the length of a recording in seconds, from its header.

    Raises:
        InputError: the file cannot be read as audio or is empty; the message begins with `where`.
    """
    try:
        with path.open("rb") as file:
            fields = sphere_fields(file)
        if is_packed(fields):
            return int(fields["sample_count"]) / int(fields["sample_rate"])
        if is_audio(path, av.SUFFIXES):
            with AudioReader(path) as reader:
                samples = sum(int(block.shape[1]) for block in reader.blocks(BLOCK))
                return float(samples / reader.sample_rate)
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError, KeyError, ValueError, ZeroDivisionError) as error:
        # an InputError of the reader is a ValueError
        raise InputError(f"{where}: {path} cannot be read as audio; replace or remove it") from (
            error
        )
    if info.frames == 0:
        raise InputError(f"{where}: {path} holds no samples; replace or remove it")
    return float(info.frames / info.samplerate)


def text_key(path: Path, speaker: str) -> str:
    """Return a key for the words of a recording: its stem without leading speaker and separators.

    p225_001 of p225 and p226_001 of p226 both give 001. If speaker and stem are numbers with
    different padding (000010011 of 0001), the padding is removed as well. If nothing is left of
    the stem, the key is the path, which is unique.

    Example:
        >>> text_key(Path("p225/p225_001.wav"), "p225")
        '001'
    """
    stem = path.stem
    if stem.startswith(speaker):
        rest = stem[len(speaker) :]
    else:
        rest = stem
        if stem.isdigit() and speaker.isdigit():
            rest = stem.lstrip("0").removeprefix(speaker.lstrip("0"))
    return rest.strip("-_. ") or path.with_suffix("").as_posix()
