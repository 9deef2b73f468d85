"""Talkers who come and go: only gates, and as often as asked."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from dpcl.mixtures.stream import SHORTEST, gate_sources


def test_as_many_talkers_a_window_as_drawn() -> None:
    rng = np.random.default_rng(0)
    counts: Counter[int] = Counter()
    for _ in range(200):
        heard = gate_sources(np.ones((3, 800), np.float32), rng, 2, (0.2, 0.5, 0.3), 0.0)
        windows = heard.reshape(3, 2, 400)
        assert ((windows == 1).all(-1) | (windows == 0).all(-1)).all()
        counts.update(int(n) for n in windows.any(-1).sum(0))
    assert counts[1] / 400 == pytest.approx(0.2, abs=0.07)
    assert counts[2] / 400 == pytest.approx(0.5, abs=0.08)
    assert counts[3] / 400 == pytest.approx(0.3, abs=0.08)


def test_talkers_take_turns_with_soft_edges() -> None:
    rng = np.random.default_rng(1)
    begins, stops = 0, 0
    for _ in range(300):
        gate = gate_sources(np.ones((1, 1000), np.float32), rng, 1, (1.0,), 1.0)[0]
        assert gate.max() == 1 and gate.min() >= 0
        assert (gate > 0).mean() >= SHORTEST - 0.01
        assert np.abs(np.diff(gate)).max() < 0.06  # a cut would be a jump of one
        assert (np.diff(np.sign(gate)) != 0).sum() <= 2  # one part
        begins += gate[0] == 0
        stops += gate[-1] == 0
    assert 150 < begins < 250 and 150 < stops < 250


def test_what_is_heard_is_what_was_there() -> None:
    rng = np.random.default_rng(2)
    sources = rng.standard_normal((2, 600)).astype(np.float32)
    heard = gate_sources(sources, rng, 3, (0.5, 0.5), 0.0).reshape(2, 3, 200)
    same = (heard == sources.reshape(2, 3, 200)).all(-1)
    assert (same | (heard == 0).all(-1)).all() and same.any()
