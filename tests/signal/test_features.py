"""Log-magnitude features do not know how loud a recording is, and survive silence."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpcl.signal.features import (
    FLOOR,
    LOUD,
    first_bin,
    level_log_magnitude,
    level_weights,
    log_magnitude,
    loud_level,
    running_log_magnitude,
    without_disturbances,
)
from dpcl.signal.stft import STFT


def spectrum(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


@given(
    exponent=st.floats(-18, 18),
    frames=st.integers(1, 5),
    bins=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=60)
def test_the_same_at_any_level(exponent: float, frames: int, bins: int, seed: int) -> None:
    x = spectrum(frames, bins, seed=seed)
    torch.testing.assert_close(log_magnitude(10**exponent * x), log_magnitude(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("gain", [0.01, 100, 1e-10])
def test_of_a_waveform_at_any_level(gain: float) -> None:
    x = torch.randn(3000, generator=torch.Generator().manual_seed(1))
    x[1000:1500] = 0
    features = log_magnitude(STFT()(x))
    torch.testing.assert_close(log_magnitude(STFT()(gain * x)), features, rtol=0, atol=2e-3)


def test_is_the_natural_log_relative_to_the_loudest_bin() -> None:
    x = torch.tensor([[3 + 4j, 0.5], [0, 5e-6]])
    expected = torch.tensor([[0, math.log(0.1)], [math.log(FLOOR), math.log(FLOOR)]])
    torch.testing.assert_close(log_magnitude(x), expected)


def test_silence_is_all_zeros() -> None:
    features = log_magnitude(torch.zeros(2, 4, 5, dtype=torch.complex64))
    assert torch.equal(features, torch.zeros(2, 4, 5))


def test_items_do_not_hear_each_other() -> None:
    x = spectrum(3, 6, 5)
    x[1] = 0
    x[2] *= 1e6
    features = log_magnitude(x)
    assert features.isfinite().all()
    for one, its_features in zip(x, features, strict=True):
        torch.testing.assert_close(log_magnitude(one), its_features)


def test_keeps_double_precision() -> None:
    x = spectrum(4, 5).to(torch.complex128)
    assert log_magnitude(x).dtype == torch.float64


@given(
    frames=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 12), max_size=4),
    silent=st.integers(0, 12),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=60)
def test_running_in_pieces_is_running_whole(
    frames: int, cuts: list[int], silent: int, seed: int
) -> None:
    x = spectrum(frames, 5, seed=seed)
    x[:silent] = 0
    whole, loudest = running_log_magnitude(x, 0.008)
    edges = sorted({0, frames, *(cut for cut in cuts if cut < frames)})
    state, pieces = None, []
    for first, last in pairwise(edges):
        piece, state = running_log_magnitude(x[first:last], 0.008, state)
        pieces.append(piece)
    assert state is not None
    torch.testing.assert_close(torch.cat(pieces), whole)
    torch.testing.assert_close(state, loudest)


def test_running_features_do_not_know_the_future_nor_the_level() -> None:
    x = spectrum(2, 9, 5)
    features, _ = running_log_magnitude(x, 0.008)
    louder = x.clone()
    louder[:, 5:] *= 1000
    assert torch.equal(running_log_magnitude(louder, 0.008)[0][:, :5], features[:, :5])
    torch.testing.assert_close(running_log_magnitude(1e4 * x, 0.008)[0], features)
    assert features.max() <= 0
    torch.testing.assert_close(features[:, 0], log_magnitude(x[:, :1])[:, 0])


def test_running_level_fades() -> None:
    """One clap, then speech 40 dB under it: as if loudest again after 40 s, not for ever soft."""
    x = torch.full((5001, 1), 0.01, dtype=torch.complex64)
    x[0] = 1
    features = running_log_magnitude(x, 0.01)[0][:, 0] * 20 / math.log(10)  # dB
    assert float(features[1]) == pytest.approx(-40, abs=0.1)
    assert float(features[1000]) == pytest.approx(-30, abs=0.1)
    assert float(features[-1]) == pytest.approx(0, abs=0.02)


def test_running_silence_is_at_the_floor() -> None:
    features, loudest = running_log_magnitude(torch.zeros(2, 4, 5, dtype=torch.complex64), 0.008)
    torch.testing.assert_close(features, torch.full((2, 4, 5), math.log(FLOOR)))
    assert loudest.isinf().all()


def test_a_word_in_digital_silence_has_its_own_level() -> None:
    word = torch.rand(20, 33, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([torch.zeros(200, 33), word, torch.zeros(100, 33)])
    both = torch.stack([padded, torch.cat([word] * 16)])  # of a batch each for itself
    torch.testing.assert_close(loud_level(padded, 4), loud_level(word, 4))
    torch.testing.assert_close(loud_level(both, 4)[0], loud_level(word, 4))
    assert loud_level(torch.zeros(9, 33), 4) == pytest.approx(1e-7)


@pytest.mark.parametrize("nuisance", ["dc", "rumble", "clap"])
def test_the_loud_level_does_not_follow_what_lies_below_70_hz_or_is_short(nuisance: str) -> None:
    """A DC offset or one loud moment took 5 dB and more from the separation."""
    rate, window = 8000, 512
    stft, first = STFT(window, 256), first_bin(rate, window)
    random = torch.Generator().manual_seed(0)
    samples = 0.05 * torch.randn(6 * rate, generator=random)
    time = torch.arange(len(samples)) / rate
    worse = {
        "dc": samples + 0.5,
        "rumble": samples + 0.5 * (2 * torch.pi * 30 * time).sin(),
        "clap": torch.where((time > 2) & (time < 2.3), 20 * samples, samples),
    }[nuisance]
    level, other = (loud_level(stft(x).abs(), first) for x in (samples, worse))
    assert 20 * (other / level).log10().abs() < 1.0


def test_levels_scale_with_the_recording_and_silence_is_finite() -> None:
    magnitude = torch.rand(2, 30, 257)
    torch.testing.assert_close(loud_level(10 * magnitude, 4), 10 * loud_level(magnitude, 4))
    torch.testing.assert_close(
        level_log_magnitude(10 * magnitude, 4), level_log_magnitude(magnitude, 4)
    )
    assert level_log_magnitude(torch.zeros(1, 5, 257), 4).isfinite().all()
    weights = level_weights(magnitude, loud_level(magnitude, 4), 4)
    assert weights.shape == (2, 30 * 257)
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert not weights.view(2, 30, 257)[..., :4].any()


@pytest.mark.parametrize("quantile", [0.5, LOUD])
def test_a_tone_far_louder_than_the_rest_is_muted_however_long_it_is(quantile: float) -> None:
    frames, generator = 200, torch.Generator().manual_seed(0)
    magnitude = torch.zeros(1, frames, 129)
    magnitude[0, :, 10:100:10] = torch.rand(frames, 9, generator=generator)  # harmonics of a talker
    assert torch.equal(without_disturbances(magnitude, 4, quantile), magnitude)
    for length in (20, 150):
        disturbed = magnitude.clone()
        disturbed[:, :length] = 0
        disturbed[:, :length, 32] = 50
        muted = without_disturbances(disturbed, 4, quantile)
        assert not muted[:, :length].any()
        assert torch.equal(muted[:, length + 3 :], magnitude[:, length + 3 :])
