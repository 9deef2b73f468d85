"""What holds for every trunk: streams in pieces are the whole, statistics are taken off."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpcl.networks.base import EmbeddingNetwork, Heads
from dpcl.networks.convolutional import ConvolutionalEmbedding
from dpcl.networks.dual_path import DualPathEmbedding
from dpcl.networks.lstm import BLSTMEmbedding

# (network, bins, most layers)
TRUNKS = [(ConvolutionalEmbedding, 5, 8), (DualPathEmbedding, 20, 3)]
Trunk = type[ConvolutionalEmbedding] | type[DualPathEmbedding]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("trunk", "bins", "most"), TRUNKS)
@given(
    pieces=st.lists(st.sampled_from([1, 2, 7, 40]), min_size=1, max_size=6),
    data=st.data(),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=30)
def test_pieces_are_the_whole(
    trunk: Trunk, bins: int, most: int, pieces: list[int], data: st.DataObject, seed: int
) -> None:
    layers = data.draw(st.integers(1, most))
    torch.manual_seed(seed)
    network = trunk(bins, layers, 8, Heads(3), dropout=0.5, causal=True).eval()
    network.mean.normal_()
    network.std.uniform_(0.5, 2)
    features, encoded, state = torch.randn(sum(pieces), bins), [], None
    with torch.no_grad():
        for piece in features.split(pieces):
            x, state = network.encode_next(piece, state)
            encoded.append(x)
        torch.testing.assert_close(torch.cat(encoded), network.encode(features[None])[0])


@pytest.mark.parametrize(("trunk", "bins", "most"), TRUNKS)
def test_a_state_can_be_gone_back_to(trunk: Trunk, bins: int, most: int) -> None:
    network = trunk(bins, min(most, 3), 8, Heads(3), causal=True).eval()
    _, state = network.encode_next(torch.randn(9, bins))
    following = torch.randn(4, bins)
    first, _ = network.encode_next(following, state)
    network.encode_next(torch.randn(20, bins), state)
    assert torch.equal(network.encode_next(following, state)[0], first)


@pytest.mark.parametrize(
    ("build", "bins"),
    [
        (lambda: BLSTMEmbedding(5, 1, 8, Heads(3)), 5),
        (lambda: ConvolutionalEmbedding(5, 2, 8, Heads(3)), 5),
        (lambda: DualPathEmbedding(20, 1, 8, Heads(3)), 20),
    ],
    ids=["blstm", "conv", "dual_path"],
)
def test_statistics_are_taken_off_the_features(
    build: Callable[[], EmbeddingNetwork], bins: int
) -> None:
    network = build()
    features = torch.randn(2, 4, bins)
    plain = network(features).embeddings
    network.mean.copy_(torch.arange(float(bins)))
    network.std.copy_(torch.arange(1.0, bins + 1.0))
    again = network(features * network.std + network.mean).embeddings
    torch.testing.assert_close(again, plain)
    assert {"mean", "std"} <= set(network.state_dict())
