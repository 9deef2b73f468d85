"""Facts about the channels of a recording: which hold speech, cancel each other, or are parties.

speech    the level changes, and not all of it is below 200 Hz; noise and an LFE channel do not
cancels   some of the sound has opposite phase in two channels, so their mean would lose it
apart     the channels share little, as in a recorded call: each channel is one party
differ    the channels are no copies of each other, so their differences may distinguish sources
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SECONDS = 0.064  # length of a frame
BAND = 200.0, 3500.0  # Hz, lowest and highest frequency of speech that counts
LEAST_SHARE = 0.03  # least share of the energy of a speech channel in that band
LEAST_DB = -40.0  # least level of a speech channel, relative to the loudest
STANDS_OUT = 0.5  # least range of the levels of a speech channel, as a share of the widest range
QUIET, LOUD = 0.2, 0.95  # quantiles of the levels that define their range
CANCELS = 0.1  # share of the energy in opposite phase from which the mean is avoided
OPPOSITE = -0.5  # cosine of the phase difference below which two bins cancel
COHERENT = 0.1  # largest coherence of two parties
DOMINATES = 4.0  # ratio of magnitudes from which a bin belongs to one channel
ALONE = 0.3  # least share of the energy of a party in bins that it dominates
PAUSES = 0.05  # quantile of level differences: the other party pauses
MOST_LEAK = 0.3  # largest gain of a party in the channel of another
COPY = 0.9999  # coherence from which two channels are one, up to a filter


@dataclass(frozen=True)
class Channels:
    """Facts about the channels of a recording.

    Attributes:
        speech: channels with speech, at least one.
        cancels: the mean of these channels would lose a part of the sound.
        apart: each of these channels holds one party.
        leaks: (M, M), gain of the party of a column in the channel of a row.
        differ: two of these channels are no copies of each other, up to a filter.
    """

    speech: tuple[int, ...]
    cancels: bool
    apart: bool
    leaks: Tensor
    differ: bool = False


class ChannelStatistics:
    """Statistics of the channels of a recording that arrives in blocks.

    Args:
        sample_rate: in Hz.
        channels: number of channels M.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._window = max(16, round(SECONDS * sample_rate))
        bins = torch.arange(self._window // 2 + 1) * sample_rate / self._window
        self._band = (bins >= BAND[0]) & (bins <= BAND[1])
        size = channels, channels
        self._cross = torch.zeros(int(self._band.sum()), *size, dtype=torch.complex128)
        self._opposite, self._both = torch.zeros(2, *size, dtype=torch.float64)
        self._alone, self._energy, self._own = torch.zeros(3, channels, dtype=torch.float64)
        self._levels: list[Tensor] = []

    def push(self, block: Tensor) -> None:
        """Add a block (M, n); samples after its last whole frame are omitted."""
        count = block.shape[1] // self._window
        if not count:
            return
        frames = block[:, : count * self._window].double().view(len(block), count, self._window)
        spectrum = torch.fft.rfft(frames * torch.hann_window(self._window, dtype=frames.dtype))
        x = spectrum[..., self._band]  # (M, l, F)
        magnitude = x.abs()
        self._energy += spectrum.abs().square().sum((1, 2))
        self._own += magnitude.square().sum((1, 2))
        self._levels.append(magnitude.square().sum(-1))
        self._cross += torch.einsum("alf,blf->fab", x, x.conj())
        for one in range(len(block)):
            others = magnitude.clone()
            others[one] = 0
            alone = magnitude[one] > DOMINATES * others.amax(0)
            self._alone[one] += (magnitude[one].square() * alone).sum()
            both = magnitude[one] * magnitude  # (M, l, F)
            real = (x[one] * x.conj()).real
            self._both[one] += both.sum((1, 2))
            self._opposite[one] += (both * (real < OPPOSITE * both)).sum((1, 2))

    def result(self) -> Channels:
        """Return the facts about the channels."""
        channels = len(self._energy)
        none = Channels((0,), False, False, torch.zeros(channels, channels))
        if not self._levels or not float(self._own.max()) > 0:
            return none
        levels = torch.cat(self._levels, 1)  # (M, l)
        speech = self._speech(levels)
        pairs = [(a, b) for a in speech for b in speech if a != b]
        if not pairs:
            return Channels(speech, False, False, none.leaks)
        rows, columns = (list(side) for side in zip(*pairs, strict=True))
        tiny = torch.finfo(torch.float64).tiny
        share = self._opposite / self._both.clamp_min(tiny)
        power = torch.diagonal(self._cross, dim1=1, dim2=2).real  # (F, M)
        product = (power.unsqueeze(-1) * power.unsqueeze(-2)).sqrt().sum(0)
        coherence = (self._cross.abs().sum(0) / product.clamp_min(tiny)).square()
        alone = self._alone / self._own.clamp_min(tiny)
        apart = bool(
            (coherence[rows, columns] < COHERENT).all() and (alone[list(speech)] > ALONE).all()
        )
        cancels = bool((share[rows, columns] > CANCELS).any())
        differ = bool((coherence[rows, columns] < COPY).any())
        return Channels(speech, cancels, apart, self._leaks(levels, pairs), differ)

    def _speech(self, levels: Tensor) -> tuple[int, ...]:
        """Return the channels with speech; the loudest channel if none has."""
        decibels = 10 * (levels / levels.max() + 1e-12).log10()
        loud = torch.quantile(decibels, LOUD, dim=1)
        ranges = loud - torch.quantile(decibels, QUIET, dim=1).clamp_min(-80)
        audible = (loud > loud.max() + LEAST_DB) & (
            self._own > LEAST_SHARE * self._energy.clamp_min(1e-300)
        )
        if not audible.any():
            return (int(self._own.argmax()),)
        stands_out = audible & (ranges >= STANDS_OUT * ranges[audible].max())
        return tuple(stands_out.nonzero()[:, 0].tolist())

    def _leaks(self, levels: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
        """Estimate the gains (M, M) of the parties in other channels, from levels (M, l).

        Where a party is loud and the other pauses, the other's channel holds the leak alone. If
        they never pause, the common part of both channels is the smaller value.
        """
        leaks = torch.zeros(len(levels), len(levels))
        common = self._cross.abs().sum(0)  # (M, M)
        for one, other in pairs:
            loud = levels[other] >= torch.quantile(levels[other], 0.7)
            ratio = (levels[one] / levels[other].clamp_min(1e-300))[loud].sqrt()
            alone = float(torch.quantile(ratio, PAUSES))
            coherent = float(common[one, other] / common[other, other].clamp_min(1e-300))
            leaks[one, other] = min(alone, coherent, MOST_LEAK)
        return leaks


def party_masks(spectrum: Tensor, channels: Channels) -> Tensor:
    """Compute masks for a recording with one party in each channel.

    The leaks of the other parties are subtracted from a channel, and given to them.

    Args:
        spectrum: complex (M, l, F).
        channels: facts about its channels.

    Returns:
        Masks (C, M, l, F) of the parties in the channels, C speech channels; they sum to one.
    """
    power = spectrum.abs().square()
    parties = channels.speech
    masks = power.new_full((len(parties), *power.shape), 1 / len(parties))
    for number, own in enumerate(parties):
        rest = torch.ones_like(power[own])
        for other_number, other in enumerate(parties):
            if other_number == number:
                continue
            leak = 2 * channels.leaks[own, other] ** 2 * power[other]
            share = (leak / power[own].clamp_min(1e-30)).clamp(max=1) * rest
            masks[other_number, own] = share
            rest = rest - share
        masks[number, own] = rest
    return masks


def power_mean(spectrum: Tensor, speech: Sequence[int]) -> Tensor:
    """Average channels without cancellation: root of the mean power, phase of the first channel.

    Args:
        spectrum: complex (M, ..., l, F).
        speech: channels to average.

    Returns:
        (..., l, F), complex.
    """
    x = spectrum[list(speech)]
    return torch.polar(x.abs().square().mean(0).sqrt(), x[0].angle())
