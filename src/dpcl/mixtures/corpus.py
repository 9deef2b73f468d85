"""Corpora: recordings of a folder or an index, with their speakers; decoded once for training."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterable, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.io import Progress, Report, no_report, write_indexed
from dpcl.mixtures.utterances import Utterance as Utterance
from dpcl.mixtures.utterances import read_manifest
from dpcl.signal import av
from dpcl.signal.audio import parse_part, read_part
from dpcl.signal.formats import is_packed, sphere_fields
from dpcl.signal.level import active_level_db
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


def has_index(path: Path) -> bool:
    """Return true if a corpus has an index, and so may have splits."""
    return (path / "index.csv").is_file() if path.is_dir() else path.suffix == ".csv"


def read_corpus(
    path: str | os.PathLike[str], split: str | None = None, corpora: Iterable[str] | None = None
) -> Corpus:
    """Read a corpus: a CSV index, a folder, or a Lhotse manifest.

    A CSV index has the columns split, corpus, speaker, gender and path, and optionally seconds and
    text. Its paths are relative to its folder and may name a part of a file (dpcl.signal.audio).

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
    rest = stem = path.stem
    if stem.startswith(speaker):
        rest = stem[len(speaker) :]
    elif stem.isdigit() and speaker.isdigit():
        rest = stem.lstrip("0").removeprefix(speaker.lstrip("0"))
    return rest.strip("-_. ") or path.with_suffix("").as_posix()


PACKED_VERSION = 1  # version of the format; changing it rebuilds every cache
PACKED_PEAK = 0.9  # peak of each stored recording, relative to full scale


@dataclass(frozen=True)
class PackedCorpus:
    """Packed utterances: i is samples[offsets[i]:offsets[i + 1]], 16 bits, peak 0.9 * 32768."""

    path: Path  # the .npy file
    sample_rate: int
    offsets: NDArray[np.int64]  # (N + 1,)
    levels_db: NDArray[np.float64]  # (N,), active level in dB as stored, full scale = 32768
    speakers: tuple[str, ...]  # (N,), unique together with the corpus
    corpora: tuple[str, ...]
    genders: tuple[str, ...]
    texts: tuple[str, ...]

    @cached_property
    def samples(self) -> NDArray[np.int16]:
        """Return the samples (T,) of all utterances, memory-mapped."""
        mapped: NDArray[np.int16] = np.load(self.path, mmap_mode="r")
        return mapped.view(np.ndarray)  # indexing a memmap costs 5 times more

    @property
    def seconds(self) -> float:
        """Return the total length in seconds."""
        return float(self.offsets[-1]) / self.sample_rate

    def __len__(self) -> int:
        return len(self.speakers)

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes map the file themselves instead of receiving hours of audio.
        return {key: value for key, value in self.__dict__.items() if key != "samples"}


def pack_corpus(
    corpus: Corpus,
    sample_rate: int,
    cache: str | os.PathLike[str],
    report: Report = no_report,
) -> PackedCorpus:
    """Decode every utterance into the folder `cache`, or reuse the result of an earlier call.

    The cache is reused if paths, sizes, speakers, texts, the sample rate and PACKED_VERSION are the
    same, and written again if it is damaged.
    Both files are written under temporary names and then renamed, the samples first.

    Args:
        corpus: the recordings.
        sample_rate: in Hz.
        cache: folder of packed corpora.
        report: called after each utterance that is decoded.

    Returns:
        PackedCorpus.

    Raises:
        InputError: a file cannot be read or is silent, or the cache cannot be written.
    """
    cache = Path(cache)
    name = f"{_fingerprint(corpus, sample_rate)}-{sample_rate}"
    data, index = cache / f"{name}.npy", cache / f"{name}.json"
    packed = _load(data, index)
    if packed is None:
        try:
            write_indexed(data, lambda file: _decode(corpus, sample_rate, file, report))
        except OSError as error:
            raise InputError(
                f"{cache} cannot hold the packed corpus ({error.strerror}); give another folder"
            ) from error
        packed = _load(data, index)
    if packed is None:
        raise InputError(f"{data}: cannot be read after it was written; give another folder")
    return packed


def _decode(
    corpus: Corpus,
    sample_rate: int,
    file: BinaryIO,
    report: Report,
) -> dict[str, Any]:
    """Write all utterances to `file`, and return the index."""
    offsets, levels = [0], []
    _write_header(file, 0)
    start = file.tell()
    for done, utterance in enumerate(corpus.utterances, 1):
        x = read_part(utterance.part, sample_rate)
        peak = float(np.abs(x).max())
        if peak == 0.0:
            folder = utterance.path.parent
            silent = folder / utterance.part.name(folder)  # with start and end, if it is a part
            raise InputError(f"{silent} is silent; remove it from the corpus")
        stored = np.rint(x * (PACKED_PEAK * 32768.0 / peak)).astype("<i2")
        file.write(stored.tobytes())
        offsets.append(offsets[-1] + len(stored))
        levels.append(active_level_db(stored / 32768.0, sample_rate))
        report(Progress(done, len(corpus.utterances), "recordings"))
    file.seek(0)
    _write_header(file, offsets[-1])
    if file.tell() != start:  # numpy reserves space for a longer length
        raise RuntimeError("the header of the packed corpus changed its size")
    return {
        "sample_rate": sample_rate,
        "offsets": offsets,
        "levels_db": levels,
        "speakers": [u.speaker for u in corpus.utterances],
        "corpora": [u.corpus for u in corpus.utterances],
        "genders": [u.gender for u in corpus.utterances],
        "texts": [u.text for u in corpus.utterances],
    }


def _write_header(file: BinaryIO, length: int) -> None:
    """Write the header of a .npy file with `length` samples."""
    header = {"descr": "<i2", "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)


def _load(data: Path, index: Path) -> PackedCorpus | None:
    """Open a packed corpus; None if a file is missing or damaged, as after a power failure."""
    try:
        entry = json.loads(index.read_text())
        samples = np.load(data, mmap_mode="r")
        if len(samples) != entry["offsets"][-1] or samples.dtype != np.dtype("<i2"):
            return None
        return _packed(data, entry)
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError):
        return None


def _packed(data: Path, entry: dict[str, Any]) -> PackedCorpus:
    """Return the packed corpus of an index."""
    return PackedCorpus(
        path=data,
        sample_rate=entry["sample_rate"],
        offsets=np.array(entry["offsets"], dtype=np.int64),
        levels_db=np.array(entry["levels_db"], dtype=np.float64),
        speakers=tuple(entry["speakers"]),
        corpora=tuple(entry["corpora"]),
        genders=tuple(entry["genders"]),
        texts=tuple(entry["texts"]),
    )


def _fingerprint(corpus: Corpus, sample_rate: int) -> str:
    """Return a hash of the corpus, the sample rate and PACKED_VERSION."""
    digest = hashlib.sha256(f"{PACKED_VERSION} {sample_rate}\n".encode())
    for u in corpus.utterances:
        try:
            size = u.path.stat().st_size
        except OSError as error:
            raise InputError(f"{u.path} no longer exists; read the corpus again") from error
        key = [str(u.path.absolute()), size, u.speaker, u.corpus, u.gender, u.text]
        if u.start is not None:
            key += [u.start, u.seconds, u.channel]
        digest.update(json.dumps(key).encode())
    return digest.hexdigest()[:16]
