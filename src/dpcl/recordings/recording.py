"""Recordings as sources of samples, and the facts that one pass over a recording gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dpcl.errors import InputError

BLOCK = 1 << 18  # samples of all channels together in one block


class Recording(Protocol):
    """Samples that can be read from the beginning any number of times, such as an AudioReader.

    Attributes:
        sample_rate: in Hz.
        channels: number of channels.
    """

    sample_rate: int  # Hz
    channels: int

    def blocks(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Yield blocks (channels, size) of float32; the last one is shorter."""
        ...


class InMemory:
    """Recording of samples in an array.

    Args:
        samples: (channels, T).
        sample_rate: in Hz.
    """

    def __init__(self, samples: NDArray[np.float32], sample_rate: int) -> None:
        self.samples, self.sample_rate, self.channels = samples, sample_rate, len(samples)

    def blocks(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Yield blocks (channels, size) of float32; the last one is shorter."""
        for first in range(0, self.samples.shape[1], size):
            yield self.samples[:, first : first + size]


@dataclass(frozen=True)
class Scan:
    """Facts from one pass over a recording.

    Attributes:
        samples: number of samples per channel.
        peak: largest magnitude of a sample; 1 for silence.
        channel: the channel that is analysed; None for the mean of all channels.
    """

    samples: int
    peak: float
    channel: int | None

    def mono(self, block: Tensor) -> Tensor:
        """Reduce a block to the mono signal that is analysed, with full scale at the peak.

        Squares of very loud or very soft samples would exceed the range of float32.

        Args:
            block: (channels, n).

        Returns:
            Mono samples (n,).
        """
        block = block / self.peak
        return block.mean(0) if self.channel is None else block[self.channel]


def scan(recording: Recording) -> Scan:
    """Read a recording once: length, peak and analysed channel.

    The mean of the channels is analysed, or the loudest channel if the mean nearly cancels.

    Args:
        recording: samples to read.

    Returns:
        The facts.

    Raises:
        InputError: The recording has no samples.
    """
    samples, peak = 0, 0.0
    energies = np.zeros(recording.channels)  # of each channel, and of their mean
    energy_of_mean = 0.0
    for block in blocks(recording):
        samples += block.shape[1]
        peak = max(peak, float(block.abs().max()))
        if recording.channels == 1:  # the channel is the mean
            continue
        wide = block.double()
        energies += wide.square().sum(1).numpy()
        energy_of_mean += float(wide.mean(0).square().sum())
    if not samples:
        raise InputError("the recording holds no samples; give one with at least one sample")
    cancels = recording.channels > 1 and energy_of_mean < 0.01 * energies.mean()
    return Scan(samples, peak or 1.0, int(energies.argmax()) if cancels else None)


def blocks(recording: Recording) -> Iterator[Tensor]:
    """Yield a recording as tensors (channels, n) of BLOCK samples."""
    for block in recording.blocks(max(1, BLOCK // recording.channels)):
        yield torch.from_numpy(block)


def as_floats(samples: ArrayLike | Tensor) -> NDArray[np.float32]:
    """Convert samples to a float32 array.

    Args:
        samples: floating point of any shape.

    Returns:
        The same values, float32.

    Raises:
        InputError: The samples are integers, which have no full scale.

    Example:
        >>> as_floats([0.5, -0.5])
        array([ 0.5, -0.5], dtype=float32)
    """
    if isinstance(samples, Tensor):
        samples = samples.detach().cpu().float() if samples.is_floating_point() else samples.cpu()
    array = np.asarray(samples)
    if array.dtype.kind != "f":
        raise InputError(
            f"samples are {array.dtype}; give floating point, such as samples / 32768 for 16 bits"
        )
    with np.errstate(over="ignore"):  # the caller rejects infinite values
        return np.require(array, np.float32, ["C", "W"])
