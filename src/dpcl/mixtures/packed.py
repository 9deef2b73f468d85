"""A corpus decoded once: all recordings at one sample rate in one memory-mapped file."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.io import Progress, Report, atomic, no_report
from dpcl.mixtures.corpus import Corpus
from dpcl.mixtures.parts import read_part
from dpcl.signal.level import active_level_db

VERSION = 1  # version of the format; changing it rebuilds every cache
PEAK = 0.9  # peak of each stored recording, relative to full scale


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

    The cache is reused if paths, sizes, speakers, texts, the sample rate and VERSION are the same,
    and written again if it is damaged.
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
            cache.mkdir(parents=True, exist_ok=True)
            with atomic(data, sync=True) as partial, partial.open("wb") as file:
                entry = _decode(corpus, sample_rate, file, report)
            with atomic(index, sync=True) as partial:
                partial.write_text(json.dumps(entry))
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
        stored = np.rint(x * (PEAK * 32768.0 / peak)).astype("<i2")
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
    """Return a hash of the corpus, the sample rate and VERSION."""
    digest = hashlib.sha256(f"{VERSION} {sample_rate}\n".encode())
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
