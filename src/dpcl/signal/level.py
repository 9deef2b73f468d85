"""Levels of signals: active speech level (ITU-T P.56, method B), gains and peaks of mixtures."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.signal import cheby2, lfilter, sosfilt

TIME_CONSTANT = 0.03  # s, time constant of both envelope filters
HANGOVER = 0.2  # s that count as active after the envelope fell below the threshold
MARGIN_DB = 15.9  # dB between the active level and the threshold that defines activity
BITS = 16  # bits; thresholds lie 6.02 dB apart, from half of full scale to the last bit

# Constants of Voicebox's activlev, which extends P.56.
_LOWEST_HZ = 200.0  # Hz at which its high-pass filter, Chebyshev of type II, loses 0.25 dB
_PASS_DB, _STOP_DB, _ORDER = 0.25, 50.0, 5
_PADDING = 0.35  # s of silence after the signal
_THRESHOLDS = 20  # number of thresholds, 3.01 dB apart, downwards from the envelope's peak

PEAK = 0.9  # peak of the loudest signal of mixture and sources, as in the wsj0-mix scripts


def active_level_db(x: NDArray[np.floating], sample_rate: int) -> float:
    """Measure the active level of a signal.

    The envelope is |x| through two one-pole filters. The active time a_j of a threshold c_j is the
    time at or above c_j plus hangover. The level is A_j = energy / a_j at the point where it lies
    15.9 dB above c_j, interpolated between thresholds. The thresholds follow the signal in powers
    of two, so that quiet and loud recordings are measured equally well.

    Args:
        x: (T,).
        sample_rate: in Hz.

    Returns:
        Level in dB relative to full scale (a mean square of 1); -inf for silence.

    Example:
        >>> import numpy as np
        >>> active_level_db(np.zeros(8000), 8000)
        -inf

    Source: ITU-T P.56 (12/2011), method B.
    """
    x = np.asarray(x, dtype=np.float64)
    peak = float(np.abs(x).max(initial=0.0))
    if peak == 0.0:
        return -math.inf
    exponent = math.frexp(peak)[1]
    x = np.ldexp(x, -exponent)  # peak now in [0.5, 1)
    shift_db = exponent * 20.0 * math.log10(2.0)

    envelope = _envelope(x, sample_rate).astype(np.float32)
    energy = float(np.dot(x, x))

    hangover = math.ceil(sample_rate * HANGOVER)
    level = previous_level = previous_margin = math.nan
    for j in range(BITS - 1):
        threshold = 2.0 ** (j - BITS + 1)
        active = _active_samples(envelope, threshold, hangover)
        if active == 0:
            break  # click: every threshold is farther than the margin, so the nearest counts
        level = 10.0 * math.log10(energy / active)
        margin = level - 20.0 * math.log10(threshold)
        if margin <= MARGIN_DB:
            if j > 0:
                part = (previous_margin - MARGIN_DB) / (previous_margin - margin)
                level = previous_level + part * (level - previous_level)
            break
        previous_level, previous_margin = level, margin
    if math.isnan(level):  # signal shorter than the envelope's rise: all of it is active
        level = 10.0 * math.log10(energy / len(x))
    return level + shift_db


def activlev_db(x: NDArray[np.floating], sample_rate: int) -> float:
    """Measure the active level of a signal as the wsj0-mix scripts do.

    The scripts call activlev of the Voicebox (version of 2017, at 8 kHz). It applies P.56 after a
    high-pass filter at 200 Hz, with 0.35 s of silence appended and thresholds half as far apart.
    Its low-pass filter at 5.5 kHz, for rates of 12.1 kHz and more, is not implemented here.

    Args:
        x: (T,).
        sample_rate: in Hz.

    Returns:
        Level in dB; -inf for silence.
    """
    padded = np.pad(np.asarray(x, dtype=np.float64), (0, math.ceil(_PADDING * sample_rate)))
    padded = sosfilt(_high_pass(sample_rate), padded)
    energy = float(np.dot(padded, padded))
    power = _envelope(padded, sample_rate) ** 2
    if energy == 0.0 or power.max() == 0.0:
        return -math.inf
    top = math.frexp(power.max())[1]  # the peak lies in [2**(top - 1), 2**top)
    hangover = math.ceil(sample_rate * HANGOVER)
    level = previous_level = previous_margin = math.nan
    for k in range(1, _THRESHOLDS + 1):
        threshold = math.ldexp(1.0, top - k)
        # All time counts as active at the lowest threshold.
        last = k == _THRESHOLDS
        active = len(power) if last else _active_samples(power, threshold, hangover)
        level = 10.0 * math.log10(energy / active)
        margin = level - 10.0 * math.log10(threshold)
        if margin >= MARGIN_DB:
            if k > 1:
                part = (MARGIN_DB - previous_margin) / (margin - previous_margin)
                level = previous_level + part * (level - previous_level)
            break
        previous_level, previous_margin = level, margin
    return level


def _high_pass(sample_rate: int) -> NDArray[np.float64]:
    """Return second-order sections: 0.25 dB down at 200 Hz, at least 50 dB in the stop band.

    |H|**2 = 1 / (1 + 1 / (e**2 T_5(w / w_stop)**2)) with e**2 = 1 / (10**5 - 1) gives w / w_stop.
    """
    stop, passing = (10.0 ** (loss / 10.0) - 1.0 for loss in (_STOP_DB, _PASS_DB))
    ratio = math.cosh(math.acosh(math.sqrt(stop / passing)) / _ORDER)
    edge = 2.0 / math.pi * math.atan(math.tan(math.pi * _LOWEST_HZ / sample_rate) / ratio)
    sections: NDArray[np.float64] = cheby2(_ORDER, _STOP_DB, edge, "highpass", output="sos")
    return sections


def _envelope(x: NDArray[np.floating], sample_rate: int) -> NDArray[np.float64]:
    """Return |x| (T,) after two one-pole filters."""
    pole = math.exp(-1.0 / (sample_rate * TIME_CONSTANT))
    once = lfilter([1.0 - pole], [1.0, -pole], np.abs(x))
    twice: NDArray[np.float64] = lfilter([1.0 - pole], [1.0, -pole], once)
    return twice


def normalise_to_level(
    x: NDArray[np.float32], sample_rate: int, level_db: float = 0.0
) -> NDArray[np.float32]:
    """Scale a signal to an active level; silence is unchanged.

    Args:
        x: (T,).
        sample_rate: in Hz.
        level_db: active level of the result in dB relative to full scale.

    Returns:
        float32 (T,).
    """
    measured = active_level_db(x, sample_rate)
    if measured == -math.inf:
        return x
    return np.asarray(x * 10.0 ** ((level_db - measured) / 20.0), dtype=np.float32)


def _active_samples(envelope: NDArray[np.floating], threshold: float, hangover: int) -> int:
    """Count samples at or above the threshold, or within the hangover after such a sample."""
    above = envelope >= threshold
    edges = np.flatnonzero(above[1:] != above[:-1]) + 1  # beginnings of runs
    if len(edges) == 0:
        return len(above) if above[0] else 0
    bounds = np.concatenate([[0], edges, [len(above)]])
    runs = np.diff(bounds)
    starts_above = bool(above[0])
    loud = runs[0 if starts_above else 1 :: 2]
    # Quiet runs after a loud run count up to the hangover.
    quiet = runs[1 if starts_above else 2 :: 2]
    return int(loud.sum() + np.minimum(quiet, hangover).sum())


def scale_to_peak(sources: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale sources by one factor, so that the peak of the loudest signal is 0.9.

    The signals are the sources and their sum, as in the wsj0-mix scripts. Silence is unchanged.

    Args:
        sources: (C, T).

    Returns:
        (C, T).

    Example:
        >>> import numpy as np
        >>> sources = scale_to_peak(np.array([[0.25, 0.0], [0.25, 0.1]], np.float32))
        >>> round(float(sources.sum(0).max()), 3)
        0.9
    """
    peak = max(np.abs(sources).max(initial=0.0), np.abs(sources.sum(axis=0)).max(initial=0.0))
    if peak < np.finfo(np.float32).tiny:  # peak so small that the factor would be infinite
        return sources / np.float32(peak) * np.float32(PEAK) if peak > 0.0 else sources
    return sources * np.float32(PEAK / peak)


def draw_gains_db(
    rng: np.random.Generator, num_sources: int, relative_level_db: float
) -> NDArray[np.float64]:
    """Draw gains in dB.

    The level of the first of two talkers over the second is uniform within ± the relative level;
    each gets half of it. Gains of three or more talkers are uniform within ± half the relative
    level. The gain of a single talker is 0 dB.

    Args:
        rng: random numbers.
        num_sources: number of sources C.
        relative_level_db: largest difference of two talkers in dB.

    Returns:
        (C,) in dB.
    """
    if num_sources == 2:
        half = rng.uniform(-relative_level_db, relative_level_db) / 2.0
        return np.array([half, -half])
    if num_sources == 1:
        return np.zeros(1)
    return rng.uniform(-relative_level_db / 2.0, relative_level_db / 2.0, num_sources)
