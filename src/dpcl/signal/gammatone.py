"""The gammatone filterbank: how the ear splits a sound into channels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ORDER = 4
RESPONSE = 0.128  # s of impulse response kept; at 50 Hz it has then died away by 60 dB
BANDWIDTH = 1.019  # of a filter of order 4, in ERB (Patterson et al. 1988)


def erb(frequencies: Tensor) -> Tensor:
    """Equivalent rectangular bandwidth in Hz at frequencies in Hz (Glasberg and Moore 1990)."""
    return 24.7 * (4.37e-3 * frequencies + 1)


def erb_rate(frequencies: Tensor) -> Tensor:
    """The number of ERBs below frequencies in Hz (Glasberg and Moore 1990, eq. 4)."""
    return 21.4 * (4.37e-3 * frequencies + 1).log10()


def centre_frequencies(channels: int, lowest: float, highest: float) -> Tensor:
    """So many frequencies (channels,) in Hz, at equal steps of the ERB rate, both ends included."""
    ends = erb_rate(torch.tensor([lowest, highest], dtype=torch.float64))
    rates = ends[0] + (ends[1] - ends[0]) * torch.linspace(0, 1, channels, dtype=torch.float64)
    return (10 ** (rates / 21.4) - 1) / 4.37e-3


@dataclass(frozen=True)
class GammatoneFilterbank:
    """Filters of order 4, spaced by ERB, of unit gain at their centre frequencies.

    Their envelopes and fine structures peak together: each response is brought forward by the
    delay of its envelope, 3 / (2 pi b), so that a click is one vertical line over all channels.
    Sources: Patterson et al. 1988; the alignment as in Brown and Cooke 1994; see
    Wang and Brown 2006.
    """

    sample_rate: int  # Hz
    channels: int = 64
    lowest: float = 50.0  # Hz
    highest: float = 3600.0  # Hz

    @property
    def centres(self) -> Tensor:
        """Centre frequencies (channels,) in Hz, float64."""
        return centre_frequencies(self.channels, self.lowest, self.highest)

    def __call__(self, samples: Tensor) -> Tensor:
        """samples (T,) -> analytic responses (channels, T).

        The real part is what the filter lets through, the magnitude its envelope.
        """
        kernel = round(RESPONSE * self.sample_rate)
        size = fast_length(samples.shape[-1] + kernel)
        spectrum = torch.fft.rfft(samples, size)  # (size // 2 + 1,)
        gains = self._gains(size).to(spectrum.dtype)  # (channels, size // 2 + 1)
        # Frequencies below zero stay empty: what comes back is the analytic signal.
        responses: Tensor = torch.fft.ifft(2 * spectrum * gains, size)
        return responses[:, : samples.shape[-1]]

    def _gains(self, size: int) -> Tensor:
        """Gains (channels, size // 2 + 1) at the frequencies of a transform of `size` samples."""
        centres = self.centres[:, None]  # (channels, 1)
        widths = BANDWIDTH * erb(centres)
        frequencies = torch.fft.rfftfreq(size, 1 / self.sample_rate, dtype=torch.float64)
        # The transform of t³ exp(-2 pi b t) exp(2 pi i f t), up to its scale.
        gains: Tensor = (1 + 1j * (frequencies - centres) / widths) ** -ORDER
        lead = (ORDER - 1) / (2 * math.pi * widths)  # s
        gains = gains * torch.exp(2j * math.pi * (frequencies - centres) * lead)
        return gains


def fast_length(samples: int) -> int:
    """The least 2^i 3^k, k < 4, not below `samples`: Fourier transforms of primes are slow."""
    lengths = [3**k << max(0, (-(-samples // 3**k) - 1).bit_length()) for k in range(4)]
    return int(min(lengths))
