"""Talker activity: talkers that are silent in parts of a mixture, as in a conversation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SHORTEST = 0.25  # share of a window, least activity of a talker that starts late or stops early
FADE = 0.02  # share of a window; without fades the clicks of cuts would identify the talker


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
