"""Who speaks when: talkers who come and go, as in a conversation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SHORTEST = 0.25  # of a window: what a talker says at least when he begins late or stops early
FADE = 0.02  # of a window: without it a cut would click, and say by itself whose bins these are


def gate_sources(
    sources: NDArray[np.float32],
    rng: np.random.Generator,
    windows: int,
    active: Sequence[float],
    turns: float,
) -> NDArray[np.float32]:
    """Silence talkers in parts of a mixture, window by window.

    sources (C, T), `windows` equal windows one after another -> (C, T). In each window k talkers,
    drawn at random, speak with probability `active[k - 1]`; one of them speaks only from, until,
    or between random moments with probability `turns`.
    """
    windowed = sources.reshape(len(sources), windows, -1)  # (C, W, T / W)
    heard = np.zeros_like(windowed)
    for window in range(windows):
        count = 1 + int(rng.choice(len(active), p=np.asarray(active) / np.sum(active)))
        for talker in rng.permutation(len(sources))[:count]:
            part = _part(rng, windowed.shape[-1]) if rng.random() < turns else 1.0
            heard[talker, window] = windowed[talker, window] * part
    return heard.reshape(sources.shape)


def _part(rng: np.random.Generator, samples: int) -> NDArray[np.float32]:
    """A gate (samples,): one over at least SHORTEST of the window, zero elsewhere."""
    first, last = np.sort(rng.uniform(0.0, 1.0, 2))
    side = rng.integers(3)  # speaks from a moment on, until one, or between two
    first = 0.0 if side == 1 else min(first, 1 - SHORTEST)
    last = 1.0 if side == 0 else max(last, first + SHORTEST)
    time = np.linspace(0.0, 1.0, samples, dtype=np.float32)
    rise = np.ones(samples, np.float32) if first == 0.0 else (time - first) / FADE
    fall = np.ones(samples, np.float32) if last >= 1.0 else (last - time) / FADE
    return np.clip(np.minimum(rise, fall), 0.0, 1.0).astype(np.float32)
