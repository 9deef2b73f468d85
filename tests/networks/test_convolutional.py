"""The convolutional network: what each frame sees, and that streams in pieces are the whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dpcl.networks.convolutional import ConvolutionalEmbedding
from dpcl.networks.embedding_network import Activation, EmbeddingNetwork, Heads

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
        return (network.hear(features) != network.hear(other))[0].any(-1)


@pytest.mark.parametrize("causal", [False, True])
def test_twelve_layers_see_126_frames_to_each_side(causal: bool) -> None:
    """Two seconds; twice the sum of 1, 2, 4, ..., 32. If causal, the future is not heard."""
    network = ConvolutionalEmbedding(5, 12, 8, Heads(3), causal=causal).double().eval()
    for layer in network.layers:  # the way through as strong as the way past, or it rounds away
        nn.init.normal_(layer.convolution.weight)
    heard = heard_from(network, 600, 300)
    expected = torch.zeros(600, dtype=torch.bool)
    expected[300 : 300 + 253] = True
    assert torch.equal(heard, expected if causal else expected.roll(-126))


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


@given(
    pieces=st.lists(st.sampled_from([1, 2, 7, 40]), min_size=1, max_size=6),
    layers=st.integers(1, 8),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=30)
def test_pieces_are_the_whole(pieces: list[int], layers: int, seed: int) -> None:
    torch.manual_seed(seed)
    network = ConvolutionalEmbedding(5, layers, 8, Heads(3), dropout=0.5, causal=True).eval()
    network.mean.normal_()
    network.std.uniform_(0.5, 2)
    features, heard, state = torch.randn(sum(pieces), 5), [], None
    with torch.no_grad():
        for piece in features.split(pieces):
            x, state = network.hear_on(piece, state)
            heard.append(x)
        torch.testing.assert_close(torch.cat(heard), network.hear(features[None])[0])


def test_a_state_can_be_gone_back_to() -> None:
    network = ConvolutionalEmbedding(5, 3, 8, Heads(3), causal=True)
    _, state = network.hear_on(torch.randn(9, 5))
    following = torch.randn(4, 5)
    first, _ = network.hear_on(following, state)
    network.hear_on(torch.randn(20, 5), state)
    assert torch.equal(network.hear_on(following, state)[0], first)


def test_statistics_are_taken_off_the_features() -> None:
    network = ConvolutionalEmbedding(5, 2, 8, Heads(3))
    features = torch.randn(2, 4, 5)
    plain = network(features).embeddings
    network.mean.copy_(torch.arange(5.0))
    network.std.copy_(torch.arange(1.0, 6.0))
    again = network(features * network.std + network.mean).embeddings
    torch.testing.assert_close(again, plain)


def test_dropout_in_training_alone() -> None:
    network = ConvolutionalEmbedding(5, 2, 8, Heads(3), dropout=0.5)
    features = torch.randn(1, 6, 5)
    assert not torch.equal(network.hear(features), network.hear(features))
    network.eval()
    assert torch.equal(network.hear(features), network.hear(features))


@pytest.mark.parametrize("causal", [False, True])
def test_in_bfloat16(causal: bool) -> None:
    network = ConvolutionalEmbedding(9, 4, 16, Heads(4), causal=causal)
    features = torch.randn(2, 20, 9)
    exact = network(features).embeddings
    half = network.in_bfloat16()
    assert half.hear(features).dtype == torch.bfloat16
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
