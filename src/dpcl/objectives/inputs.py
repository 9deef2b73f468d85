"""Checks and conversions of the objectives' inputs: float32 at least, relative weights."""

from __future__ import annotations

import torch
from torch import Tensor


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
