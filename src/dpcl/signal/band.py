"""Bands of a recording: the band of a separator, and sound below 70 Hz (DC, hum, rumble).

An STFT of the recording with windows as long as the network's has the same frequencies. Its
first bins are the network's input without resampling, and the masks fit in place.

Speech has nothing below 70 Hz, and loudspeakers of telephones and laptops do not play it. But a
loud part there leaks into the bins above, where masks would modulate it. So it is split off; in
streams also the harmonics of hum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dpcl.signal.audio import resample
from dpcl.signal.features import LOWEST
from dpcl.signal.stft import STFT

# Share of the network's band that resampling leaves intact; above it no mask can be estimated.
REACH = 0.9

EDGES = 60.0, 85.0  # Hz, end of the part below and beginning of the part above
DEPTH = 80.0  # dB, attenuation beyond both edges
LOUD_SHARE = 0.03  # least power below 70 Hz, relative to the rest, of a recording with rumble
MEASURED_AT = 2000  # Hz, approximate sample rate at which the power is measured
HISTORY = 0.16  # s before the end of a frame, from which its part below 70 Hz is estimated
STRONG, WHITE = 62.0, 80.0  # Hz, end of the strong sound and beginning of the white one
LOUDER = 1e6  # density of the strong sound relative to the white one
BETWEEN = 0.01  # density between and below, relative to the white sound
SPACING = 2.0  # Hz between the waves that make up the strong sound

LINES_BELOW = 425.0  # Hz, up to which lines are searched: the strong harmonics of hum
STEADY = 1.0  # s over which a line has one frequency and one amplitude
SOONEST = 0.16  # s of signal from which a line is found
COHERENT = 0.4  # least share of the energy of a bin in its line; 0.3 costs clean voices 0.02 dB
FEW = 6.0  # of n frames it is larger by FEW / n: by chance a few frames look like a line
LAGS = 1, 3, 9, 27  # frames; each lag refines the frequency that the one before it left ambiguous
AT_A_BIN = 2  # lines that one bin can hold: 120 and 180 Hz share some


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

    def crop(self, magnitude: Tensor, bins: int | None = None) -> Tensor:
        """Crop magnitudes of the recording to the network's band.

        Args:
            magnitude: (..., L, F).
            bins: number of bins F' of the result; those of the network if omitted.

        Returns:
            (..., L, F'), damped at the top of the network's band as resampling would do.
        """
        own = self.network.bins
        bins = bins or own
        cropped = functional.pad(magnitude[..., :bins], (0, max(0, bins - magnitude.shape[-1])))
        damped = cropped[..., :own] * _response(self.sample_rate, self.network_rate, own)
        return torch.cat([damped, cropped[..., own:]], -1)

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

    A linear-phase filter gives the lower part; at both ends, where it has too few samples, the
    estimate of `LowSTFT`.

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
        if kept.shape[1] <= 2 * half:
            continue
        if not begun:
            low = _low_of_end(kept[:, : 2 * half], sample_rate)[:, :half]
            yield kept[:, :half] - low, low
            begun = True
        yield _parts(kept, taps)
        kept = kept[:, -2 * half :]
    if kept is not None and kept.shape[1]:
        low = _low_of_end(kept, sample_rate)
        if begun:
            kept, low = kept[:, half:], low[:, half:]
        yield kept - low, low


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


class LowSTFT:
    """STFT of the part below 70 Hz of a signal that arrives in blocks, without delay.

    Its frames are those of `BlockSTFT`. The part below 70 Hz of each frame is the best linear
    estimate from the HISTORY seconds that end with the frame: of a strong sound below 60 Hz in
    one that is white from 80 Hz up. A causal filter would be late, or shift the phase of voices.

    Args:
        sample_rate: in Hz.
        stft: settings of the transform.

    Source: Wiener 1949 (estimate of a process in another one, from their spectra).
    """

    def __init__(self, sample_rate: int, stft: STFT) -> None:
        self.stft, self._rate = stft, sample_rate
        self._parts = max(1, min(stft.hop, round(stft.hop * MEASURED_AT / sample_rate)))
        self._means = _averages(torch.eye(stft.hop, dtype=torch.float64), self._parts).float()
        ratio = stft.window // stft.hop
        self._hops = max(ratio, round(HISTORY * sample_rate / stft.hop))  # that a frame rests on
        count = self._hops * stft.hop
        waves, self._reduced, self._centres = _waves(count, self._hops * self._parts, sample_rate)
        self._waves = waves[-stft.window :]  # (window, waves)
        self._steady = self._estimator(0, 0)
        self._past = torch.zeros(self._hops - ratio, self._parts)  # means of earlier hops
        self._unknown = self._hops * self._parts  # parts of `_past` before the first sample
        self._unknown -= (stft.window - stft.window // 2) * self._parts // stft.hop
        self._waiting = torch.zeros(stft.window // 2)
        self._samples = 0

    def push(self, block: Tensor) -> Tensor:
        """Add a block (n,) and return the frames that are now complete (l, F)."""
        self._samples += len(block)
        return self._frames(block, 0)

    def finish(self) -> Tensor:
        """Return the frames that reach beyond the end (l, F); no `push` may follow."""
        stft = self.stft
        missing = stft.window - stft.window // 2 + -self._samples % stft.hop
        return self._frames(self._waiting.new_zeros(missing), missing)

    def _frames(self, block: Tensor, missing: int) -> Tensor:
        """Return the frames that a block completes, whose last samples may be missing."""
        stft, parts = self.stft, self._parts
        samples = torch.cat([self._waiting, block])
        count = max(0, (len(samples) - stft.window) // stft.hop + 1)
        if not count:
            self._waiting = samples
            return torch.zeros(0, stft.bins, dtype=torch.complex64)
        ratio = stft.window // stft.hop
        hops = samples[: (count + ratio - 1) * stft.hop].view(-1, stft.hop)
        means = torch.cat([self._past, hops @ self._means.T])  # (count + hops - 1, parts)
        known = means.flatten().unfold(0, self._hops * parts, parts)  # (count, hops * parts)
        self._past = means[count : count + len(self._past)].clone()
        self._waiting = samples[count * stft.hop :].clone()
        known = known.double()  # large terms cancel
        low = known @ self._steady.T @ self._waves.T  # (count, window)
        for frame in range(count):
            ends = min(stft.window, len(samples) - missing - frame * stft.hop)
            after = -(-(stft.window - ends) * parts // stft.hop)
            if self._unknown or after:
                estimate = self._waves @ (self._estimator(self._unknown, after) @ known[frame])
                low[frame] = torch.where(self._inside(ends), estimate, 0.0)
            self._unknown = max(0, self._unknown - parts)
        spectrum: Tensor = torch.fft.rfft(low.to(samples) * stft.taper(samples))
        return spectrum

    def _inside(self, ends: int) -> Tensor:
        """Return True for samples of a frame (window,) in the signal, up to `ends`."""
        first = self.stft.window - self._hops * self.stft.hop
        places = torch.arange(self.stft.window)
        return (places >= first + self._unknown * self.stft.hop // self._parts) & (places < ends)

    def _estimator(self, before: int, after: int) -> Tensor:
        """Return the matrix (waves, hops * parts) from means of a frame and its past to waves.

        Args:
            before: number of means before the first sample, which are unknown.
            after: number of means after the last sample.
        """
        estimator = torch.zeros_like(self._reduced).T
        inside = slice(before, len(self._reduced) - after)
        rate = self._rate * self._parts / self.stft.hop  # of the means
        estimator[:, inside] = _estimator(self._reduced[inside], self._centres[inside], rate)
        return estimator


class SteadyLines:
    """Lines of constant frequency and amplitude in the lower bins, such as harmonics of mains hum.

    The voices of talkers are never so steady; the lines are estimated from the frames before and
    including each one, without delay.

    Args:
        sample_rate: in Hz.
        stft: settings of the transform.

    Example:
        >>> stft = STFT(320, 160)
        >>> hum = torch.sin(2 * math.pi * 150 * torch.arange(8000) / 8000)
        >>> frames = stft(hum)
        >>> line = SteadyLines(8000, stft).push(frames)
        >>> (frames - line)[20:40].abs().amax() < 0.05 * frames.abs().amax()
        tensor(True)

    Source: Kay 1989 (frequency of a line from the phases of its autocorrelation).
    """

    def __init__(self, sample_rate: int, stft: STFT) -> None:
        rate = sample_rate / stft.hop  # frames in a second
        self._bins = slice(
            bins_below(sample_rate, stft.window), round(LINES_BELOW * stft.window / sample_rate)
        )
        self._count = max(1 + max(LAGS), round(STEADY * rate))
        self._soonest = round(SOONEST * rate)
        width = max(0, self._bins.stop - self._bins.start)
        self._past = torch.zeros(self._count - 1, width, dtype=torch.complex64)
        self._seen = -(stft.window // 2 // stft.hop)  # the first frames are not full

    def push(self, spectrum: Tensor) -> Tensor:
        """Return the lines in the next frames (L, F), zero where there are none."""
        seen = (self._seen + 1 + torch.arange(len(spectrum))).clamp_min(0)
        self._seen += len(spectrum)
        low = torch.cat([self._past, spectrum[:, self._bins] * (seen > 0)[:, None]])
        self._past = low[len(spectrum) :].clone()
        frames = low.unfold(0, self._count, 1)  # (L, bins, count); the last is the current one
        rest = frames
        for _ in range(AT_A_BIN):
            rest = rest - self._strongest(rest, seen.clamp_max(self._count)[:, None])
        lines = torch.zeros_like(spectrum)
        lines[:, self._bins] = (frames - rest)[..., -1]
        return lines

    def _strongest(self, frames: Tensor, seen: Tensor) -> Tensor:
        """Return the strongest line of each bin in frames (L, bins, count), `seen` (L, 1)."""
        angle = torch.zeros(frames.shape[:-1])  # from a frame to the next one
        for lag in LAGS:
            turn = (frames[..., lag:] * frames[..., :-lag].conj()).sum(-1)
            angle = angle + (turn * torch.polar(torch.ones(()), -lag * angle)).angle() / lag
        places = torch.arange(1 - self._count, 1)
        wave = torch.polar(torch.ones(()), angle[..., None] * places)
        wave = wave * (places > -seen[..., None])
        amplitude = (frames * wave.conj()).sum(-1) / seen.clamp_min(1)
        line = amplitude[..., None] * wave
        coherent = amplitude.abs().square() * seen > (COHERENT + FEW / seen) * _energy(frames)
        still = (frames - line)[..., -1].abs() < frames[..., -1].abs()
        found = coherent & still & (seen >= self._soonest)
        return torch.where(found[..., None], line, 0.0)


def _energy(frames: Tensor) -> Tensor:
    return frames.abs().square().sum(-1)


def _low_of_end(samples: Tensor, sample_rate: int) -> Tensor:
    """Estimate the part below 70 Hz (channels, n) of a short stretch from itself."""
    count = samples.shape[1]
    parts = max(1, min(count, round(count * MEASURED_AT / sample_rate)))
    waves, reduced, centres = _waves(count, parts, sample_rate)
    estimator = _estimator(reduced, centres, sample_rate * parts / count)
    low = waves @ (estimator @ _averages(samples.double().T, parts))
    return low.T.to(samples)


def _averages(values: Tensor, parts: int) -> Tensor:
    """Average values (n, …) over equal parts of them: (parts, …)."""
    edges = torch.arange(parts + 1) * len(values) // parts
    sums = functional.pad(values.cumsum(0), (0, 0, 1, 0))
    return sums[edges].diff(dim=0) / edges.diff().unsqueeze(-1)


def _waves(count: int, parts: int, sample_rate: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return waves below 62 Hz (n, waves), their means (parts, waves), and their centres in s."""
    times = torch.arange(count, dtype=torch.float64) / sample_rate
    phases = 2 * math.pi * torch.arange(0, STRONG + 1, SPACING) * times[:, None]
    waves = torch.cat([phases.cos(), phases.sin()[:, 1:]], 1)
    return waves, _averages(waves, parts), _averages(times[:, None], parts)[:, 0]


def _estimator(reduced: Tensor, centres: Tensor, rate: float) -> Tensor:
    """Return the matrix (waves, parts) from means of a signal to its waves below 62 Hz.

    Args:
        reduced: means of the waves (parts, waves).
        centres: times of the means in s.
        rate: number of means in a second.
    """
    lags = 2 * WHITE / rate * torch.sinc(2 * WHITE * (centres[:, None] - centres))
    others = torch.eye(len(reduced), dtype=reduced.dtype) - (1 - BETWEEN) * lags
    strength = LOUDER * 2 * SPACING / rate
    matrix: Tensor = torch.linalg.solve(strength * reduced @ reduced.T + others, reduced).T
    return strength * matrix
