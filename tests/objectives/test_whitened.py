"""Whitened k-means, the projector loss and deep LDA against their dense definitions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dpcl.objectives import deep_lda_loss, projector_loss, whitened_kmeans_loss
from dpcl.objectives.spectral import RELATIVE_RIDGE

Loss = Callable[..., Tensor]
LOSSES = [whitened_kmeans_loss, projector_loss, deep_lda_loss]


def item(bins: int = 40, width: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, assignments (source 1 of four owns nothing), and weights with zeros."""
    generator = torch.Generator().manual_seed(width)
    v = torch.randn(2, bins, width, generator=generator).double()
    labels = torch.tensor([0, 2, 3])[torch.randint(3, (2, bins), generator=generator)]
    weights = torch.rand(2, bins, generator=generator).double()
    weights[:, :9] = 0
    return v, functional.one_hot(labels, 4).double(), weights


def projector(columns: Tensor, ridge: float = 0.0) -> Tensor:
    """X (XᵀX + ridge of its mean eigenvalue)^-1 Xᵀ, (N, N)."""
    gram = columns.T @ columns
    shift = ridge * gram.diagonal().mean() * torch.eye(len(gram)).double()
    return columns @ torch.linalg.pinv(gram + shift, hermitian=True) @ columns.T


def dense(loss: Loss, v: Tensor, y: Tensor, w: Tensor, ridge: float = RELATIVE_RIDGE) -> Tensor:
    """The definitions on one item, with N x N matrices and pseudo-inverses."""
    v, y = w.sqrt().unsqueeze(-1) * v, w.sqrt().unsqueeze(-1) * y
    of_v, of_y = projector(v, ridge), projector(y)
    if loss is projector_loss:
        return (of_v - of_y).square().sum()
    if loss is whitened_kmeans_loss:
        return torch.linalg.matrix_rank(y) - (of_v @ of_y).trace()
    ones = w.sqrt().unsqueeze(-1)
    return (v - of_y @ v).square().sum() / (v - projector(ones) @ v).square().sum()


@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradient_are_those_of_the_definition(loss: Loss) -> None:
    v, y, w = item()
    v.requires_grad_()
    value = loss(v, y, w)
    expected = torch.stack([dense(loss, *one) for one in zip(v, y, w, strict=True)])
    torch.testing.assert_close(value, expected)
    grads = [torch.autograd.grad(x.sum(), v, retain_graph=True)[0] for x in (value, expected)]
    torch.testing.assert_close(grads[0], grads[1])
    few = v[:1, :15].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda e: loss(e, y[:1, :15], w[:1, :15]), few)


def test_whitened_kmeans_is_the_published_loss_less_its_constant() -> None:
    """|W - P_Y W|² with W = V (VᵀV)^-½ lies in [K - C, K]; up to the ridge."""
    v, y, w = item()
    for each, one in enumerate(zip(v, y, w, strict=True)):
        root = one[2].sqrt().unsqueeze(-1)
        u, _, right = torch.linalg.svd(root * one[0], full_matrices=False)
        whitened = u @ right
        published = (whitened - projector(root * one[1]) @ whitened).square().sum()
        ours = whitened_kmeans_loss(v, y, w)[each]
        torch.testing.assert_close(ours, published - (5 - 3), rtol=0, atol=10 * RELATIVE_RIDGE)


def test_full_rank_makes_the_projector_loss_twice_the_whitened_one_and_a_constant() -> None:
    v, y, w = item()
    expected = 2 * whitened_kmeans_loss(v, y, w) + 5 - 3
    torch.testing.assert_close(projector_loss(v, y, w), expected, rtol=0, atol=20 * RELATIVE_RIDGE)


@pytest.mark.parametrize("loss", LOSSES)
def test_perfect_embeddings_of_low_rank_score_zero(loss: Loss) -> None:
    """VᵀV has rank 3 of 7 here: nothing to divide by, and nothing infinite."""
    _, y, w = item()
    basis = torch.randn(4, 7, generator=torch.Generator().manual_seed(1)).double()
    v = (y @ basis).float().requires_grad_()
    value = loss(v, y, w)
    value.sum().backward()
    torch.testing.assert_close(value, torch.zeros(2), rtol=0, atol=30 * RELATIVE_RIDGE)
    assert v.grad is not None and v.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_collapsed_embeddings_are_finite(loss: Loss) -> None:
    _, y, w = item()
    v = torch.ones(2, 40, 7).requires_grad_()
    value = loss(v, y, w)
    value.sum().backward()
    assert value.isfinite().all() and v.grad is not None and v.grad.isfinite().all()
    if loss is not deep_lda_loss:  # one direction of three is found
        # float32's rounding over the ridge, seven times: 0.008 on one processor, 0.002 on another
        torch.testing.assert_close(value, torch.full((2,), 2.0), rtol=0, atol=200 * RELATIVE_RIDGE)


@pytest.mark.parametrize("loss", LOSSES)
def test_scale_order_and_rotation_do_not_matter(loss: Loss) -> None:
    v, y, w = item()
    value = loss(v, y, w)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(2)).double())[
        0
    ]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss(1e-3 * v @ turn, y[..., [3, 1, 0, 2]], 50 * w), value)
    torch.testing.assert_close(loss(v[:, order], y[:, order], w[:, order]), value)
    torch.testing.assert_close(loss(v.flip(0), y.flip(0), w.flip(0)), value.flip(0))


def test_any_invertible_map_leaves_the_subspace_objectives_as_they_are() -> None:
    v, y, w = item()
    stretch = torch.diag(torch.tensor([0.5, 1, 2, 1, 1])).double()
    for loss in (whitened_kmeans_loss, projector_loss):
        torch.testing.assert_close(
            loss(v @ stretch, y, w), loss(v, y, w), rtol=0, atol=40 * RELATIVE_RIDGE
        )


@pytest.mark.parametrize("loss", LOSSES)
def test_ranges(loss: Loss) -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        v = torch.randn(8, 6, 4, generator=generator)
        y = functional.one_hot(torch.randint(3, (8, 6), generator=generator), 3)
        value = loss(v, y)
        most = {whitened_kmeans_loss: 3, projector_loss: 7, deep_lda_loss: 1}[loss]
        assert (value >= 0).all() and (value <= most * (1 + 1e-5)).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_silence_and_bfloat16(loss: Loss) -> None:
    v, y, w = item()
    w[0] = 0
    half = v.bfloat16().requires_grad_()
    value = loss(half, y.bfloat16(), w.bfloat16())
    value.sum().backward()
    assert value[0] == 0 and half.grad is not None and half.grad.dtype == torch.bfloat16
    assert not half.grad[0].any() and half.grad[1].isfinite().all() and half.grad[1].any()
    torch.testing.assert_close(value[1].double(), loss(v, y, w)[1], rtol=0.05, atol=0)
    assert not half.grad[1, :9].any()  # no weight, no say


@pytest.mark.parametrize("loss", LOSSES)
def test_says_which_shapes_do_not_fit(loss: Loss) -> None:
    v, y, w = item()
    with pytest.raises(ValueError, match=r"must share B and N; got \(2, 40, 5\) and \(2, 4, 40\)"):
        loss(v, y.mT, w)
    with pytest.raises(ValueError, match=r"embeddings must be \(B, N, K\); got \(40, 5\)"):
        loss(v[0], y[0], w[0])


def test_a_source_alone_has_no_scatter_to_be_told_from() -> None:
    v, _, w = item()
    alone = functional.one_hot(torch.zeros(2, 40).long(), 2)
    torch.testing.assert_close(deep_lda_loss(v, alone, w), torch.ones(2).double())


@pytest.mark.parametrize("loss", LOSSES)
def test_float32_sums_over_a_long_recording_are_not_biased(loss: Loss) -> None:
    """Summed in one go they are off by 4e-4 at this length, and always to the same side."""
    generator = torch.Generator().manual_seed(4)
    y = functional.one_hot(torch.randint(2, (1, 129_000), generator=generator), 8).float()
    v = y + 0.1 * torch.randn(y.shape, generator=generator)
    value = loss(v, y)
    torch.testing.assert_close(value.double(), loss(v.double(), y), rtol=0, atol=4e-5)
