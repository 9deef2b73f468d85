"""Read, write, cut and resample whole audio signals."""

from __future__ import annotations

import os

import numpy as np
import soxr
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.signal.reader import AudioReader, Source
from dpcl.signal.writer import AudioWriter


def resample(
    x: NDArray[np.float32], rate_in: int, rate_out: int, length: int | None = None
) -> NDArray[np.float32]:
    """Convert x (..., T) from `rate_in` to `rate_out` Hz with soxr's high quality, phase-linear.

    Returns float32 (..., length); without `length` that is round(T * rate_out / rate_in), so the
    way back with the first length gives as many samples as there were. Equal rates change nothing.
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


_BLOCK = 1 << 20  # samples


def read_audio(source: Source) -> tuple[NDArray[np.float32], int]:
    """A whole recording as float32 samples (channels, T) in [-1, 1], and its sample rate in Hz.

    `source` is a path, the bytes of a file, or a binary file object. Raises InputError, naming
    it, if it is missing, a folder, empty, no audio, broken, cut off, of length zero, or holds NaN
    or infinite samples.
    """
    with AudioReader(source) as reader:
        blocks = list(reader.blocks(_BLOCK))
        if reader.cut_off:
            seconds = reader.read / reader.sample_rate
            raise InputError(f"{reader.name} is cut off after {seconds:.2f} s: copy it again.")
        return np.concatenate(blocks, axis=1), reader.sample_rate


def read_mono(
    path: str | os.PathLike[str],
    sample_rate: int,
    start: float = 0.0,
    seconds: float | None = None,
    channel: int | None = None,
) -> NDArray[np.float32]:
    """The mean of a file's channels at `sample_rate`, (T,), from `start` for `seconds`.

    channel: one of them instead, counted from 0. The cut is made after resampling, so a sample's
    value does not depend on where one cuts.
    Raises InputError as read_audio does, for a channel that is not there, and where the file ends
    before the cut does.
    """
    channels, rate = read_audio(path)
    if channel is not None and channel >= len(channels):
        raise InputError(f"{path} has {len(channels)} channels: there is no channel {channel}.")
    one = channels.mean(axis=0) if channel is None else channels[channel]
    return cut_mono(resample(one, rate, sample_rate), path, sample_rate, start, seconds)


def cut_mono(
    mono: NDArray[np.float32],
    path: str | os.PathLike[str],
    sample_rate: int,
    start: float,
    seconds: float | None,
) -> NDArray[np.float32]:
    """The part of `mono` (T,), all of the file `path`, from `start` for `seconds`.

    Raises InputError where the file ends before the cut does, by more than a sample of rounding.
    """
    first = round(start * sample_rate)
    last = len(mono) if seconds is None else first + round(seconds * sample_rate)
    last -= last == len(mono) + 1
    if not 0 <= first < last <= len(mono):
        raise InputError(
            f"{path} lasts {len(mono) / sample_rate:.3f} s: it has no part from {start:.3f} s"
            f" to {last / sample_rate:.3f} s."
        )
    return mono[first:last]


def write_audio(
    path: str | os.PathLike[str],
    samples: NDArray[np.floating],
    sample_rate: int,
    subtype: str = "PCM_16",
) -> None:
    """Write samples (T,) or (channels, T), atomically; the suffix of `path` chooses the format.

    PCM_16 rounds to multiples of 1/32768, so that what was read from 16 bits is written back bit
    by bit, and clips at full scale; FLOAT keeps every sample.
    Raises InputError for a suffix or subtype that libsndfile cannot write, and for NaN.
    """
    samples = np.atleast_2d(samples)  # (channels, T)
    if subtype not in ("FLOAT", "DOUBLE"):
        samples = samples.clip(-1, 1)
    with AudioWriter(path, sample_rate, len(samples), subtype, samples.shape[1]) as writer:
        writer.write(samples)
