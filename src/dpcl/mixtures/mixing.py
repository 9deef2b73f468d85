"""How sources become a mixture: active levels, relative gains, one common scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpcl.signal.level import normalise_to_level

Mode = Literal["min", "max"]  # as long as the shortest source, or as the longest
Float = TypeVar("Float", np.float32, np.float64)
PEAK = 0.9  # of the loudest among the mixture and its sources, as in the wsj0-mix scripts


def draw_gains_db(
    rng: np.random.Generator, num_sources: int, relative_level_db: float
) -> NDArray[np.float64]:
    """Gains (C,) in dB: the first of two talkers lies uniformly within ± the relative level over
    the second, half of it given to each; more talkers are uniform within ± half of it."""
    if num_sources == 2:
        half = rng.uniform(-relative_level_db, relative_level_db) / 2.0
        return np.array([half, -half])
    if num_sources == 1:
        return np.zeros(1)
    return rng.uniform(-relative_level_db / 2.0, relative_level_db / 2.0, num_sources)


def scale_to_peak(sources: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sources (C, T) by one factor such that neither they nor their sum exceed 0.9; silence stays.

    The loudest of them just reaches it, as in the wsj0-mix scripts.
    """
    peak = max(np.abs(sources).max(initial=0.0), np.abs(sources.sum(axis=0)).max(initial=0.0))
    if peak < np.finfo(np.float32).tiny:  # so little that the factor would be no number
        return sources / np.float32(peak) * np.float32(PEAK) if peak > 0.0 else sources
    return sources * np.float32(PEAK / peak)


def mix_sources(
    signals: Sequence[NDArray[np.float32]],
    gains_db: Sequence[float],
    sample_rate: int,
    length: Mode = "max",
) -> NDArray[np.float32]:
    """Sources (C, T) of the mixture sources.sum(0), from one signal (T_k,) for each talker.

    Each is brought to active level 0 dB and given its gain; `max` pads with zeros to the longest,
    `min` cuts to the shortest; one common scale follows (see scale_to_peak).
    """
    levelled = [
        normalise_to_level(signal, sample_rate, gain_db)
        for signal, gain_db in zip(signals, gains_db, strict=True)
    ]
    return scale_to_peak(fitted(levelled, length))


def fitted(signals: Sequence[NDArray[Float]], length: Mode) -> NDArray[Float]:
    """Signals (T_k,) as one array (C, T): cut to the shortest, or padded to the longest."""
    lengths = [len(signal) for signal in signals]
    total = min(lengths) if length == "min" else max(lengths)
    rows = np.zeros((len(signals), total), dtype=signals[0].dtype)
    for row, signal in zip(rows, signals, strict=True):
        row[: len(signal)] = signal[:total]
    return rows


def prolonged(noise: NDArray[Float], length: int, sample_rate: int) -> NDArray[Float]:
    """Noise (T,) that goes on (length,): again from its beginning, each time faded into over 0.5 s.

    As LibriMix does, with the two halves of a Hann window; noise of less than 1 s over half of it.
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
