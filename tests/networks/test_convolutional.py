"""The convolutional network: what each frame sees. Streams are in test_trunks.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dpcl.networks.base import Activation, EmbeddingNetwork, Heads
from dpcl.networks.convolutional import ConvolutionalEmbedding

Learning = Callable[[Callable[[int], EmbeddingNetwork], int, bool], list[float]]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@given(
    batch=st.integers(1, 3),
    frames=st.integers(1, 6),
    bins=st.integers(1, 9),
    width=st.integers(1, 5),
    embedding=st.integers(1, 6),
    layers=st.integers(1, 8),
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
    heads = Heads(embedding, activation=activation)
    network = ConvolutionalEmbedding(bins, layers, width, heads, causal=causal)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        v = network(torch.randn(batch, frames, bins)).embeddings
    assert v.shape == (batch, frames * bins, embedding)
    assert v.dtype == torch.float32
    torch.testing.assert_close(v.norm(dim=-1), torch.ones(batch, frames * bins), rtol=0, atol=1e-5)


def heard_from(network: EmbeddingNetwork, frames: int, changed: int) -> Tensor:
    """Which frames (L,) hear a change of one frame."""
    features = torch.randn(1, frames, len(network.mean), dtype=torch.float64)
    other = features.clone()
    other[0, changed] += 1
    with torch.no_grad():
        return (network.encode(features) != network.encode(other))[0].any(-1)


@pytest.mark.parametrize("causal", [False, True])
def test_twelve_layers_see_126_frames_to_each_side(causal: bool) -> None:
    """Two seconds; twice the sum of 1, 2, 4, ..., 32. If causal, the future is not encoded."""
    network = ConvolutionalEmbedding(5, 12, 8, Heads(3), causal=causal).double().eval()
    for layer in network.layers:  # the way through as strong as the way past, or it rounds away
        nn.init.normal_(layer.convolution.weight)
    encoded = heard_from(network, 600, 300)
    expected = torch.zeros(600, dtype=torch.bool)
    expected[300 : 300 + 253] = True
    assert torch.equal(encoded, expected if causal else expected.roll(-126))


@pytest.mark.parametrize("autocast", [False, True])
def test_the_future_is_not_heard(autocast: bool) -> None:
    network = ConvolutionalEmbedding(5, 7, 8, Heads(3), causal=True)
    features = torch.randn(1, 40, 5)
    changed = features.clone()
    changed[0, 17:] = 100
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        differs = (network(features).embeddings != network(changed).embeddings).any(-1).view(40, 5)
    assert differs[17:].all()
    assert not differs[:17].any()


def test_dropout_in_training_alone() -> None:
    network = ConvolutionalEmbedding(5, 2, 8, Heads(3), dropout=0.5)
    features = torch.randn(1, 6, 5)
    assert not torch.equal(network.encode(features), network.encode(features))
    network.eval()
    assert torch.equal(network.encode(features), network.encode(features))


@pytest.mark.parametrize("causal", [False, True])
def test_in_bfloat16(causal: bool) -> None:
    network = ConvolutionalEmbedding(9, 4, 16, Heads(4), causal=causal)
    features = torch.randn(2, 20, 9)
    exact = network(features).embeddings
    half = network.in_bfloat16()
    assert half.encode(features).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(features).embeddings
    for rough in (half(features).embeddings, mixed):
        assert 0 < (rough - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_learns_one_batch_by_heart(learn_by_heart: Learning, causal: bool, autocast: bool) -> None:
    losses = learn_by_heart(
        lambda bins: ConvolutionalEmbedding(bins, 6, 32, Heads(8), causal=causal), 40, autocast
    )
    assert 0.3 < losses[0] < 1
    assert losses[-1] < 0.03
