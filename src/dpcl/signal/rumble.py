"""Sound below 70 Hz (DC, hum, rumble): detection, and a split of a recording at that frequency.

Speech has nothing there, and loudspeakers of telephones and laptops do not play it. But a loud
part below 70 Hz leaks into the bins above, where masks would modulate it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dpcl.signal.features import LOWEST

EDGES = 60.0, 85.0  # Hz, end of the part below and beginning of the part above
DEPTH = 80.0  # dB, attenuation beyond both edges
LOUD_SHARE = (
    0.03  # least power below 70 Hz, relative to the power above, of a recording with rumble
)
MEASURED_AT = 2000  # Hz, approximate sample rate at which the power is measured
ORDER = 8  # of the causal high-pass filter


def bins_below(sample_rate: int, window: int) -> int:
    """Return the number of STFT bins whose centres lie below 70 Hz.

    Example:
        >>> bins_below(8000, 512)
        5
    """
    return math.ceil(LOWEST * window / sample_rate)


def low_power(block: Tensor, sample_rate: int) -> float:
    """Measure the power below 70 Hz of a block.

    Means of adjacent samples reduce the sample rate first, so that this takes little time.

    Args:
        block: (channels, n).
        sample_rate: in Hz.

    Returns:
        Power, summed over the channels.
    """
    step = max(1, sample_rate // MEASURED_AT)
    count = block.shape[1] // step
    if not count:
        return 0.0
    means = block[:, : count * step].double().view(len(block), count, step).mean(-1)
    window = torch.hann_window(count + 2, periodic=False, dtype=torch.float64)[1:-1]
    power = torch.fft.rfft(means * window).abs().square().sum(0)
    power[1:] *= 2  # the negative frequencies
    below = power[: math.ceil(LOWEST * count * step / sample_rate)].sum()
    return float(below / (count * window.square().sum()))


def split_low(blocks: Iterator[Tensor], sample_rate: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Split a recording into the parts above and below 70 Hz, without delay; they sum to it.

    A linear-phase filter gives the lower part. The recording is mirrored at both ends.

    Args:
        blocks: blocks (channels, n) of the recording.
        sample_rate: in Hz.

    Yields:
        Blocks (channels, m) of the upper and of the lower part, of other lengths.
    """
    taps = _low_pass(sample_rate)
    half = len(taps) // 2
    kept: Tensor | None = None
    begun = False
    for block in blocks:
        kept = block if kept is None else torch.cat([kept, block], 1)
        if not begun and kept.shape[1] > half:
            kept = _mirrored(kept, half, 0)
            begun = True
        if begun and kept.shape[1] > 2 * half:
            yield _parts(kept, taps)
            kept = kept[:, -2 * half :]
    if kept is not None and kept.shape[1]:
        yield _parts(_mirrored(kept, 0 if begun else half, half), taps)


def _mirrored(samples: Tensor, before: int, after: int) -> Tensor:
    """Return samples (channels, n) with reflections of themselves on both sides."""
    return torch.from_numpy(
        np.pad(samples.numpy(), ((0, 0), (before, after)), mode="symmetric")  # of any length
    )


def _parts(samples: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    """Return both parts of all samples that have half a filter of samples on either side."""
    half, count = len(taps) // 2, samples.shape[1] - len(taps) + 1
    # Overlapping pieces that fit into the processor's cache. The first values of each wrap around.
    size = 1 << (4 * len(taps)).bit_length()
    step = size - len(taps) + 1
    padded = functional.pad(samples, (0, -count % step))
    spectra = torch.fft.rfft(padded.unfold(1, size, step)) * torch.fft.rfft(taps, size)
    low = torch.fft.irfft(spectra, size)[..., len(taps) - 1 :].flatten(1)[:, :count]
    return samples[:, half : half + count] - low, low


@lru_cache(maxsize=8)
def _low_pass(sample_rate: int) -> Tensor:
    """Return the taps of the linear-phase low-pass filter, of odd number.

    Source: Kaiser 1974, for the length and the window.
    """
    width = (EDGES[1] - EDGES[0]) / (sample_rate / 2)
    count = math.ceil((DEPTH - 7.95) / (2.285 * math.pi * width)) + 1 | 1
    places = np.arange(count) - count // 2
    taps = np.sinc(sum(EDGES) / sample_rate * places) * np.kaiser(count, 0.1102 * (DEPTH - 8.7))
    return torch.from_numpy((taps / taps.sum()).astype(np.float32))


class HighPass:
    """Causal high-pass filter at 70 Hz for streams, whose state runs from block to block.

    Args:
        sample_rate: in Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        from scipy.signal import cheby2

        depth = DEPTH - 20
        self._sections = cheby2(ORDER, depth, EDGES[0], "highpass", fs=sample_rate, output="sos")
        self._state = np.zeros((len(self._sections), 2))

    def push(self, block: Tensor) -> Tensor:
        """Filter the next samples (n,)."""
        from scipy.signal import sosfilt

        if not len(block):
            return block
        filtered, self._state = sosfilt(self._sections, block.double().numpy(), zi=self._state)
        return torch.from_numpy(filtered).to(block.dtype)
