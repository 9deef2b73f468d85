"""The dual-path network: each bin has features of its own. Streams are in test_trunks.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpcl.networks import lstm
from dpcl.networks.base import Activation, EmbeddingNetwork, Heads
from dpcl.networks.dual_path import NEIGHBOURS, PER_BIN, STRIDE, DualPathEmbedding

Learning = Callable[[Callable[[int], EmbeddingNetwork], int, bool], list[float]]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@given(
    batch=st.integers(1, 3),
    frames=st.integers(1, 6),
    bins=st.integers(1, 3 * STRIDE + 1),
    width=st.integers(1, 5),
    embedding=st.integers(1, 6),
    layers=st.integers(1, 3),
    activation=st.sampled_from(["none", "tanh", "logistic"]),
    causal=st.booleans(),
    autocast=st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_unit_rows(
    batch: int,
    frames: int,
    bins: int,
    width: int,
    embedding: int,
    layers: int,
    activation: Activation,
    causal: bool,
    autocast: bool,
) -> None:
    network = DualPathEmbedding(
        bins, layers, width, Heads(embedding, 2, activation), causal=causal
    ).eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        v, masks = network(torch.randn(batch, frames, bins))
    assert v.shape == (batch, frames * bins, embedding)
    assert v.dtype == torch.float32
    torch.testing.assert_close(v.norm(dim=-1), torch.ones(batch, frames * bins), rtol=0, atol=1e-5)
    assert masks.shape == (batch, 2, frames, bins)
    torch.testing.assert_close(masks.sum(1), torch.ones(batch, frames, bins))


def test_embeddings_run_bin_by_bin() -> None:
    """N = l * F + f: what a bin's neighbours add to it reaches no other."""
    bins, frames = 3 * STRIDE, 4
    network = DualPathEmbedding(bins, 1, 6, Heads(3))
    torch.nn.init.zeros_(network.join.weight)  # the bands say nothing
    features = torch.randn(1, frames, bins)
    changed = features.clone()
    changed[0, 2, 10] += 1
    differs = (network(features).embeddings != network(changed).embeddings).any(-1)
    expected = torch.zeros(frames, bins, dtype=torch.bool)
    expected[2, 10 - NEIGHBOURS // 2 : 11 + NEIGHBOURS // 2] = True
    assert torch.equal(differs.view(frames, bins), expected)


def test_bands_lie_where_their_bins_are() -> None:
    """Without LSTMs a bin is encoded in the bins of the two bands that hold it, and no others."""
    bins = 5 * STRIDE + 3
    network = DualPathEmbedding(bins, 1, 6, Heads(3)).double()
    with torch.no_grad():
        network.near.weight.zero_()
        for leave in (network.blocks[0].leave_across, network.blocks[0].leave_along):
            leave.weight.zero_()
    features = torch.randn(1, 1, bins, dtype=torch.float64)
    for changed in (0, 2 * STRIDE + 1, bins - 1):
        other = features.clone()
        other[..., changed] += 1
        differs = (network.encode(features) != network.encode(other)).view(bins, PER_BIN).any(-1)
        first = (changed // STRIDE - 1) * STRIDE  # of the lower of its two bands
        expected = torch.zeros(bins, dtype=torch.bool)
        expected[max(first, 0) : first + 3 * STRIDE] = True
        assert torch.equal(differs, expected)


@pytest.mark.parametrize("causal", [False, True])
def test_all_bins_of_all_frames_are_heard(causal: bool) -> None:
    """If causal, none of a later frame."""
    bins = 3 * STRIDE
    network = DualPathEmbedding(bins, 1, 8, Heads(3), causal=causal).double()
    features = torch.randn(1, 9, bins, dtype=torch.float64)
    changed = features.clone()
    changed[0, 4, 1] += 1
    differs = (network.encode(features) != network.encode(changed)).view(9, bins, PER_BIN).any(-1)
    assert differs[4:].all()
    assert not differs[:4].any() if causal else differs.all()


@pytest.mark.parametrize("autocast", [False, True])
def test_the_future_is_not_heard(autocast: bool) -> None:
    network = DualPathEmbedding(20, 2, 8, Heads(3), causal=True)
    features = torch.randn(1, 12, 20)
    changed = features.clone()
    changed[0, 7:] = 100
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        first, second = (network(x).embeddings.view(12, -1) for x in (features, changed))
    assert torch.equal(first[:7], second[:7])
    assert (first[7:] != second[7:]).any(-1).all()


def test_dropout_in_training_alone() -> None:
    network = DualPathEmbedding(20, 1, 8, Heads(3), dropout=0.5)
    features = torch.randn(1, 6, 20)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            network.train()
            assert not torch.equal(network.encode(features), network.encode(features))
            network.eval()
            assert torch.equal(network.encode(features), network.encode(features))


@pytest.mark.parametrize("causal", [False, True])
def test_in_bfloat16(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    original = lstm.bf16_lstm

    def counted(inputs: Tensor, lstm: torch.nn.LSTM, layer: int) -> Tensor:
        called.append(layer)
        return original(inputs, lstm, layer)

    monkeypatch.setattr(lstm, "bf16_lstm", counted)
    network = DualPathEmbedding(20, 2, 16, Heads(4), causal=causal).eval()
    features = torch.randn(2, 12, 20)
    exact = network(features).embeddings
    half = network.in_bfloat16()
    assert half.encode(features).dtype == torch.bfloat16
    rough = [half(features).embeddings]
    assert called == []
    with torch.autocast("cpu", torch.bfloat16):
        rough.append(network(features).embeddings)
    assert called == [0] * 4
    for embeddings in rough:
        assert 0 < (embeddings - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_learns_one_batch_by_heart(learn_by_heart: Learning, causal: bool, autocast: bool) -> None:
    losses = learn_by_heart(
        lambda bins: DualPathEmbedding(bins, 1, 24, Heads(8), causal=causal), 25, autocast
    )
    assert 0.1 < losses[0] < 1
    assert losses[-1] < 0.03
