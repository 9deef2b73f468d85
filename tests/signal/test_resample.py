from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpcl.signal.resample import resample

RATES = st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000])


@given(RATES, RATES, st.integers(0, 5000))
def test_lengths_do_not_drift_there_and_back(rate_in: int, rate_out: int, length: int) -> None:
    x = np.ones(length, dtype=np.float32)
    there = resample(x, rate_in, rate_out)
    assert len(there) == round(length * rate_out / rate_in)
    back = resample(there, rate_out, rate_in, length)
    assert back.shape == x.shape and back.dtype == np.float32


@pytest.mark.parametrize(("rate_in", "rate_out"), [(16000, 8000), (8000, 44100), (44100, 16000)])
def test_a_tone_keeps_its_pitch_level_and_phase(rate_in: int, rate_out: int) -> None:
    def tone(rate: int) -> np.ndarray:
        return np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)

    converted = resample(tone(rate_in), rate_in, rate_out)
    inside = slice(rate_out // 10, -rate_out // 10)
    np.testing.assert_allclose(converted[inside], tone(rate_out)[inside], atol=1e-3)


def test_what_lies_above_the_new_band_does_not_fold_into_it() -> None:
    high = np.sin(2 * np.pi * 6000 * np.arange(16000) / 16000).astype(np.float32)
    assert np.abs(resample(high, 16000, 8000)[500:-500]).max() < 1e-3


def test_equal_rates_change_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    np.testing.assert_array_equal(resample(x, 8000, 8000), x)


def test_channels_are_converted_one_by_one() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 500)).astype(np.float32)
    y = resample(x, 8000, 16000)
    assert y.shape == (2, 3, 1000)
    np.testing.assert_array_equal(y[1, 2], resample(x[1, 2], 8000, 16000))
