"""The bfloat16 recurrence is torch's LSTM, up to the rounding of bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dpcl.networks.lstm import bf16_lstm


def network(inputs: int, hidden: int, layers: int, bidirectional: bool = True) -> nn.LSTM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lstm = nn.LSTM(inputs, hidden, layers, bidirectional=bidirectional)
        for parameter in lstm.parameters():  # larger than torch's own: gates that open and close
            nn.init.uniform_(parameter, -0.5, 0.5)
    return lstm


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(value: Tensor, expected: Tensor) -> float:
    return float((value.detach().float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("frames, batch", [(1, 1), (2, 3), (30, 4)])
def test_values_and_all_gradients(
    layers: int, frames: int, batch: int, bidirectional: bool
) -> None:
    lstm = network(7, 16, layers, bidirectional)
    x = randn(frames, batch, 7).requires_grad_()
    outward = randn(frames, batch, 32 if bidirectional else 16, seed=1)
    expected, _ = lstm(x)
    expected.backward(outward)
    wanted = {name: p.grad.clone() for name, p in lstm.named_parameters() if p.grad is not None}
    assert x.grad is not None
    wanted_x = x.grad.clone()
    lstm.zero_grad()
    x.grad = None

    y = x
    for layer in range(layers):
        y = bf16_lstm(y, lstm, layer)
    assert y.dtype == torch.bfloat16
    assert y.shape == expected.shape
    assert error(y, expected.detach()) < 0.01
    y.backward(outward.bfloat16())
    assert error(x.grad, wanted_x) < 0.03
    for name, parameter in lstm.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        if frames == 1 and "weight_hh" in name:
            assert not parameter.grad.any(), name  # there is no frame before
        else:
            assert error(parameter.grad, wanted[name]) < 0.03, name


def test_rounding_does_not_pile_up_over_many_frames() -> None:
    """The cell state is float32: in bfloat16 small steps would be lost in it."""
    lstm = network(5, 12, 1)
    x = randn(600, 2, 5)
    with torch.no_grad():
        expected, _ = lstm(x)
        y = bf16_lstm(x, lstm, 0)
    assert error(y[-50:], expected[-50:]) < 0.02
    assert error(y[:50], expected[:50]) < 0.02


def test_each_direction_hears_its_side_only() -> None:
    lstm = network(5, 8, 1)
    x = randn(20, 1, 5)
    changed = x.clone()
    changed[12] += 1
    with torch.no_grad():
        y, other = bf16_lstm(x, lstm, 0), bf16_lstm(changed, lstm, 0)
    assert torch.equal(y[:12, :, :8], other[:12, :, :8])
    assert torch.equal(y[13:, :, 8:], other[13:, :, 8:])
    assert not torch.equal(y[12, :, :8], other[12, :, :8])


def test_large_gates_saturate_without_nan() -> None:
    lstm = network(5, 8, 1)
    x = (1e4 * randn(10, 2, 5)).requires_grad_()
    y = bf16_lstm(x, lstm, 0)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
