"""The embedding network: unit rows whatever it hears, and one batch learned by heart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpcl.networks import lstm
from dpcl.networks.base import Activation, EmbeddingNetwork, Heads
from dpcl.networks.lstm import BLSTMEmbedding

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
    layers=st.integers(1, 3),
    activation=st.sampled_from(["none", "tanh", "logistic"]),
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
    autocast: bool,
) -> None:
    """tky823 divided by the squared norm; espnet's embeddings had no unit norm at all."""
    network = BLSTMEmbedding(bins, layers, width, Heads(embedding, activation=activation))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        v = network(torch.randn(batch, frames, bins)).embeddings
    assert v.shape == (batch, frames * bins, embedding)
    assert v.dtype == torch.float32
    torch.testing.assert_close(v.norm(dim=-1), torch.ones(batch, frames * bins), rtol=0, atol=1e-5)
    if activation == "logistic":
        assert v.min() >= 0


def test_activations_differ() -> None:
    features = torch.randn(1, 4, 5)
    outputs = []
    for activation in ("none", "tanh", "logistic"):
        torch.manual_seed(1)
        outputs.append(
            BLSTMEmbedding(5, 1, 8, Heads(3, activation=activation))(features).embeddings
        )
    none, tanh, logistic = outputs
    assert torch.equal(none > 0, tanh > 0)
    assert not torch.allclose(none, tanh, atol=1e-4)
    assert not torch.allclose(tanh, logistic, atol=1e-2)


def test_embeddings_run_frame_by_frame() -> None:
    """N = l * F + f, as assignments and weights: a network that only looks at the frame."""
    network = BLSTMEmbedding(5, 1, 8, Heads(3))
    with torch.no_grad():
        for name, parameter in network.lstm.named_parameters():
            if "weight_hh" in name:
                parameter.zero_()
            if "bias" in name:
                parameter[8:16] = -100  # the forget gate is shut: no memory
    features = torch.randn(1, 6, 5)
    changed = features.clone()
    changed[0, 4] += 1
    differs = (network(features).embeddings != network(changed).embeddings).any(-1).view(6, 5)
    assert differs[4].all()
    assert not differs[[0, 1, 2, 3, 5]].any()


@pytest.mark.parametrize("autocast", [False, True])
def test_forward_in_time_only(autocast: bool) -> None:
    """tky823's causal option made the network bidirectional."""
    network = BLSTMEmbedding(5, 2, 8, Heads(3), causal=True)
    features = torch.randn(1, 6, 5)
    changed = features.clone()
    changed[0, 4:] += 1
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        differs = (network(features).embeddings != network(changed).embeddings).any(-1).view(6, 5)
    assert differs[4:].all()
    assert not differs[:4].any()


def test_dropout_in_training_alone() -> None:
    network = BLSTMEmbedding(5, 2, 8, Heads(3), dropout=0.5)
    features = torch.randn(1, 6, 5)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            network.train()
            assert not torch.equal(network(features).embeddings, network(features).embeddings)
            network.eval()
            assert torch.equal(network(features).embeddings, network(features).embeddings)


def test_bfloat16_under_autocast_only(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    original = lstm.bf16_lstm

    def counted(inputs: Tensor, lstm: torch.nn.LSTM, layer: int) -> Tensor:
        called.append(layer)
        return original(inputs, lstm, layer)

    monkeypatch.setattr(lstm, "bf16_lstm", counted)
    network = BLSTMEmbedding(9, 3, 16, Heads(4)).eval()
    features = torch.randn(2, 20, 9)
    exact = network(features).embeddings
    assert called == []
    with torch.autocast("cpu", torch.bfloat16):
        half = network(features).embeddings
    assert called == [0, 1, 2]
    assert (half - exact).norm() / exact.norm() < 0.05
    network(features)
    assert called == [0, 1, 2]


@pytest.mark.parametrize("autocast", [False, True])
def test_learns_one_batch_by_heart(learn_by_heart: Learning, autocast: bool) -> None:
    losses = learn_by_heart(lambda bins: BLSTMEmbedding(bins, 1, 48, Heads(8)), 80, autocast)
    assert 0.3 < losses[0] < 1
    assert losses[-1] < 0.03
