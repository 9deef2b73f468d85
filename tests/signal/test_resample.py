from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpcl.signal.resample import BlockResampler, resample

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


@given(
    st.sampled_from([(16000, 8000), (44100, 8000), (8000, 44100), (37123, 8000), (8000, 8000)]),
    st.lists(st.integers(0, 3000), min_size=1, max_size=8),
    st.sampled_from([(), (1,), (2,)]),
    st.booleans(),
)
@settings(deadline=None)
def test_blocks_resample_like_the_whole(
    rates: tuple[int, int], sizes: list[int], channels: tuple[int, ...], flush: bool
) -> None:
    x = np.random.default_rng(0).standard_normal((*channels, sum(sizes))).astype(np.float32)
    whole = resample(x, *rates)
    resampler = BlockResampler(*rates)
    pieces = np.split(x, np.cumsum(sizes)[:-1], axis=-1)
    if flush:  # the end comes alone
        pieces.append(x[..., :0])
    out = [resampler(piece, last=i == len(pieces) - 1) for i, piece in enumerate(pieces)]
    result = np.concatenate(out, axis=-1)
    assert result.shape == whole.shape and result.dtype == np.float32
    np.testing.assert_allclose(result, whole, atol=1e-6)


@pytest.mark.parametrize("rates", [(1000, 1_000_000), (1_000_000, 1000), (192_000, 1000)])
def test_blocks_resample_at_the_ends_of_the_range(rates: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal(5003).astype(np.float32)
    resampler = BlockResampler(*rates)
    result = np.concatenate([resampler(x[:1999]), resampler(x[1999:], last=True)])
    whole = resample(x, *rates)
    assert result.shape == whole.shape
    np.testing.assert_allclose(result, whole, atol=1e-6)


def test_the_resampler_does_not_keep_everything_until_the_end() -> None:
    resampler = BlockResampler(44100, 8000)
    came = sum(len(resampler(np.zeros(44100, dtype=np.float32))) for _ in range(10))
    assert came > 9.8 * 8000
