"""Whole audio signals, and parts of recordings: read, write, cut and resample.

The name of a part is a path, optionally followed by a W3C media fragment: `meeting.flac#t=12.5,18`
(12.5 to 18 s) or `call.wav#t=12.5,18&channel=1` (of the second channel).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.signal.reader import AudioReader, Source
from dpcl.signal.writer import AudioWriter


def resample(
    x: NDArray[np.float32], rate_in: int, rate_out: int, length: int | None = None
) -> NDArray[np.float32]:
    """Convert a signal to another sample rate with soxr in high quality, linear phase.

    Equal rates leave the samples unchanged.

    Args:
        x: (..., T).
        rate_in: sample rate of x in Hz.
        rate_out: new sample rate in Hz.
        length: number of samples to return, padded with zeros or cut. None returns
            round(T * rate_out / rate_in). Converting back with length T restores the length.

    Returns:
        float32 (..., length).

    Example:
        >>> import numpy as np
        >>> resample(np.zeros((2, 800), np.float32), 8000, 16000).shape
        (2, 1600)
    """
    x = np.asarray(x, dtype=np.float32)
    if length is None:
        length = round(x.shape[-1] * rate_out / rate_in)
    if rate_in != rate_out and x.size:
        flat = x.reshape(-1, x.shape[-1])  # (N, T)
        converted = [soxr.resample(row, rate_in, rate_out, quality="HQ") for row in flat]
        x = np.stack(converted).reshape(*x.shape[:-1], -1)
    missing = length - x.shape[-1]
    if missing > 0:
        return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return x[..., :length]


_BLOCK = 1 << 20  # samples per channel in a block


def read_audio(source: Source) -> tuple[NDArray[np.float32], int]:
    """Read a whole recording.

    Args:
        source: a path, the bytes of a file, or a binary file object.

    Returns:
        float32 samples (channels, T) in [-1, 1], and the sample rate in Hz.

    Raises:
        InputError: the recording is missing, a folder, empty, no audio, broken, cut off or of
            length zero, or it holds NaN or infinite samples. The message names the recording.
    """
    with AudioReader(source) as reader:
        blocks = list(reader.blocks(_BLOCK))
        if reader.cut_off:
            seconds = reader.read / reader.sample_rate
            raise InputError(f"{reader.name} is cut off after {seconds:.2f} s; copy it again")
        return np.concatenate(blocks, axis=1), reader.sample_rate


def read_mono(
    path: str | os.PathLike[str],
    sample_rate: int,
    start: float = 0.0,
    seconds: float | None = None,
    channel: int | None = None,
) -> NDArray[np.float32]:
    """Read the mean of a file's channels, or one channel, at a given sample rate.

    The cut is made after resampling, so the value of a sample does not depend on the cut.

    Args:
        path: the file.
        sample_rate: of the result, in Hz.
        start: beginning of the cut in seconds.
        seconds: length of the cut; None reads to the end.
        channel: channel to read, counted from 0; None for the mean of all.

    Returns:
        (T,).

    Raises:
        InputError: as for `read_audio`, or the channel does not exist, or the file ends before the
            cut does.
    """
    channels, rate = read_audio(path)
    if channel is not None and channel >= len(channels):
        raise InputError(
            f"{path} has {len(channels)} channels, but no channel {channel}; choose another channel"
        )
    one = channels.mean(axis=0) if channel is None else channels[channel]
    return cut_mono(resample(one, rate, sample_rate), path, sample_rate, start, seconds)


def cut_mono(
    mono: NDArray[np.float32],
    path: str | os.PathLike[str],
    sample_rate: int,
    start: float,
    seconds: float | None,
) -> NDArray[np.float32]:
    """Cut a part from the samples of a file.

    Args:
        mono: (T,), all samples of the file.
        path: name of the file in messages.
        sample_rate: in Hz.
        start: beginning of the cut in seconds.
        seconds: length of the cut; None cuts at the end.

    Returns:
        (T',).

    Raises:
        InputError: the file ends before the cut does, by more than one sample of rounding.
    """
    first = round(start * sample_rate)
    last = len(mono) if seconds is None else first + round(seconds * sample_rate)
    last -= last == len(mono) + 1
    if not 0 <= first < last <= len(mono):
        raise InputError(
            f"{path} lasts {len(mono) / sample_rate:.3f} s and has no part from {start:.3f} s"
            f" to {last / sample_rate:.3f} s; choose another part"
        )
    return mono[first:last]


def write_audio(
    path: str | os.PathLike[str],
    samples: NDArray[np.floating],
    sample_rate: int,
    subtype: str = "PCM_16",
) -> None:
    """Write samples atomically; the suffix of `path` chooses the format.

    PCM_16 rounds to multiples of 1/32768 and clips at full scale, so 16-bit samples are written
    back unchanged. FLOAT keeps every sample.

    Args:
        path: the file.
        samples: (T,) or (channels, T).
        sample_rate: in Hz.
        subtype: coding, by its name in libsndfile.

    Raises:
        InputError: libsndfile cannot write the suffix or subtype, or a sample is NaN.
    """
    samples = np.atleast_2d(samples)  # (channels, T)
    if subtype not in ("FLOAT", "DOUBLE"):
        samples = samples.clip(-1, 1)
    with AudioWriter(path, sample_rate, len(samples), subtype, samples.shape[1]) as writer:
        writer.write(samples)


_FRAGMENT = re.compile(r"(.+)#t=([\d.]+),([\d.]+)(?:&channel=(\d+))?")


@dataclass(frozen=True)
class Part:
    """Recording, or its part from `start` for `seconds`."""

    path: Path
    start: float | None = None  # s; None for the whole recording
    seconds: float | None = None  # length in s
    channel: int | None = None  # counted from 0; None for the mean of all

    def name(self, root: Path) -> str:
        """Return the name, relative to `root`, that `parse_part` reads."""
        path = self.path.relative_to(root).as_posix()
        if self.start is None or self.seconds is None:
            return path
        channel = "" if self.channel is None else f"&channel={self.channel}"
        start, end = plain_seconds(self.start), plain_seconds(self.start + self.seconds)
        return f"{path}#t={start},{end}{channel}"


def plain_seconds(seconds: float) -> str:
    """Format seconds to the microsecond, without an exponent."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def parse_part(name: str, root: str | os.PathLike[str] = "") -> Part:
    """Return the part that a name stands for.

    A file whose own name ends like a fragment cannot be named.

    Raises:
        ValueError: the part ends before it begins.

    Example:
        >>> parse_part("meeting.flac#t=12.5,18").seconds
        5.5
    """
    match = _FRAGMENT.fullmatch(name)
    if match is None:
        return Part(Path(root) / name)
    start, end = float(match[2]), float(match[3])
    if not end > start:
        raise ValueError(f"{name} ends before it begins")
    channel = None if match[4] is None else int(match[4])
    return Part(Path(root) / match[1], start, end - start, channel)


def read_part(part: Part, sample_rate: int) -> NDArray[np.float32]:
    """Read the samples (T,) of a part at `sample_rate` Hz.

    Raises:
        InputError: as for `read_mono`.
    """
    if part.start is None:
        return read_mono(part.path, sample_rate)
    try:
        changed = part.path.stat().st_mtime_ns
    except OSError:
        changed = 0  # read_mono raises the error
    mono = _whole(part.path, sample_rate, part.channel, changed)
    return cut_mono(mono, part.path, sample_rate, part.start, part.seconds)


@lru_cache(maxsize=1)  # one recording, since its parts are mostly read in sequence
def _whole(path: Path, rate: int, channel: int | None, changed: int) -> NDArray[np.float32]:
    """Read a whole recording; `changed` is its time of change in ns, part of the cache's key."""
    return read_mono(path, rate, channel=channel)
