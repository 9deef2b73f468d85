"""Recordings as sources of samples, and the facts that one pass over a recording gives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dpcl.errors import InputError
from dpcl.signal.band import LOUD_SHARE, low_power
from dpcl.signal.channels import Channels, ChannelStatistics

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
        channels: facts about the channels; None for a recording of one channel.
        rumble: a part below 70 Hz is so loud that it would disturb the separation.
    """

    samples: int
    peak: float
    channels: Channels | None = None
    rumble: bool = False

    def mono(self, block: Tensor) -> Tensor:
        """Reduce a block to the mean of the channels with speech, with full scale at the peak.

        Squares of very loud or very soft samples would exceed the range of float32.

        Args:
            block: (channels, n).

        Returns:
            Mono samples (n,).
        """
        block = block / self.peak
        if self.channels is None or len(self.channels.speech) == len(block):
            return block.mean(0)
        speech = self.channels.speech
        mean: Tensor = torch.tensordot(self.channels.weights(speech), block[list(speech)], dims=1)
        return mean


def scan(recording: Recording) -> Scan:
    """Read a recording once: length, peak, facts about channels, and rumble.

    Args:
        recording: samples to read.

    Returns:
        The facts.

    Raises:
        InputError: The recording has no samples.
    """
    samples, peak = 0, 0.0
    rumble = energy = 0.0  # largest power below 70 Hz of a block; energy of all channels
    statistics = ChannelStatistics(recording.sample_rate, recording.channels)
    for block in blocks(recording):
        samples += block.shape[1]
        peak = max(peak, float(block.abs().max()))
        rumble = max(rumble, low_power(block, recording.sample_rate))
        energy += float(block.double().square().sum())
        if recording.channels > 1:
            statistics.push(block)
    if not samples:
        raise InputError("the recording holds no samples; give one with at least one sample")
    loud = rumble > LOUD_SHARE * max(0.0, energy / samples - rumble)
    channels = statistics.result() if recording.channels > 1 else None
    return Scan(samples, peak or 1.0, channels, loud)


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
        InputError: The samples are a path, no rectangular array of numbers, or integers, which have
            no full scale.

    Example:
        >>> as_floats([0.5, -0.5])
        array([ 0.5, -0.5], dtype=float32)
    """
    if isinstance(samples, str | bytes | os.PathLike):
        raise InputError(
            f"samples: {os.fsdecode(samples)[:80]!r} is a path; separate files with"
            " dpcl.separate_file, or read the samples first"
        )
    if isinstance(samples, Tensor):
        if samples.layout is not torch.strided or samples.is_meta or samples.is_quantized:
            kind = f"{samples.layout}, {samples.dtype} on {samples.device}"
            raise InputError(f"samples: are a tensor of {kind}; give a dense one with values")
        samples = samples.detach().cpu().float() if samples.is_floating_point() else samples.cpu()
    try:
        array = np.asarray(samples)
    except (ValueError, TypeError) as error:  # lists of different lengths
        raise InputError(
            "samples: have rows of different lengths; give (T,) or (channels, T)"
        ) from error
    if array.dtype.kind not in "fiu":
        kind = type(samples).__name__
        raise InputError(f"samples: are {kind} of {array.dtype}; give floating point")
    if array.dtype.kind != "f":
        raise InputError(
            f"samples are {array.dtype}; give floating point, such as samples / 32768 for 16 bits"
        )
    with np.errstate(over="ignore"):  # the caller rejects infinite values
        return np.require(array, np.float32, ["C", "W"])
