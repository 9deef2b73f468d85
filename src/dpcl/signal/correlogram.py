"""The correlogram: running autocorrelations of auditory channels, in which pitch is seen."""

from __future__ import annotations

import torch
from torch import Tensor

from dpcl.signal.gammatone import fast_length

# A frame this far (in power) below the channel's loudest holds nothing but rounding.
NOTHING = 1e-10


def correlogram(signals: Tensor, window: int, hop: int, lags: int) -> Tensor:
    """Normalised autocorrelation of each channel around every hop-th sample, by FFT.

    signals: (channels, T); window, hop: samples; frame l holds the window centred on sample l hop,
    as that of an STFT does. Returns (channels, L, lags), L = ceil(T / hop) + 1, in [-1, 1], lag 0
    first:

        A(lag) = sum_n x(n) x(n + lag) / sqrt(sum_n x(n)² sum_n x(n + lag)²)

    with n over the window; 0 where there is silence. A signal of period p has A(p) = 1, whatever
    its level does from one period to the next. Sources: Licklider 1951; normalised as in Hu and
    Wang 2010.
    """
    samples = signals.shape[-1]
    half = (window + lags) // 2  # frame and its lagged copy lie around the centre together
    size = window + lags
    padded = torch.nn.functional.pad(signals, (half, size + -samples % hop))
    frames = padded.unfold(-1, size, hop)[:, : -(-samples // hop) + 1]  # (channels, L, size)
    length = fast_length(size)  # what wraps around comes out beyond the lags asked for
    lagged = torch.fft.rfft(frames, length)
    still = torch.fft.rfft(frames[..., :window], length)
    products = torch.fft.irfft(still.conj() * lagged, length)[..., :lags]
    power = torch.nn.functional.pad(frames.double().square().cumsum(-1), (1, 0))
    energies = (power[..., window : window + lags] - power[..., :lags]).to(signals.dtype)
    norms = (energies[..., :1] * energies).clamp_min(0).sqrt()
    # The loudest of the frame, not of all: 100 times the level must change nothing.
    least = NOTHING * energies.amax(dim=(-2, -1), keepdim=True).clamp_min(0)
    heard = norms > least
    return torch.where(heard, products / norms.where(heard, 1), 0).clamp(-1, 1)


def cross_channel_correlation(correlograms: Tensor) -> Tensor:
    """How alike the autocorrelations of a channel and the next one are.

    correlograms (channels, L, lags) -> (channels, L) in [-1, 1]: the correlation coefficient over
    lags of channels c and c + 1; the last channel repeats the one before. Near 1 where one
    harmonic or formant drives both. Source: Wang and Brown 1999.
    """
    if len(correlograms) == 1:
        return correlograms.new_ones(correlograms.shape[:2])
    centred = correlograms - correlograms.mean(-1, keepdim=True)
    unit = centred / centred.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(centred.dtype).tiny)
    pairs = (unit[:-1] * unit[1:]).sum(-1)  # (channels - 1, L)
    return torch.cat([pairs, pairs[-1:]])
