"""Deep clustering objective |VVᵀ - YYᵀ|² in its low-rank form; inputs of all objectives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Number of bins of one item per block on a CPU: intermediate products stay in its cache.
BLOCK = 4096

Block = tuple[slice, slice]  # items, bins


def affinity_loss(embeddings: Tensor, assignments: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute the squared distance of the learned affinity VVᵀ to the ideal affinity YYᵀ, per item.

    Sums run in float32 at least, the gradient in the type of the embeddings. No N x N matrix is
    formed, and on a CPU the gradient is the only N x K matrix: O(NK) memory, O(NK² + NKC) time.
    The gradient flows to the embeddings alone, and cannot be differentiated again.

    Args:
        embeddings: V, (B, N, K), rows of unit length (the range below needs it); float32, float64
            or bfloat16.
        assignments: Y, (B, N, C), one-hot rows.
        weights: w, (B, N), at least zero; None weights every bin equally.

    Returns:
        (B,) in [0, 4]: sum_ij w_i w_j (v_i.v_j - y_i.y_j)² / (sum w)²; 0 for an item without
        weight.

    Raises:
        ValueError: the shapes do not agree.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
        >>> assignments = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
        >>> affinity_loss(embeddings, assignments)
        tensor([0.])

    Source: Hershey et al. 2016, eq. 1 and its low-rank form and gradient below it; weights as in
    Wang, Le Roux, Hershey 2018.
    """
    if embeddings.ndim != 3 or embeddings.shape[:2] != assignments.shape[:-1]:
        raise ValueError(
            "embeddings (B, N, K) and assignments (B, N, C) must share B and N; "
            f"got {tuple(embeddings.shape)} and {tuple(assignments.shape)}"
        )
    if weights is None:
        weights = embeddings.new_ones(embeddings.shape[:2])
    elif weights.shape != embeddings.shape[:2]:
        raise ValueError(
            f"weights must be (B, N) = {tuple(embeddings.shape[:2])}; got {tuple(weights.shape)}"
        )
    loss: Tensor = _LowRankAffinity.apply(embeddings, assignments, weights)  # type: ignore[no-untyped-call]
    return loss


def normalised_affinity_loss(
    embeddings: Tensor, assignments: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Compute the affinity objective with sources of unequal size balanced, per item.

    A pair of bins counts w_i w_j / √(d_i d_j), with d_i the weight of the source of bin i. A
    source with a hundredth of the bins has a tenth of the influence, not a hundredth. The scale of
    the weights does not matter.

    Args:
        embeddings: V, (B, N, K), as for `affinity_loss`.
        assignments: Y, (B, N, C), one-hot rows.
        weights: w, (B, N), at least zero; None weights every bin equally.

    Returns:
        (B,) in [0, 4]: the weighted mean over pairs of (v_i.v_j - y_i.y_j)².

    Raises:
        ValueError: the shapes do not agree.

    Source: Hershey et al. 2016, |D^-¼ (VVᵀ - YYᵀ) D^-¼|² with d = YYᵀ1, low-rank
    |VᵀD^-½V|² - 2|VᵀD^-½Y|² + |YᵀD^-½Y|². The paper does not divide by the sum of the weights of
    the pairs.
    """
    _, y, w, sources = labelled(embeddings, assignments, weights)
    w = w * (y @ reciprocal(sources.sqrt()).unsqueeze(-1))  # (B, N, 1), w_i / √d_i
    return affinity_loss(embeddings, y, w.squeeze(-1))


class _LowRankAffinity(torch.autograd.Function):
    """Low-rank objective (|VᵀWV|² - 2|VᵀWY|² + |YᵀWY|²) / (sum w)² and its gradient by V.

    The gradient is 4 W (V VᵀWV - Y YᵀWV) / (sum w)².
    """

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, assignments: Tensor, weights: Tensor) -> Tensor:
        batch, _, width = embeddings.shape
        sources = assignments.shape[-1]
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        vv = embeddings.new_zeros(batch, width, width, dtype=dtype)  # VᵀWV
        vy = embeddings.new_zeros(batch, width, sources, dtype=dtype)  # VᵀWY
        yy = embeddings.new_zeros(batch, sources, sources, dtype=dtype)  # YᵀWY
        # Weights relative to the largest, so that squares of small weights do not vanish. Weights
        # of one stay one, and their sums exact. An item without weight has a loss of zero, not 0/0.
        largest = weights.amax(dim=-1, keepdim=True)
        weights = weights.to(dtype) / torch.where(largest > 0, largest, torch.ones_like(largest))
        scale = weights.sum(dim=-1).clamp_min(1).pow(-2)  # (B,), the sum is 0 or at least 1
        for block in _blocks(embeddings):
            item = block[0]
            v = embeddings[block].to(dtype)  # (items, bins, K)
            y = assignments[block].to(dtype)  # (items, bins, C)
            w = weights[block].unsqueeze(-1)  # (items, bins, 1)
            wy = w * y
            vv[item].baddbmm_(v.mT, w * v)
            vy[item].baddbmm_(v.mT, wy)
            yy[item].baddbmm_(y.mT, wy)
        ctx.save_for_backward(embeddings, assignments, weights, vv, vy, scale)
        squares = vv.square().sum((1, 2)) - 2 * vy.square().sum((1, 2)) + yy.square().sum((1, 2))
        # Clamped, since rounding can make this sum of squares negative.
        return (squares * scale).clamp_min(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        embeddings, assignments, weights, vv, vy, scale = ctx.saved_tensors
        grad = torch.empty_like(embeddings)
        factor = (4 * scale * grads[0])[:, None, None]  # (B, 1, 1)
        vv = (vv * factor).to(embeddings.dtype)  # (B, K, K)
        vy = (vy * -factor).to(embeddings.dtype)  # (B, K, C)
        for block in _blocks(embeddings):
            item = block[0]
            part = grad[block]  # (items, bins, K)
            torch.bmm(embeddings[block], vv[item], out=part)
            part.baddbmm_(assignments[block].to(part.dtype), vy[item].mT)
            part.mul_(weights[block].to(part.dtype).unsqueeze(-1))
        return grad, None, None


def _blocks(tensor: Tensor) -> Iterator[Block]:
    """Yield the blocks of a (B, N, ...) tensor that are processed at once: on a GPU, all of it."""
    batch, bins = tensor.shape[:2]
    if tensor.device.type != "cpu":
        yield slice(None), slice(None)
        return
    for item in range(batch):
        for start in range(0, bins, BLOCK):
            yield slice(item, item + 1), slice(start, start + BLOCK)


def weighted(embeddings: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Convert embeddings to float32 at least, and weights to shares of the item's weight.

    Args:
        embeddings: (B, N, K).
        weights: (B, N), at least zero; None weights every bin equally.

    Returns:
        Embeddings (B, N, K), and shares (B, N, 1), without gradient. The shares sum to one over N,
        or to zero in an item without weight.

    Raises:
        ValueError: the shapes do not agree.
    """
    if embeddings.ndim != 3:
        raise ValueError(f"embeddings must be (B, N, K); got {tuple(embeddings.shape)}")
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    if weights is None:
        weights = embeddings.new_ones(embeddings.shape[:2], dtype=dtype)
    elif weights.shape != embeddings.shape[:2]:
        raise ValueError(
            f"weights must be (B, N) = {tuple(embeddings.shape[:2])}; got {tuple(weights.shape)}"
        )
    weights = weights.detach().to(dtype)
    total = weights.sum(-1, keepdim=True)  # (B, 1)
    shares = weights / torch.where(total > 0, total, 1)
    return embeddings.to(dtype), shares.unsqueeze(-1)


def labelled(
    embeddings: Tensor, assignments: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Convert embeddings, assignments and weights as `weighted` does, and add up each source.

    Args:
        embeddings: (B, N, K).
        assignments: (B, N, C), one-hot rows.
        weights: (B, N), at least zero; None weights every bin equally.

    Returns:
        Embeddings (B, N, K), assignments (B, N, C) of the same type, shares (B, N, 1) of the bins,
        and shares (B, C) of the sources. The share of a source without bins is zero.

    Raises:
        ValueError: the shapes do not agree.
    """
    v, w = weighted(embeddings, weights)
    if assignments.ndim != 3 or assignments.shape[:2] != v.shape[:2]:
        raise ValueError(
            "embeddings (B, N, K) and assignments (B, N, C) must share B and N; "
            f"got {tuple(embeddings.shape)} and {tuple(assignments.shape)}"
        )
    y = assignments.detach().to(v.dtype)
    return v, y, w, (w * y).sum(1)


def over_bins(left: Tensor, right: Tensor) -> Tensor:
    """Sum outer products over the bins, leftᵀ right: (B, N, I), (B, N, J) -> (B, I, J).

    Sums run in blocks: a single float32 sum over a long recording has a systematic error of 1e-4.
    """
    pairs = zip(torch.split(left, BLOCK, 1), torch.split(right, BLOCK, 1), strict=True)
    return torch.stack([a.mT @ b for a, b in pairs]).sum(0)


def reciprocal(values: Tensor) -> Tensor:
    """Return 1 / x where x is above zero and 0 elsewhere, so that empty sources do not count."""
    return torch.where(values > 0, 1 / torch.where(values > 0, values, 1), 0)
