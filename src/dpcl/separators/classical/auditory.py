"""Model of the auditory periphery: gammatone filters, correlograms, pitch and unit masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.separators.base import WindowSeparator
from dpcl.signal.stft import STFT

ORDER = 4  # order of the gammatone filters
RESPONSE = 0.128  # s of impulse response; at 50 Hz it then lies 60 dB below its peak
BANDWIDTH = 1.019  # bandwidth of a filter of order 4, in ERB (Patterson et al. 1988)


def erb(frequencies: Tensor) -> Tensor:
    """Return the equivalent rectangular bandwidth in Hz at frequencies in Hz.

    Example:
        >>> erb(torch.tensor([1000.0])).round()
        tensor([133.])

    Source: Glasberg and Moore 1990.
    """
    return 24.7 * (4.37e-3 * frequencies + 1)


def erb_rate(frequencies: Tensor) -> Tensor:
    """Return the number of ERBs below frequencies in Hz.

    Source: Glasberg and Moore 1990, equation 4.
    """
    return 21.4 * (4.37e-3 * frequencies + 1).log10()


def centre_frequencies(channels: int, lowest: float, highest: float) -> Tensor:
    """Return frequencies at equal steps of the ERB rate, both ends included.

    Args:
        channels: number of frequencies.
        lowest: first frequency in Hz.
        highest: last frequency in Hz.

    Returns:
        Frequencies (channels,) in Hz, float64.
    """
    ends = erb_rate(torch.tensor([lowest, highest], dtype=torch.float64))
    rates = ends[0] + (ends[1] - ends[0]) * torch.linspace(0, 1, channels, dtype=torch.float64)
    return (10 ** (rates / 21.4) - 1) / 4.37e-3


@dataclass(frozen=True)
class GammatoneFilterbank:
    """Gammatone filters of order 4, spaced by ERB, of unit gain at their centre frequencies.

    Envelopes and fine structures of the filters peak together: each response is advanced by the
    delay of its envelope, 3 / (2 pi b). So a click is one vertical line over all channels.

    Attributes:
        sample_rate: in Hz.
        channels: number of filters.
        lowest: lowest centre frequency in Hz.
        highest: highest centre frequency in Hz.

    Sources: Patterson et al. 1988; the alignment as in Brown and Cooke 1994; see Wang and Brown
    2006.
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
        """Filter samples.

        Args:
            samples: (T,) at `sample_rate`.

        Returns:
            Analytic responses (channels, T): the real part is the output of the filter, the
            magnitude its envelope.
        """
        kernel = round(RESPONSE * self.sample_rate)
        size = fast_length(samples.shape[-1] + kernel)
        spectrum = torch.fft.rfft(samples, size)  # (size // 2 + 1,)
        gains = self._gains(size).to(spectrum.dtype)  # (channels, size // 2 + 1)
        # Negative frequencies stay zero: the inverse transform is the analytic signal.
        responses: Tensor = torch.fft.ifft(2 * spectrum * gains, size)
        return responses[:, : samples.shape[-1]]

    def _gains(self, size: int) -> Tensor:
        """Return gains (channels, size // 2 + 1) for a Fourier transform of `size` samples."""
        centres = self.centres[:, None]  # (channels, 1)
        widths = BANDWIDTH * erb(centres)
        frequencies = torch.fft.rfftfreq(size, 1 / self.sample_rate, dtype=torch.float64)
        # Fourier transform of t³ exp(-2 pi b t) exp(2 pi i f t), up to its scale.
        gains: Tensor = (1 + 1j * (frequencies - centres) / widths) ** -ORDER
        lead = (ORDER - 1) / (2 * math.pi * widths)  # s
        gains = gains * torch.exp(2j * math.pi * (frequencies - centres) * lead)
        return gains


def fast_length(samples: int) -> int:
    """Return the smallest 2^i 3^k, k < 4, that is not below `samples`, for fast Fourier transforms.

    Transforms of prime lengths are slow.

    Example:
        >>> fast_length(1000)
        1024
    """
    lengths = [3**k << max(0, (-(-samples // 3**k) - 1).bit_length()) for k in range(4)]
    return int(min(lengths))


# Power of a frame, relative to the loudest, below which it holds only rounding errors.
NOTHING = 1e-10


def correlogram(signals: Tensor, window: int, hop: int, lags: int) -> Tensor:
    """Compute the normalised autocorrelation of each channel around every hop-th sample, by FFT.

        A(lag) = sum_n x(n) x(n + lag) / sqrt(sum_n x(n)² sum_n x(n + lag)²)

    with n over the window, and 0 in silence. A signal of period p has A(p) = 1, also if its level
    changes from one period to the next. Frame l holds the window centred on sample l hop, like a
    frame of an STFT.

    Args:
        signals: (channels, T).
        window: samples of a window.
        hop: samples between frames.
        lags: number of lags, from 0.

    Returns:
        Correlograms (channels, L, lags) in [-1, 1], L = ceil(T / hop) + 1.

    Sources: Licklider 1951; normalised as in Hu and Wang 2010.
    """
    samples = signals.shape[-1]
    half = (window + lags) // 2  # frame and lagged copy are centred together
    size = window + lags
    padded = torch.nn.functional.pad(signals, (half, size + -samples % hop))
    frames = padded.unfold(-1, size, hop)[:, : -(-samples // hop) + 1]  # (channels, L, size)
    length = fast_length(size)  # circular wrapping affects only lags beyond `lags`
    lagged = torch.fft.rfft(frames, length)
    still = torch.fft.rfft(frames[..., :window], length)
    products = torch.fft.irfft(still.conj() * lagged, length)[..., :lags]
    power = torch.nn.functional.pad(frames.double().square().cumsum(-1), (1, 0))
    energies = (power[..., window : window + lags] - power[..., :lags]).to(signals.dtype)
    norms = (energies[..., :1] * energies).clamp_min(0).sqrt()
    # The floor is relative to the loudest of the channel: 100 times the level must change nothing.
    least = NOTHING * energies.amax(dim=(-2, -1), keepdim=True).clamp_min(0)
    audible = norms > least
    return torch.where(audible, products / norms.where(audible, 1), 0).clamp(-1, 1)


def cross_channel_correlation(correlograms: Tensor) -> Tensor:
    """Correlate the autocorrelations of neighbouring channels.

    The correlation is near 1 where one harmonic or formant drives both channels.

    Args:
        correlograms: (channels, L, lags).

    Returns:
        Correlation coefficients (channels, L) in [-1, 1], over lags of channels c and c + 1; the
        last channel repeats the one before it.

    Source: Wang and Brown 1999.
    """
    if len(correlograms) == 1:
        return correlograms.new_ones(correlograms.shape[:2])
    centred = correlograms - correlograms.mean(-1, keepdim=True)
    unit = centred / centred.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(centred.dtype).tiny)
    pairs = (unit[:-1] * unit[1:]).sum(-1)  # (channels - 1, L)
    return torch.cat([pairs, pairs[-1:]])


def lag_grid(lowest: float, highest: float, sample_rate: int, step: float = 0.03) -> Tensor:
    """Return a grid of pitch periods, from the period of `highest` to the period of `lowest`.

    Neighbours differ by the ratio exp(step), so that a step is a musical interval.

    Args:
        lowest: lowest pitch in Hz.
        highest: highest pitch in Hz.
        sample_rate: in Hz.
        step: natural logarithm of the ratio of neighbours.

    Returns:
        Periods (G,) in samples, fractional.
    """
    ends = (math.log(sample_rate / highest), math.log(sample_rate / lowest))
    return torch.exp(torch.arange(*ends, step, dtype=torch.float64)).float()


def at_lags(correlograms: Tensor, lags: Tensor) -> Tensor:
    """Interpolate correlograms linearly at fractional lags.

    Args:
        correlograms: (..., lags), at whole lags from 0.
        lags: (G,) in samples.

    Returns:
        Correlograms (..., G).
    """
    low = lags.floor().long()
    high = (low + 1).clamp(max=correlograms.shape[-1] - 1)
    return torch.lerp(correlograms[..., low], correlograms[..., high], lags - low)


SAMPLE_RATE = 8000  # Hz
STFT_8K = STFT(window=256, hop=64)
FILTERS = GammatoneFilterbank(SAMPLE_RATE, channels=64)
HOP = 128  # samples, 16 ms: every second frame of the STFT
WINDOW = 256  # samples
BLOCK, MARGIN = 1024 * HOP, 16 * HOP  # samples of a block, and of a margin on each side of it
LOWEST, HIGHEST = 70.0, 440.0  # Hz, range of the pitch of men, women and children
# Frequency above which a filter passes several harmonics. Their beating, the envelope, then carries
# the pitch.
RESOLVED = 800.0  # Hz
BEATING = (50.0, 550.0)  # Hz, band of envelopes that can be pitch (Hu and Wang 2010)
FLOOR_DB = -50.0  # level of a unit, relative to the loudest, below which it is not audible


@dataclass(frozen=True)
class Scene:
    """Auditory scene: the units of a mixture in 64 channels, with a frame every 16 ms.

    Attributes:
        power: (channels, L), relative to the loudest unit; zero for silence.
        periodicity: (channels, L, G), correlogram at LAGS; above RESOLVED, correlogram of the
            envelope.
        alike: (channels, L), cross-channel correlation.
    """

    power: Tensor
    periodicity: Tensor
    alike: Tensor

    @property
    def audible(self) -> Tensor:
        """True for units (channels, L) above the floor."""
        return self.power > 10 ** (FLOOR_DB / 10)


LAGS = lag_grid(LOWEST, HIGHEST, SAMPLE_RATE)  # (G,)


def auditory_scene(mixture: Tensor) -> Scene:
    """Compute the auditory scene of a mixture.

    Memory is about 1 MB for a second, and 300 MB for the current block of 16 s.

    Args:
        mixture: (T,) at 8 kHz, of any level.

    Returns:
        The scene, of L = ceil(T / 128) + 1 frames.
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
    """Compute power, periodicity and cross-channel correlation of the units of samples (T,)."""
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


def _power(envelopes: Tensor) -> Tensor:
    """Average the squares of envelopes (channels, T) over the window of each frame."""
    power = envelopes.square()
    power = functional.pad(power, (WINDOW // 2, WINDOW // 2 + -power.shape[-1] % HOP))
    return functional.avg_pool1d(power[:, None], WINDOW, HOP)[:, 0]


def unit_masks_to_bins(masks: Tensor, frames: int) -> Tensor:
    """Interpolate masks of units linearly into masks of the bins of `STFT_8K`.

    Interpolation runs between the centres of neighbouring channels, and between frames. Bins beyond
    the outer channels get the masks of those channels. The weights sum to one, so masks that sum to
    one still do.

    Args:
        masks: (C, channels, L).
        frames: number of frames of the STFT.

    Returns:
        Masks (C, frames, F).
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
    """Filter envelopes (channels, T) to the band of pitch, which removes their levels."""
    samples = envelopes.shape[-1]
    size = fast_length(samples + SAMPLE_RATE // 20)  # padding keeps the start out of the end
    frequencies = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    band = (frequencies > BEATING[0]) & (frequencies < BEATING[1])
    beating: Tensor = torch.fft.irfft(torch.fft.rfft(envelopes, size) * band, size)
    return beating[:, :samples]


class AuditorySeparator(WindowSeparator):
    """Separator that masks the units of an auditory scene; a subclass defines `unit_masks`."""

    sample_rate = SAMPLE_RATE
    stft = STFT_8K

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Estimate the masks (C, L, F) of one window from the units of its auditory scene."""
        frames = len(spectrum)
        samples = self.stft.inverse(spectrum, max(1, (frames - 1) * self.stft.hop))
        masks = self.unit_masks(auditory_scene(samples), num_sources)
        return unit_masks_to_bins(masks, frames).to(samples.dtype)

    def unit_masks(self, scene: Scene, talkers: int) -> Tensor:
        """Estimate the masks of the units of a scene.

        Args:
            scene: scene of the mixture.
            talkers: number of talkers C.

        Returns:
            Masks (C, channels, L), summing to one.
        """
        raise NotImplementedError
