"""Ideal assignments are one-hot with every source's column; weights lie in [0, 1]."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpcl.signal.features import Weighting, bin_weights, ideal_assignments
from dpcl.signal.stft import STFT


def spectra(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


@given(
    lead=st.sampled_from([(), (1,), (2, 3)]),
    sources=st.integers(1, 4),
    frames=st.integers(1, 4),
    bins=st.integers(1, 5),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=40)
def test_the_strongest_source_owns_the_bin(
    lead: tuple[int, ...], sources: int, frames: int, bins: int, seed: int
) -> None:
    x = spectra(*lead, sources, frames, bins, seed=seed)
    y = ideal_assignments(x)
    assert y.shape == (*lead, frames * bins, sources)
    assert y.dtype == torch.float32
    assert torch.equal(y.sum(-1), torch.ones(*lead, frames * bins))
    assert set(y.unique().tolist()) <= {0.0, 1.0}
    magnitudes = x.abs().flatten(-2).transpose(-1, -2)  # (..., N, C)
    assert torch.equal((magnitudes * y).sum(-1), magnitudes.amax(-1))


def test_bins_run_frame_by_frame() -> None:
    """In the order in which networks give their embeddings: N = l * F + f."""
    x = torch.zeros(2, 3, 4, dtype=torch.complex64)
    x[0], x[1, 2, 1] = 1, 2
    assert ideal_assignments(x)[:, 1].nonzero().tolist() == [[2 * 4 + 1]]


def test_a_tie_goes_to_the_first() -> None:
    x = torch.ones(3, 40, 50, dtype=torch.complex64)
    assert ideal_assignments(x)[:, 0].all()
    x[0] = 0.5
    assert ideal_assignments(x)[:, 1].all()
    assert ideal_assignments(torch.zeros_like(x))[:, 0].all()


def test_a_source_that_dominates_nowhere_keeps_its_column() -> None:
    """asteroid counts the labels that it sees: there, a quiet source changes Y's width."""
    x = spectra(2, 3, 5, 6)
    x[:, 0] = 0
    y = ideal_assignments(x)
    assert y.shape == (2, 30, 3)
    assert not y[..., 0].any()


@pytest.mark.parametrize("weighting", ["threshold", "magnitude", "energy"])
@given(
    exponent=st.floats(-18, 18), floor=st.sampled_from([-20.0, -40.0]), seed=st.integers(0, 10**6)
)
@settings(deadline=None, max_examples=30)
def test_weights_at_any_level(
    weighting: Weighting, exponent: float, floor: float, seed: int
) -> None:
    """munakata's threshold was absolute: at another level, other bins counted."""
    x = spectra(6, 7, seed=seed)
    x[:3] *= 0.03
    x[0] *= 1e-3
    weights = bin_weights(x, weighting, floor)
    assert weights.shape == (42,)
    assert weights.min() >= 0
    assert weights.max() == 1
    magnitudes = x.abs().flatten() / x.abs().max()
    edge = 10 ** (floor / 20)
    clear = (magnitudes / edge - 1).abs() > 1e-5
    audible = magnitudes > edge
    assert torch.equal(weights[clear] > 0, audible[clear])
    power = {"threshold": 0, "magnitude": 1, "energy": 2}[weighting]
    expected = magnitudes**power * audible
    torch.testing.assert_close(weights[clear], expected[clear])
    scaled = bin_weights(10**exponent * x, weighting, floor)
    torch.testing.assert_close(scaled[clear], weights[clear], rtol=1e-5, atol=1e-6)


def test_the_floor_itself_counts_and_silence_does_not() -> None:
    x = torch.tensor([[1, 0.01, 0.00999, 0]], dtype=torch.complex64)
    assert bin_weights(x).tolist() == [1, 1, 0, 0]
    assert bin_weights(x, "magnitude").tolist() == pytest.approx([1, 0.01, 0, 0])
    assert bin_weights(x, "energy").tolist() == pytest.approx([1, 1e-4, 0, 0])


@pytest.mark.parametrize("weighting", ["threshold", "magnitude", "energy"])
def test_an_all_silent_item_weighs_nothing(weighting: Weighting) -> None:
    x = spectra(2, 5, 6)
    x[0] = 0
    weights = bin_weights(x, weighting)
    assert not weights[0].any()
    assert torch.equal(weights[1], bin_weights(x[1], weighting))


def test_weights_stand_beside_assignments() -> None:
    """Bin for bin the same order."""
    sources = torch.zeros(2, 4000)
    sources[0, 1000:1400] = torch.randn(400, generator=torch.Generator().manual_seed(3))
    x = STFT()(sources)
    weights, y = bin_weights(x.sum(0)), ideal_assignments(x)
    assert weights.shape == y.shape[:1]
    assert y[weights > 0][:, 0].all()
