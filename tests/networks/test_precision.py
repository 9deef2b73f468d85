"""The choice of precision by measurement, and networks in bfloat16 and int8."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpcl.networks import precision
from dpcl.networks.base import Heads, input_dtype
from dpcl.networks.lstm import BLSTMEmbedding
from dpcl.networks.precision import MULTIPLE, Precision, fastest, in_bfloat16, in_int8


def choose(monkeypatch: pytest.MonkeyPatch, times: dict[Precision, float]) -> Precision:
    """What is fastest where products take these times."""
    monkeypatch.setattr(precision, "_seconds", times.__getitem__)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    fastest.cache_clear()
    try:
        return fastest()
    finally:
        fastest.cache_clear()


@pytest.mark.parametrize(
    ("half", "eight", "best"),
    [
        (1.0, 1.0, "bfloat16"),
        (1.9, 1.9, "float32"),
        (1.0, 0.5, "int8"),
        (1.9, 1.0, "int8"),
        (1.0, 0.9, "bfloat16"),
    ],
)
def test_a_less_exact_one_has_to_win_clearly(
    monkeypatch: pytest.MonkeyPatch, half: float, eight: float, best: Precision
) -> None:
    assert choose(monkeypatch, {"float32": 2.0, "bfloat16": half, "int8": eight}) == best


def test_where_torch_has_no_int8_it_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(which: Precision) -> float:
        if which == "int8":
            raise ImportError
        return 1.0

    monkeypatch.setattr(precision, "_seconds", seconds)
    fastest.cache_clear()
    try:
        assert fastest() == "float32"
    finally:
        fastest.cache_clear()


def test_a_network_may_leave_int8_out(monkeypatch: pytest.MonkeyPatch) -> None:
    times: dict[Precision, float] = {"float32": 2.0, "bfloat16": 1.9, "int8": 0.1}
    monkeypatch.setattr(precision, "_seconds", times.__getitem__)
    fastest.cache_clear()
    try:
        assert fastest(integers=False) == "float32" and fastest() == "int8"
    finally:
        fastest.cache_clear()


@pytest.mark.parametrize("which", ["float32", "int8"])
def test_products_take_time(which: Precision) -> None:
    assert 0 < precision._seconds(which) < 1


def test_in_int8_embeddings_are_nearly_the_same() -> None:
    torch.manual_seed(0)
    network = BLSTMEmbedding(65, 2, 40, Heads(8)).eval()
    features = torch.randn(2, 30, 65)
    with torch.no_grad():
        exact = network(features).embeddings
        rough = network.in_int8()(features).embeddings
    cosines = (exact * rough).sum(-1)
    assert cosines.min() > 0.98
    assert not torch.equal(exact, rough)


@pytest.mark.parametrize("bins", [64, 65])
@pytest.mark.parametrize("causal", [True, False])
def test_in_bfloat16_embeddings_are_nearly_the_same(bins: int, causal: bool) -> None:
    """Inputs of any number: where they are filled up, what was added has no say."""
    torch.manual_seed(0)
    network = BLSTMEmbedding(bins, 2, 40, Heads(8), causal=causal).eval()
    network.std.fill_(2)
    half = network.in_bfloat16()
    assert half.lstm.input_size == bins + -bins % MULTIPLE
    assert network.lstm.input_size == bins
    features = torch.randn(2, 30, bins)
    with torch.no_grad():
        exact = network(features).embeddings
        rough = half(features).embeddings
    assert (exact * rough).sum(-1).min() > 0.98
    assert not torch.equal(exact, rough)


def test_in_bfloat16_the_network_itself_stays_as_it_was() -> None:
    network = nn.Sequential(nn.LSTM(3, 2)).train()
    copy = in_bfloat16(network)
    assert network[0].weight_ih_l0.shape == (8, 3)
    assert network[0].weight_ih_l0.dtype == torch.float32
    assert network.training
    assert not copy.training


def test_in_int8_the_network_itself_stays_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(3, 2)).train()
    copy = in_int8(network)
    assert isinstance(network[0], nn.Linear)
    assert network.training
    assert not copy.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_layer_takes(dtype: torch.dtype) -> None:
    assert input_dtype(nn.Linear(3, 2).to(dtype)) == dtype


def test_layers_in_int8_take_float32() -> None:
    layer = in_int8(nn.Sequential(nn.Linear(3, 2)))[0]  # type: ignore[index]
    assert input_dtype(layer) == torch.float32
