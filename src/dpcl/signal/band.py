"""Crop a recording's own spectrum to the band of a network, and extend masks to the full band.

An STFT of the recording with windows as long as the network's has the same frequencies. Its
first bins are the network's input without resampling, and the masks fit in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dpcl.signal.audio import resample
from dpcl.signal.stft import STFT

# Share of the network's band that resampling leaves intact; above it no mask can be estimated.
REACH = 0.9


@dataclass(frozen=True)
class Band:
    """Relation of a recording of `sample_rate` Hz to a network of `network_rate` Hz."""

    sample_rate: int
    network_rate: int
    network: STFT  # at the network's rate

    @property
    def stft(self) -> STFT:
        """Return the recording's STFT; its windows last as long as the network's.

        Rounding the hop changes their length by at most 1 part in 2 * hop.
        """
        ratio = self.network.window // self.network.hop
        hop = max(1, round(self.network.hop * self.sample_rate / self.network_rate))
        return STFT(hop * ratio, hop)

    def crop(self, magnitude: Tensor) -> Tensor:
        """Crop magnitudes of the recording to the network's band.

        Args:
            magnitude: (..., L, F).

        Returns:
            (..., L, F'), damped at the top of the band as resampling would do.
        """
        bins = self.network.bins
        cropped = functional.pad(magnitude[..., :bins], (0, max(0, bins - magnitude.shape[-1])))
        return cropped * _response(self.sample_rate, self.network_rate, bins)

    def extend(self, masks: Tensor, magnitude: Tensor) -> Tensor:
        """Extend masks from the network's band to all bins of the recording.

        Above the network's reach, all bins of a frame get the same mask: the mean over the upper
        eighth of the bins within reach, weighted by energy. Fricatives cross this border as a
        whole. Masks of higher bins are less certain, so the square root reduces their differences
        (docs/decisions.md compares rules).

        Args:
            masks: (C, L, F').
            magnitude: (L, F), of the recording.

        Returns:
            (C, L, F).
        """
        bins = magnitude.shape[-1]
        if self.sample_rate <= self.network_rate:
            return masks[..., :bins]
        reach = int(REACH * (masks.shape[-1] - 1))
        upper = slice(7 * reach // 8, reach)
        energy = magnitude[:, upper].square() + torch.finfo(magnitude.dtype).tiny
        share = energy / energy.sum(-1, keepdim=True)  # (L, reach - 7 * reach // 8)
        beyond = (masks[..., upper] * share).sum(-1, keepdim=True).sqrt()  # (C, L, 1)
        beyond = beyond / beyond.sum(0)
        return torch.cat([masks[..., :reach], beyond.expand(-1, -1, bins - reach)], dim=-1)


@lru_cache(maxsize=16)
def _response(rate_in: int, rate_out: int, bins: int) -> Tensor:
    """Return the gain of each bin (F',) under resampling: zero at the very top of the band."""
    if rate_in <= rate_out:
        return torch.ones(bins)
    impulse = np.zeros(rate_in // 4, np.float32)
    impulse[len(impulse) // 2] = 1
    response = np.abs(np.fft.rfft(resample(impulse, rate_in, rate_out)))
    places = np.linspace(0, len(response) - 1, bins)
    gains = np.interp(places, np.arange(len(response)), response) / response[0]
    return torch.from_numpy(gains.astype(np.float32))
