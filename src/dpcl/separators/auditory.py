"""What the classical separators hear: auditory units of a mixture, and their way to STFT masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.separators.limits import check_mixture
from dpcl.separators.separation import Separation
from dpcl.signal.correlogram import correlogram, cross_channel_correlation
from dpcl.signal.gammatone import GammatoneFilterbank, fast_length
from dpcl.signal.pitch import at_lags, lag_grid
from dpcl.signal.stft import STFT

SAMPLE_RATE = 8000  # Hz
STFT_8K = STFT(window=256, hop=64)
FILTERS = GammatoneFilterbank(SAMPLE_RATE, channels=64)
HOP = 128  # samples, 16 ms: every second frame of the STFT
WINDOW = 256  # samples
BLOCK, MARGIN = 1024 * HOP, 16 * HOP  # samples heard at once, and to either side of them
LOWEST, HIGHEST = 70.0, 440.0  # Hz, of the pitch of men, women and children
# Above it a filter passes several harmonics, whose beating, the envelope, carries the pitch.
RESOLVED = 800.0  # Hz
BEATING = (50.0, 550.0)  # Hz, the band of envelopes that can be pitch (Hu and Wang 2010)
FLOOR_DB = -50.0  # units this far under the loudest are not heard


@dataclass(frozen=True)
class Scene:
    """The units of a mixture: 64 channels, a frame every 16 ms."""

    power: Tensor  # (channels, L), relative to the loudest unit; all zero for silence
    periodicity: Tensor  # (channels, L, G): correlogram at LAGS, above RESOLVED of the envelope
    alike: Tensor  # (channels, L): cross-channel correlation

    @property
    def heard(self) -> Tensor:
        """Which units (channels, L) are loud enough to tell anything."""
        return self.power > 10 ** (FLOOR_DB / 10)


LAGS = lag_grid(LOWEST, HIGHEST, SAMPLE_RATE)  # (G,)


def listen(mixture: Tensor) -> Scene:
    """mixture (T,) at 8 kHz, of any level -> its scene; L = ceil(T / 128) + 1.

    Memory is about 1 MB for a second, and 300 MB for the block of 16 s that is at work.
    """
    loudest = mixture.abs().max()
    mixture = mixture.float() / torch.where(loudest > 0, loudest, 1)
    blocks = []
    for start in range(0, mixture.shape[-1], BLOCK):
        first = max(start - MARGIN, 0)
        units = _units(mixture[first : start + BLOCK + MARGIN])
        skip = (start - first) // HOP
        last = start + BLOCK >= mixture.shape[-1]
        stop = None if last else skip + BLOCK // HOP
        blocks.append([values[:, skip:stop] for values in units])
    power, periodicity, alike = (torch.cat(parts, 1) for parts in zip(*blocks, strict=True))
    most = power.max()
    return Scene(power / torch.where(most > 0, most, 1), periodicity, alike)


def _units(samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Power, periodicity and likeness of the next channel, of the units of (T,) samples."""
    responses = FILTERS(samples)  # (channels, T)
    envelopes = responses.abs()
    resolved = int((FILTERS.centres < RESOLVED).sum())
    lags = int(LAGS[-1]) + 2
    correlograms = torch.cat(
        [
            correlogram(responses[:resolved].real, WINDOW, HOP, lags),
            correlogram(_beating(envelopes[resolved:]), WINDOW, HOP, lags),
        ]
    )
    return _power(envelopes), at_lags(correlograms, LAGS), cross_channel_correlation(correlograms)


def unit_power(samples: Tensor) -> Tensor:
    """Mean power (channels, L) of samples (T,) in each unit, at their own scale."""
    return _power(FILTERS(samples).abs())


def _power(envelopes: Tensor) -> Tensor:
    power = envelopes.square()
    power = functional.pad(power, (WINDOW // 2, WINDOW // 2 + -power.shape[-1] % HOP))
    return functional.avg_pool1d(power[:, None], WINDOW, HOP)[:, 0]


def unit_masks_to_bins(masks: Tensor, frames: int) -> Tensor:
    """Masks of units (C, channels, L) -> of the bins of `STFT_8K` (C, frames, F), linearly.

    Between the centres of neighbouring channels, and between frames; beyond the outer channels
    the outer ones count. Weights add up to one, and so masks that add up to one still do.
    """
    bins = torch.arange(STFT_8K.bins) * (SAMPLE_RATE / STFT_8K.window)  # Hz
    centres = FILTERS.centres.to(masks.dtype)
    above = torch.searchsorted(centres, bins).clamp(1, len(centres) - 1)
    below = above - 1
    share = ((bins - centres[below]) / (centres[above] - centres[below])).clamp(0, 1)
    masks = torch.lerp(masks[:, below], masks[:, above], share[:, None])  # (C, F, L)
    places = torch.arange(frames) * (STFT_8K.hop / HOP)
    low = places.long()
    high = (low + 1).clamp(max=masks.shape[-1] - 1)
    masks = torch.lerp(masks[..., low], masks[..., high], places - low)
    return masks.transpose(1, 2)


def _beating(envelopes: Tensor) -> Tensor:
    """Envelopes (channels, T) within the band of pitch, their levels taken away."""
    samples = envelopes.shape[-1]
    size = fast_length(samples + SAMPLE_RATE // 20)  # the start is kept out of the end
    frequencies = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    band = (frequencies > BEATING[0]) & (frequencies < BEATING[1])
    beating: Tensor = torch.fft.irfft(torch.fft.rfft(envelopes, size) * band, size)
    return beating[:, :samples]


def separate_by_units(
    mixture: Tensor, sources: int, unit_masks: Callable[[Scene, int], Tensor]
) -> Separation:
    """mixture (..., T) at 8 kHz under the masks that a function of its scene and C finds.

    unit_masks: (C, channels, L), adding up to one, as then the sources do to the mixture.
    Raises InputError where there are no samples or not all of them are finite.
    """
    check_mixture(mixture)
    spectrum = STFT_8K(mixture)  # (..., L, F)
    frames = spectrum.shape[-2]
    masks = torch.stack(
        [
            unit_masks_to_bins(unit_masks(listen(one), sources), frames)
            for one in mixture.reshape(-1, mixture.shape[-1])
        ]
    ).to(mixture.dtype)
    masks = masks.view(*mixture.shape[:-1], *masks.shape[1:])  # (..., C, L, F)
    estimates = STFT_8K.inverse(masks * spectrum.unsqueeze(-3), mixture.shape[-1])
    return Separation(estimates, masks)
