"""Model of the auditory periphery: gammatone filters, correlograms, pitch and unit masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.signal.stft import STFT

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


JUMP = 4  # steps of the pitch grid that a voice may glide from one frame to the next
NEVER = -1e9


def lag_grid(lowest: float, highest: float, sample_rate: int, step: float = 0.03) -> Tensor:
    """Periods (G,) in samples, fractional, from that of `highest` to that of `lowest` (Hz).

    Neighbours differ by the ratio exp(step), so that a step is an interval, as pitch is heard.
    """
    ends = (math.log(sample_rate / highest), math.log(sample_rate / lowest))
    return torch.exp(torch.arange(*ends, step, dtype=torch.float64)).float()


def at_lags(correlograms: Tensor, lags: Tensor) -> Tensor:
    """correlograms (..., whole lags) at fractional lags (G,), by linear interpolation."""
    low = lags.floor().long()
    high = (low + 1).clamp(max=correlograms.shape[-1] - 1)
    return torch.lerp(correlograms[..., low], correlograms[..., high], lags - low)


def explained(periodicity: Tensor, weights: Tensor, aperiodic: float, voiced: float) -> Tensor:
    """How well each pair of pitches explains each frame, beyond what noise would.

    periodicity: (channels, L, G), the correlogram at the grid's lags; weights: (channels, L);
    aperiodic: the periodicity that a unit has without any pitch; voiced: the cost of a pitch.
    Returns (L, G + 1, G + 1), symmetric; index G stands for no pitch.

        score(a, b) = sum_c w_c (max(A_c(a), A_c(b), aperiodic) - aperiodic) - voiced * pitches

    Each unit goes to the pitch that fits it better: the mask and the pitches are found together.
    Sources: the three state spaces (no, one, two pitches) of Wu, Wang and Brown 2003.
    """
    channels, frames, lags = periodicity.shape
    gains = torch.nn.functional.pad((periodicity - aperiodic).clamp_min(0), (0, 1))
    scores = gains.new_empty(frames, lags + 1, lags + 1)
    for frame in range(frames):  # all at once would take channels times the memory
        gain = gains[:, frame]  # (channels, G + 1)
        pairs = torch.maximum(gain[:, :, None], gain[:, None])  # (channels, G + 1, G + 1)
        scores[frame] = (weights[:, frame] @ pairs.view(channels, -1)).view(lags + 1, lags + 1)
    costs = torch.full((lags + 1,), voiced)
    costs[-1] = 0
    return scores - costs[:, None] - costs


def best_tracks(scores: Tensor, glide: float, start: float, stop: float) -> Tensor:
    """The best two tracks through scores (L, G + 1, G + 1) -> grid indices (L, 2), G: no pitch.

    A track pays `glide` a step of the grid that it moves, at most JUMP a frame, `start` to begin
    and `stop` to end. The pair is one hidden state (Viterbi 1967; for pitch: Wu, Wang and Brown
    2003), but each track moves by itself, so a step maximises over one and then over the other.
    """
    frames, states, _ = scores.shape
    best = scores[0]
    before: list[tuple[Tensor, Tensor]] = []
    for frame in range(1, frames):
        best, first = _move(best, glide, start, stop)
        best, second = _move(best.T, glide, start, stop)
        best = best.T + scores[frame]
        before.append((first, second.T))
    a, b = divmod(int(best.argmax()), states)
    path = [(a, b)]
    for first, second in reversed(before):
        b = int(second[a, b])
        a = int(first[a, b])
        path.append((a, b))
    return torch.tensor(path[::-1])


def _move(best: Tensor, glide: float, start: float, stop: float) -> tuple[Tensor, Tensor]:
    """One step of the track in dimension 0: the best scores (G + 1, S), and where from."""
    voiced, silent = best[:-1], best[-1]
    grid = len(voiced)
    padded = torch.nn.functional.pad(voiced, (0, 0, JUMP, JUMP), value=NEVER)
    moves = [padded[k : k + grid] - glide * abs(k - JUMP) for k in range(2 * JUMP + 1)]
    value, move = torch.stack([*moves, (silent - start).expand(grid, -1)]).max(0)
    origin = torch.arange(grid)[:, None] + move - JUMP
    origin = torch.where(move == 2 * JUMP + 1, grid, origin)
    ended, which = (voiced - stop).max(0)
    stay = silent >= ended
    value = torch.cat([value, torch.where(stay, silent, ended)[None]])
    return value, torch.cat([origin, torch.where(stay, grid, which)[None]]).to(torch.int16)


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


def masks_by_units(
    spectrum: Tensor, sources: int, unit_masks: Callable[[Scene, int], Tensor]
) -> Tensor:
    """Return the masks (C, L, F) of a spectrum (L, F) of STFT_8K, from its auditory scene.

    unit_masks: from a scene and C to masks (C, channels, L) of its units that sum to one.
    """
    frames = len(spectrum)
    samples = STFT_8K.inverse(spectrum, max(1, (frames - 1) * STFT_8K.hop))
    return unit_masks_to_bins(unit_masks(listen(samples), sources), frames).to(samples.dtype)
