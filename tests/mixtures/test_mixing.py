from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dpcl.mixtures.render import fitted, mix_sources
from dpcl.signal.level import active_level_db, draw_gains_db, scale_to_peak


def noise(seed: int, length: int, gain: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (gain * rng.standard_normal(length)).astype(np.float32)


@given(arrays(np.float32, (3, 20), elements=st.floats(-1e4, 1e4, width=32)))
def test_neither_mixture_nor_sources_exceed_the_peak(sources: np.ndarray) -> None:
    scaled = scale_to_peak(sources)
    peak = max(np.abs(scaled).max(), np.abs(scaled.sum(axis=0)).max())
    assert np.isfinite(scaled).all()
    assert peak == pytest.approx(0.9, abs=1e-5) or not sources.any()


def test_the_least_that_is_no_silence_is_scaled_too() -> None:
    scaled = scale_to_peak(np.full((3, 20), 1e-45, np.float32))
    assert scaled.sum(axis=0).max() == pytest.approx(0.9)


def test_relative_levels_are_those_of_the_gains_however_loud_the_recordings() -> None:
    signals = [noise(0, 16000, 0.001), noise(1, 16000, 1.0), noise(2, 16000, 0.1)]
    sources = mix_sources(signals, [2.0, -1.0, 0.0], 8000)
    levels = [active_level_db(source, 8000) for source in sources]
    assert levels[0] - levels[1] == pytest.approx(3.0, abs=0.1)
    assert levels[0] - levels[2] == pytest.approx(2.0, abs=0.1)


def test_sources_are_padded_to_the_longest_or_cut_to_the_shortest() -> None:
    signals = [noise(0, 4000), noise(1, 6000)]
    longest = mix_sources(signals, [0.0, 0.0], 8000)
    assert longest.shape == (2, 6000) and not longest[0, 4000:].any() and longest[0, 3999] != 0
    assert fitted(signals, "min").shape == (2, 4000)


def test_a_silent_source_stays_silent() -> None:
    sources = mix_sources([noise(0, 4000), np.zeros(4000, np.float32)], [0.0, 5.0], 8000)
    assert np.isfinite(sources).all() and not sources[1].any()
    assert np.abs(sources[0]).max() == pytest.approx(0.9)


@pytest.mark.parametrize("num_sources", [1, 2, 3, 5])
def test_no_two_talkers_are_further_apart_than_the_relative_level(num_sources: int) -> None:
    rng = np.random.default_rng(0)
    gains = np.stack([draw_gains_db(rng, num_sources, 5.0) for _ in range(500)])
    assert gains.shape == (500, num_sources)
    assert np.ptp(gains, axis=1).max() <= 5.0
    if num_sources == 2:  # either may be the louder one, evenly up to the limit
        relative = gains[:, 0] - gains[:, 1]
        assert relative.min() < -4.8 and relative.max() > 4.8 and abs(relative.mean()) < 0.5
        np.testing.assert_allclose(gains.sum(axis=1), 0)
