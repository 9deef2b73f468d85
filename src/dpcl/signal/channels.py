"""Facts about the channels of a recording: which hold speech, cancel each other, or are parties.

speech    the level changes, and the spectrum is no noise, tone or LFE channel
cancels   some of the sound has opposite phase in two channels, so their mean would lose it
apart     the channels share little, as in a recorded call: each channel is one party
differ    the channels are no copies of each other, so their differences may distinguish sources

Channels that are equal up to a gain are compared with others once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

SECONDS = 0.064  # length of a frame
BAND = 200.0, 3500.0  # Hz, lowest and highest frequency of speech that counts
LEAST_SHARE = 0.03  # least share of the energy of a speech channel in that band
LEAST_DB = -40.0  # least level of a speech channel, relative to the loudest
EVEN = 0.045, 0.6  # range for speech of (mean magnitude)² / mean power; tones less, noise more
STANDS_OUT = 0.5  # least range of the levels of a speech channel, as a share of the widest range
QUIET, LOUD = 0.2, 0.95  # quantiles of the levels that define their range
WIDEST = 25.0  # dB, largest range that counts: a party with noise and leaks has 16 dB
CANCELS = 0.1  # share of the energy in opposite phase from which the mean is avoided
OPPOSITE = -0.5  # cosine of the phase difference below which two bins cancel
COHERENT = 0.35  # largest coherence of two parties; crosstalk of -14 dB makes 0.2 to 0.32
DOMINATES = 4.0  # ratio of magnitudes from which a bin belongs to one channel
ALONE = 0.55  # least share of the energy of a party in bins where it dominates another one
DELAYS = torch.arange(-320, 321) / 16000  # s, of leaks
MOST_LEAK = 0.3  # largest gain of a party in the channel of another
CERTAIN = 5.0  # least gain of a leak, in standard deviations of the gain of channels without one
COPY = 0.9999  # coherence from which two channels are one, up to a filter; also up to a gain


@dataclass(frozen=True)
class Channels:
    """Facts about the channels of a recording.

    Attributes:
        speech: channels with speech, at least one, without copies of others.
        cancels: the mean of these channels would lose a part of the sound.
        apart: each of these channels holds one party.
        leaks: (M, M), gain of the party of a column in the channel of a row.
        delays: (M, M), delays of the leaks in s.
        differ: two of these channels are no copies of each other, up to a filter.
        equal: for each channel the number of the channel of `speech` that it equals, or its own.
    """

    speech: tuple[int, ...]
    cancels: bool
    apart: bool
    leaks: Tensor
    differ: bool = False
    equal: tuple[int, ...] = ()
    delays: Tensor = field(default_factory=lambda: torch.zeros(0))

    def weights(self, channels: Sequence[int]) -> Tensor:
        """Return the weights of some channels of `speech` in their mean: their numbers of copies.

        Copies count here: the other channels are often noisier.
        """
        counts = torch.tensor([max(1, self.equal.count(channel)) for channel in channels])
        return counts / counts.sum()


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
        self._frequencies = bins[self._band]
        size = channels, channels
        self._cross = torch.zeros(int(self._band.sum()), *size, dtype=torch.complex128)
        self._opposite, self._both = torch.zeros(2, *size, dtype=torch.float64)
        self._alone = torch.zeros(2, *size, dtype=torch.float64)
        # Where a channel (last) dominates: sums of its products with the other, and of the squares.
        self._leaked = torch.zeros_like(self._cross)
        self._squares = torch.zeros(size, dtype=torch.float64)
        self._energy, self._own, self._even = torch.zeros(3, channels, dtype=torch.float64)
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
        self._even += magnitude.mean(-1).square().sum(1) * magnitude.shape[-1]
        self._levels.append(magnitude.square().sum(-1))
        self._cross += torch.einsum("alf,blf->fab", x, x.conj())
        power = magnitude.square()
        # A party far softer than the other dominates by levels relative to those so far.
        level = self._own.sqrt().clamp_min(1e-150)[:, None, None]
        for one in range(len(block)):
            both = magnitude[one] * magnitude  # (M, l, F)
            product = x * x[one].conj()
            real = product.real
            self._both[one] += both.sum((1, 2))
            self._opposite[one] += (both * (real < OPPOSITE * both)).sum((1, 2))
            dominates = magnitude[one] > DOMINATES * magnitude
            relatively = magnitude[one] > DOMINATES * level[one] / level * magnitude
            self._alone[0, one] += (power[one] * dominates).sum((1, 2))
            self._alone[1, one] += (power[one] * relatively).sum((1, 2))
            self._leaked[:, :, one] += (product * dominates).sum(1).T
            self._squares[:, one] += (both.square() * dominates).sum((1, 2)) / 2  # of real parts

    def result(self) -> Channels:
        """Return the facts about the channels."""
        channels = len(self._energy)
        each = tuple(range(channels))
        none = Channels((0,), False, False, torch.zeros(channels, channels), equal=each)
        if not self._levels or not float(self._own.max()) > 0:
            return none
        levels = torch.cat(self._levels, 1)  # (M, l)
        speech, equal = self._distinct(self._speech(levels))
        pairs = [(a, b) for a in speech for b in speech if a != b]
        if not pairs:
            return Channels(speech, False, False, none.leaks, equal=equal)
        rows, columns = (list(side) for side in zip(*pairs, strict=True))
        tiny = torch.finfo(torch.float64).tiny
        share = self._opposite / self._both.clamp_min(tiny)
        power = torch.diagonal(self._cross, dim1=1, dim2=2).real  # (F, M)
        product = (power.unsqueeze(-1) * power.unsqueeze(-2)).sqrt().sum(0)
        coherence = (self._cross.abs().sum(0) / product.clamp_min(tiny)).square()
        alone = self._alone.amax(0) / self._own.clamp_min(tiny).unsqueeze(-1)
        apart = bool(
            (coherence[rows, columns] < COHERENT).all() and (alone[rows, columns] > ALONE).all()
        )
        cancels = bool((share[rows, columns] > CANCELS).any())
        differ = bool((coherence[rows, columns] < COPY).any())
        leaks, delays = self._leaks(pairs)
        return Channels(speech, cancels, apart, leaks, differ, equal, delays)

    def _speech(self, levels: Tensor) -> tuple[int, ...]:
        """Return the channels with speech; the loudest channel if none has."""
        decibels = 10 * (levels / levels.max() + 1e-12).log10()
        loud = torch.quantile(decibels, LOUD, dim=1)
        ranges = (loud - torch.quantile(decibels, QUIET, dim=1)).clamp_max(WIDEST)
        audible = (loud > loud.max() + LEAST_DB) & (
            self._own > LEAST_SHARE * self._energy.clamp_min(1e-300)
        )
        even = self._even / self._own.clamp_min(1e-300)
        voiced = audible & (even > EVEN[0]) & (even < EVEN[1])
        audible = voiced if voiced.any() else audible
        if not audible.any():
            return (int(self._own.argmax()),)
        stands_out = audible & (ranges >= STANDS_OUT * ranges[audible].max())
        return tuple(stands_out.nonzero()[:, 0].tolist())

    def _distinct(self, speech: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the loudest of the channels that are equal up to a gain, and `equal`."""
        cross = self._cross.real.sum(0)  # (M, M)
        equal = list(range(len(cross)))
        found: list[int] = []
        for one in sorted(speech, key=lambda channel: -float(self._own[channel])):
            for other in found:
                if cross[one, other].square() > COPY * cross[one, one] * cross[other, other]:
                    equal[one] = other
                    break
            else:
                found.append(one)
        return tuple(sorted(found)), tuple(equal)

    def _leaks(self, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Estimate gains and delays (M, M) of leaks, where the party that leaks dominates."""
        leaks, delays = torch.zeros(2, *self._squares.shape)
        phases = 2 * torch.pi * self._frequencies[:, None] * DELAYS  # (F, delays)
        shifts = torch.polar(torch.ones_like(phases), phases).to(self._leaked)
        for one, other in pairs:
            products = (self._leaked[:, one, other] @ shifts).real  # (delays,)
            best = int(products.abs().argmax())
            if products[best].abs() > CERTAIN * self._squares[one, other].sqrt():
                gain = float(products[best] / self._alone[0, other, one])
                leaks[one, other] = max(-MOST_LEAK, min(gain, MOST_LEAK))
                delays[one, other] = DELAYS[best]
        return leaks, delays


def party_spectra(spectrum: Tensor, channels: Channels, seconds: float) -> Tensor:
    """Compute the images of the parties of a recording with one party in each channel.

    The leaks of the other parties are subtracted from a channel, and given to them.

    Args:
        spectrum: complex (M, l, F).
        channels: facts about its channels.
        seconds: length of a window.

    Returns:
        Spectra (C, M, l, F) of the parties in the channels, C speech channels; they sum to
        `spectrum`.
    """
    parties = channels.speech
    images = spectrum.repeat(len(parties), 1, 1, 1) / len(parties)
    bins = torch.arange(spectrum.shape[-1])
    for number, own in enumerate(parties):
        images[number, own] = spectrum[own]
        for other_number, other in enumerate(parties):
            if other_number != number:
                phases = -2 * torch.pi * bins / seconds * channels.delays[own, other]
                leak = channels.leaks[own, other] * torch.polar(torch.ones_like(phases), phases)
                images[other_number, own] = leak * spectrum[other]
                images[number, own] -= images[other_number, own]
    for channel, like in enumerate(channels.equal):
        if like != channel:
            shares = images[:, like] / torch.where(spectrum[like] == 0, 1, spectrum[like])
            shares = torch.where(spectrum[like] == 0, 1 / len(parties), shares)
            images[:, channel] = shares * spectrum[channel]
    return images


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
