"""unit_length is torch's normalize, in value and gradient, and finite at zero."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dpcl.networks import base as module
from dpcl.networks.base import unit_length


@pytest.fixture(params=[3, 4096], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", request.param)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(
    shape=st.sampled_from([(1,), (5,), (0, 4), (7, 1), (4, 3), (2, 9, 5), (2, 3, 4, 2)]),
    exponent=st.floats(-8, 8),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=40)
def test_is_normalize(shape: tuple[int, ...], exponent: float, seed: int) -> None:
    x = (10**exponent * randn(*shape, seed=seed).double()).requires_grad_()
    ours, theirs = unit_length(x), functional.normalize(x, dim=-1)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    factors = randn(*shape, seed=seed + 1).double()
    (slope,) = torch.autograd.grad((factors * ours).sum(), x)
    (expected,) = torch.autograd.grad((factors * theirs).sum(), x)
    torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-9 * 10**-exponent)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_types(dtype: torch.dtype) -> None:
    """Under autocast the embeddings arrive in bfloat16; their length must be one all the same."""
    x = randn(10, 20, dtype=dtype).requires_grad_()
    v = unit_length(x)
    assert v.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(v.norm(dim=-1), torch.ones(10, dtype=v.dtype), rtol=0, atol=1e-6)
    v.backward(randn(10, 20, seed=1, dtype=v.dtype))
    assert x.grad is not None
    assert x.grad.dtype == dtype
    exact = x.detach().double().requires_grad_()
    functional.normalize(exact, dim=-1).backward(randn(10, 20, seed=1, dtype=torch.float64))
    assert exact.grad is not None
    error = (x.grad.double() - exact.grad).norm() / exact.grad.norm()
    assert error < max(1e-6, float(torch.finfo(dtype).eps))


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(unit_length, randn(5, 4, dtype=torch.float64).requires_grad_())


def test_zero_rows_are_finite() -> None:
    x = randn(6, 4)
    x[2] = 0
    x.requires_grad_()
    v = unit_length(x)
    assert not v[2].any()
    v.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_any_memory_layout() -> None:
    x = randn(4, 6, 5)
    expected = unit_length(x)
    torch.testing.assert_close(unit_length(x.transpose(0, 2)).transpose(0, 2).norm(dim=0),
                               torch.ones(6, 5))  # fmt: skip
    scattered = x.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    v = unit_length(scattered)
    torch.testing.assert_close(v, expected)
    ones = torch.ones(())
    (slope,) = torch.autograd.grad(v, scattered, ones.expand(4, 6, 5))
    whole = x.clone().requires_grad_()
    (same,) = torch.autograd.grad(functional.normalize(whole, dim=-1).sum(), whole)
    torch.testing.assert_close(slope, same)
