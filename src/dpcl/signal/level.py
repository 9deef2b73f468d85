"""The active speech level: how loud someone speaks, pauses left out (ITU-T P.56, method B)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.signal import cheby2, lfilter, sosfilt

TIME_CONSTANT = 0.03  # s, of both envelope filters
HANGOVER = 0.2  # s that count as active after the envelope fell under the threshold
MARGIN_DB = 15.9  # between the active level and the threshold that defines activity
BITS = 16  # thresholds lie 6.02 dB apart, from half of full scale down to the last bit

# What Voicebox's activlev does beyond it.
_LOWEST_HZ = 200.0  # where its high-pass filter, a Chebyshev of the second kind, loses 0.25 dB
_PASS_DB, _STOP_DB, _ORDER = 0.25, 50.0, 5
_PADDING = 0.35  # s of silence behind the signal
_THRESHOLDS = 20  # 3.01 dB apart, from the octave of power of the envelope's peak down


def active_level_db(x: NDArray[np.floating], sample_rate: int) -> float:
    """Active level of x (T,) in dB relative to full scale (a mean square of 1); -inf for silence.

    ITU-T P.56 (12/2011), method B: the envelope is |x| through two one-pole filters; for each
    threshold c_j the active time a_j is the time at or above it plus hangover; the level is where
    A_j = energy / a_j lies 15.9 dB above c_j, interpolated between thresholds. The thresholds
    follow the signal in powers of two, so that quiet recordings are measured as well as loud ones.
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
            break  # a click: no threshold is as near as the margin, so take the nearest there is
        level = 10.0 * math.log10(energy / active)
        margin = level - 20.0 * math.log10(threshold)
        if margin <= MARGIN_DB:
            if j > 0:
                part = (previous_margin - MARGIN_DB) / (previous_margin - margin)
                level = previous_level + part * (level - previous_level)
            break
        previous_level, previous_margin = level, margin
    if math.isnan(level):  # shorter than the envelope needs to rise: all of it is active
        level = 10.0 * math.log10(energy / len(x))
    return level + shift_db


def activlev_db(x: NDArray[np.floating], sample_rate: int) -> float:
    """Active level of x (T,) as the wsj0-mix scripts measure it; -inf for silence.

    They call activlev of the Voicebox (version of 2017, at 8 kHz): P.56 of the signal behind a
    high-pass filter at 200 Hz and followed by 0.35 s of silence, with thresholds half as far apart.
    Its low-pass filter at 5.5 kHz, which it has from 12.1 kHz on, is not here.
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
        # To the lowest threshold all time counts as active.
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
    """Second-order sections: at least 50 dB below its stop band, 0.25 dB down at 200 Hz.

    |H|**2 = 1 / (1 + 1 / (e**2 T_5(w / w_stop)**2)) with e**2 = 1 / (10**5 - 1) gives w / w_stop.
    """
    stop, passing = (10.0 ** (loss / 10.0) - 1.0 for loss in (_STOP_DB, _PASS_DB))
    ratio = math.cosh(math.acosh(math.sqrt(stop / passing)) / _ORDER)
    edge = 2.0 / math.pi * math.atan(math.tan(math.pi * _LOWEST_HZ / sample_rate) / ratio)
    sections: NDArray[np.float64] = cheby2(_ORDER, _STOP_DB, edge, "highpass", output="sos")
    return sections


def _envelope(x: NDArray[np.floating], sample_rate: int) -> NDArray[np.float64]:
    """|x| (T,) through two one-pole filters."""
    pole = math.exp(-1.0 / (sample_rate * TIME_CONSTANT))
    once = lfilter([1.0 - pole], [1.0, -pole], np.abs(x))
    twice: NDArray[np.float64] = lfilter([1.0 - pole], [1.0, -pole], once)
    return twice


def normalise_to_level(
    x: NDArray[np.float32], sample_rate: int, level_db: float = 0.0
) -> NDArray[np.float32]:
    """x (T,) scaled to the active level `level_db`; silence comes back as it is."""
    measured = active_level_db(x, sample_rate)
    if measured == -math.inf:
        return x
    return np.asarray(x * 10.0 ** ((level_db - measured) / 20.0), dtype=np.float32)


def _active_samples(envelope: NDArray[np.floating], threshold: float, hangover: int) -> int:
    """How many samples are at or above the threshold, or fell under it within the hangover."""
    above = envelope >= threshold
    edges = np.flatnonzero(above[1:] != above[:-1]) + 1  # where a run of either kind begins
    if len(edges) == 0:
        return len(above) if above[0] else 0
    bounds = np.concatenate([[0], edges, [len(above)]])
    runs = np.diff(bounds)
    starts_above = bool(above[0])
    loud = runs[0 if starts_above else 1 :: 2]
    # Each quiet run after a loud one counts up to the hangover.
    quiet = runs[1 if starts_above else 2 :: 2]
    return int(loud.sum() + np.minimum(quiet, hangover).sum())
