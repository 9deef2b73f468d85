"""The band that a network hears, out of a recording's own spectrum, and masks back onto all of it.

An STFT of the recording whose windows last as long as the network's has its frequencies as well:
the first bins are what the network would hear, without resampling, and the masks fit in place.
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

# Of the network's band, what resampling to it leaves whole; above, there is nothing to judge by.
REACH = 0.9


@dataclass(frozen=True)
class Band:
    """How a recording of `sample_rate` Hz is heard by a network of `network_rate` Hz."""

    sample_rate: int
    network_rate: int
    network: STFT  # at the network's rate

    @property
    def stft(self) -> STFT:
        """The STFT of the recording: the network's windows, to a part in 2 hops at the worst."""
        ratio = self.network.window // self.network.hop
        hop = max(1, round(self.network.hop * self.sample_rate / self.network_rate))
        return STFT(hop * ratio, hop)

    def crop(self, magnitude: Tensor) -> Tensor:
        """Magnitudes (..., L, F) of the recording -> (..., L, F') as the network is used to."""
        bins = self.network.bins
        heard = functional.pad(magnitude[..., :bins], (0, max(0, bins - magnitude.shape[-1])))
        return heard * _response(self.sample_rate, self.network_rate, bins)

    def extend(self, masks: Tensor, magnitude: Tensor) -> Tensor:
        """Masks (C, L, F') in the network's band -> (C, L, F) for all of the recording's.

        magnitude (L, F) is the recording's. Above the network's reach all bins of a frame get the
        mean mask of the upper eighth of the bins within reach, each as loud as it is: fricatives
        cross the border as one. What these tell of bins farther up is less sure, and so the shares
        are drawn together, by their square roots (benchmarks/high_band.py compares rules).
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
    """What resampling would leave of each bin (F',): nothing at the very top of the band."""
    if rate_in <= rate_out:
        return torch.ones(bins)
    impulse = np.zeros(rate_in // 4, np.float32)
    impulse[len(impulse) // 2] = 1
    response = np.abs(np.fft.rfft(resample(impulse, rate_in, rate_out)))
    places = np.linspace(0, len(response) - 1, bins)
    gains = np.interp(places, np.arange(len(response)), response) / response[0]
    return torch.from_numpy(gains.astype(np.float32))
