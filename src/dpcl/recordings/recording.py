"""Where the samples of a recording come from, and what is to be known of it before it is heard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dpcl.errors import InputError

BLOCK = 1 << 18  # samples of all channels read at once


class Recording(Protocol):
    """Samples that can be read from the beginning as often as needed: an AudioReader, say."""

    sample_rate: int  # Hz
    channels: int

    def blocks(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Blocks (channels, size), the last one shorter."""
        ...


class InMemory:
    """Samples (channels, T) in an array as a recording."""

    def __init__(self, samples: NDArray[np.float32], sample_rate: int) -> None:
        self.samples, self.sample_rate, self.channels = samples, sample_rate, len(samples)

    def blocks(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Blocks (channels, size), the last one shorter."""
        for first in range(0, self.samples.shape[1], size):
            yield self.samples[:, first : first + size]


@dataclass(frozen=True)
class Scan:
    """What one pass over a recording tells."""

    samples: int  # per channel
    peak: float  # largest magnitude of a sample, 1 for silence
    channel: int | None  # what is heard: this channel, or None for the mean of all

    def mono(self, block: Tensor) -> Tensor:
        """block (channels, n) -> (n,), full scale at the peak.

        Squares of very loud or very soft samples would leave the range of float32.
        """
        block = block / self.peak
        return block.mean(0) if self.channel is None else block[self.channel]


def scan(recording: Recording) -> Scan:
    """Read all of it once. Raises InputError where there are no samples.

    The mean of the channels is heard, or the loudest where the mean all but cancels.
    """
    samples, peak = 0, 0.0
    energies = np.zeros(recording.channels)  # of each channel, and of their mean
    energy_of_mean = 0.0
    for block in blocks(recording):
        samples += block.shape[1]
        peak = max(peak, float(block.abs().max()))
        if recording.channels == 1:  # is the mean of all
            continue
        wide = block.double()
        energies += wide.square().sum(1).numpy()
        energy_of_mean += float(wide.mean(0).square().sum())
    if not samples:
        raise InputError("the recording holds no samples; give one that is not of length zero")
    cancels = recording.channels > 1 and energy_of_mean < 0.01 * energies.mean()
    return Scan(samples, peak or 1.0, int(energies.argmax()) if cancels else None)


def blocks(recording: Recording) -> Iterator[Tensor]:
    """The recording in tensors (channels, n)."""
    for block in recording.blocks(max(1, BLOCK // recording.channels)):
        yield torch.from_numpy(block)


def as_floats(samples: ArrayLike | Tensor) -> NDArray[np.float32]:
    """As a float32 array; InputError for integers, which say no full scale."""
    if isinstance(samples, Tensor):
        samples = samples.detach().cpu().float() if samples.is_floating_point() else samples.cpu()
    array = np.asarray(samples)
    if array.dtype.kind != "f":
        raise InputError(
            f"samples are {array.dtype}; give floating point, 16 bits as samples / 32768"
        )
    with np.errstate(over="ignore"):  # becomes infinite, which the caller refuses
        return np.require(array, np.float32, ["C", "W"])
