"""Mixing of sources: active levels, relative gains, one common scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpcl.signal.level import normalise_to_level

Mode = Literal["min", "max"]  # length of the shortest source, or of the longest
Float = TypeVar("Float", np.float32, np.float64)
PEAK = 0.9  # peak of the loudest signal of mixture and sources, as in the wsj0-mix scripts
SHORTEST = 0.25  # share of a window, least activity of a talker that starts late or stops early
FADE = 0.02  # share of a window; without fades the clicks of cuts would identify the talker


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


def mix_sources(
    signals: Sequence[NDArray[np.float32]],
    gains_db: Sequence[float],
    sample_rate: int,
    length: Mode = "max",
) -> NDArray[np.float32]:
    """Scale the signals of talkers to the sources of a mixture, which is their sum.

    Each signal is brought to active level 0 dB and gets its gain. One common scale follows (see
    `scale_to_peak`).

    Args:
        signals: one (T_k,) for each talker.
        gains_db: gain of each talker in dB.
        sample_rate: in Hz.
        length: "max" pads with zeros to the longest, "min" cuts to the shortest.

    Returns:
        (C, T).
    """
    levelled = [
        normalise_to_level(signal, sample_rate, gain_db)
        for signal, gain_db in zip(signals, gains_db, strict=True)
    ]
    return scale_to_peak(fitted(levelled, length))


def fitted(signals: Sequence[NDArray[Float]], length: Mode) -> NDArray[Float]:
    """Stack signals (T_k,) to (C, T): cut to the shortest, or padded to the longest."""
    lengths = [len(signal) for signal in signals]
    total = min(lengths) if length == "min" else max(lengths)
    rows = np.zeros((len(signals), total), dtype=signals[0].dtype)
    for row, signal in zip(rows, signals, strict=True):
        row[: len(signal)] = signal[:total]
    return rows


def prolonged(noise: NDArray[Float], length: int, sample_rate: int) -> NDArray[Float]:
    """Repeat noise (T,) to a length, with cross-fades of 0.5 s.

    The cross-fades are the halves of a Hann window, as in LibriMix. Noise shorter than 1 s has
    cross-fades of half its length.

    Args:
        noise: (T,).
        length: number of samples to return.
        sample_rate: in Hz.

    Returns:
        (length,).
    """
    half = min(sample_rate // 2, len(noise) // 2 - 1)
    rise = np.hanning(2 * half + 1)[: half + 1] if half > 0 else np.zeros(0)
    rise = rise.astype(noise.dtype)
    longer = noise
    while len(longer) < length:
        kept = len(longer) - len(rise)
        crossed = longer[kept:] * rise[::-1] + noise[: len(rise)] * rise
        longer = np.concatenate([longer[:kept], crossed, noise[len(rise) :]])
    return longer[:length]


def gate_sources(
    sources: NDArray[np.float32],
    rng: np.random.Generator,
    windows: int,
    active: Sequence[float],
    turns: float,
) -> NDArray[np.float32]:
    """Silence talkers in parts of a mixture, window by window.

    In each window k talkers, drawn at random, are active with probability `active[k - 1]`. With
    probability `turns` an active talker is active in a part of the window only: from a random
    moment, until one, or between two.

    Args:
        sources: (C, T).
        rng: random numbers.
        windows: number of consecutive windows of equal length.
        active: relative frequency of 1, 2, … active talkers in a window.
        turns: probability in [0, 1].

    Returns:
        (C, T).
    """
    windowed = sources.reshape(len(sources), windows, -1)  # (C, W, T / W)
    gated = np.zeros_like(windowed)
    for window in range(windows):
        count = 1 + int(rng.choice(len(active), p=np.asarray(active) / np.sum(active)))
        for talker in rng.permutation(len(sources))[:count]:
            part = _part(rng, windowed.shape[-1]) if rng.random() < turns else 1.0
            gated[talker, window] = windowed[talker, window] * part
    return gated.reshape(sources.shape)


def _part(rng: np.random.Generator, samples: int) -> NDArray[np.float32]:
    """Draw a gate (samples,): one over at least SHORTEST of the window, zero elsewhere."""
    first, last = np.sort(rng.uniform(0.0, 1.0, 2))
    side = rng.integers(3)  # active from a moment, until one, or between two
    first = 0.0 if side == 1 else min(first, 1 - SHORTEST)
    last = 1.0 if side == 0 else max(last, first + SHORTEST)
    time = np.linspace(0.0, 1.0, samples, dtype=np.float32)
    rise = np.ones(samples, np.float32) if first == 0.0 else (time - first) / FADE
    fall = np.ones(samples, np.float32) if last >= 1.0 else (last - time) / FADE
    return np.clip(np.minimum(rise, fall), 0.0, 1.0).astype(np.float32)
