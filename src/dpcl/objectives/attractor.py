"""Deep attractor networks: the masks come from the embeddings' similarity to one point a source."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from dpcl.objectives.inputs import labelled, over_bins, reciprocal, weighted
from dpcl.objectives.masks import mask_inference_loss

SOME = 2048  # bins that are drawn by all choices of anchors at once


def attractors(embeddings: Tensor, assignments: Tensor, weights: Tensor | None = None) -> Tensor:
    """The weighted mean embedding of each source, all zeros for a source without weight.

    embeddings: (B, N, K); assignments: (B, N, C), at least zero, need not be one-hot;
    weights: (B, N), at least zero; None counts every bin once -> (B, C, K).
    Source: Chen, Luo, Mesgarani 2017; Luo, Chen, Mesgarani 2018, eq. 9.
    """
    v, y, w, sources = labelled(embeddings, assignments, weights)
    return over_bins(w * y, v) * reciprocal(sources).unsqueeze(-1)


def attractor_masks(embeddings: Tensor, attractors: Tensor) -> Tensor:
    """softmax_c(v_n . a_c): (B, N, K), (B, C, K) -> (B, N, C) that sum to one over C.

    An attractor of all zeros is that of no source, and its mask is zero; without any attractor
    all masks are 1 / C. Source: Luo, Chen, Mesgarani 2018, eqs. 10 to 12 (softmax).
    """
    present = attractors.any(-1).unsqueeze(1)  # (B, 1, C)
    similarity = embeddings.to(attractors.dtype) @ attractors.mT  # (B, N, C)
    absent = ~present & present.any(-1, keepdim=True)
    return similarity.masked_fill(absent, -torch.inf).softmax(-1)


def deep_attractor_loss(
    embeddings: Tensor,
    assignments: Tensor,
    mixture: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """Squared error of the sources masked by their attractors, per item, relative to the mixture.

    embeddings V: (B, N, K); assignments Y: (B, N, C), one-hot rows
    mixture: magnitudes |x| (B, N), at least zero
    targets: (B, N, C), what m_c |x| should be: |s_c|, or |x| times an ideal ratio mask
    weights: (B, N), which bins make the attractors; None counts every bin once
    returns (B,): Σ (m_c |x| - t_c)² / Σ |x|², in [0, 2] where the targets / |x| are at least zero
    and sum to at most one; in a silent item the plain sum. Every bin counts, whatever its weight.

    The attractors are ordered as the assignments are: no permutation is searched.
    Source: Chen, Luo, Mesgarani 2017 (targets |s_c|); Luo, Chen, Mesgarani 2018, eq. 13 (targets
    from ideal masks; there the mean over sources, and not relative to the mixture).
    Raises ValueError for shapes that do not belong together.
    """
    masks = attractor_masks(embeddings, attractors(embeddings, assignments, weights))
    if targets.shape != masks.shape or mixture.shape != masks.shape[:2]:
        raise ValueError(
            f"targets must be (B, N, C) = {tuple(masks.shape)} and the mixture (B, N); "
            f"got {tuple(targets.shape)} and {tuple(mixture.shape)}"
        )
    mixture = mixture.to(masks.dtype)
    errors = (masks * mixture.unsqueeze(-1) - targets).square().sum((1, 2))
    total = mixture.square().sum(-1)  # (B,)
    return errors / torch.where(total > 0, total, 1)


def anchored_attractors(
    embeddings: Tensor, anchors: Tensor, num_sources: int, weights: Tensor | None = None
) -> Tensor:
    """Attractors without knowing the sources, from trainable points: no k-means at test time.

    embeddings: (B, N, K); anchors: (A, K) with A >= num_sources = C; weights: (B, N), at least
    zero; None counts every bin once -> (B, C, K).

    Of all C anchors out of A, each of which draws embeddings to itself by softmax_c(v_n . b_c),
    those are taken whose attractors, the means of what they draw, lie farthest apart: the largest
    inner product of two attractors is least. The gradient flows to the embeddings and to the
    anchors that were taken.
    Source: Luo, Chen, Mesgarani 2018 (anchored deep attractor network, ADANet). Raises ValueError
    for shapes that do not fit.
    """
    v, w = weighted(embeddings, weights)
    if anchors.ndim != 2 or anchors.shape[1] != v.shape[-1] or len(anchors) < num_sources:
        raise ValueError(
            f"anchors must be (A, K) = (at least {num_sources}, {v.shape[-1]}); "
            f"got {tuple(anchors.shape)}"
        )
    anchors = anchors.to(v.dtype)
    choices = torch.tensor(list(combinations(range(len(anchors)), num_sources)), device=v.device)
    with torch.no_grad():
        best = _closeness(_drawn_by_each(v, anchors, w, choices)).argmin(-1)  # (B,)
    return _drawn(v, anchors[choices[best]], w)


def anchored_attractor_loss(
    embeddings: Tensor,
    anchors: Tensor,
    mixture: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """As deep_attractor_loss with anchored attractors, in the best order of the sources: (B,).

    Anchors know no order of the sources, so the least over all orders counts.
    """
    points = anchored_attractors(embeddings, anchors, targets.shape[-1], weights)
    return mask_inference_loss(attractor_masks(embeddings, points), mixture, targets, norm=2)


def _drawn(v: Tensor, anchors: Tensor, w: Tensor) -> Tensor:
    """Means of what each anchor draws: (B, N, K), (C, K) or (B, C, K), (B, N, 1) -> (B, C, K)."""
    share = w * (v @ anchors.mT).softmax(-1)  # (B, N, C)
    return over_bins(share, v) * reciprocal(share.sum(1)).unsqueeze(-1)


def _drawn_by_each(v: Tensor, anchors: Tensor, w: Tensor, choices: Tensor) -> Tensor:
    """As `_drawn` by each choice of anchors (P, C), numbers of (A, K): (B, P, C, K).

    Some bins of one item at a time, which stay in a processor's cache.
    """
    drawn = []
    for item, weights in zip(v, w, strict=True):
        sums, shares = v.new_zeros(()), v.new_zeros(())
        for x, weight in zip(torch.split(item, SOME), torch.split(weights, SOME), strict=True):
            share = weight.T * (anchors @ x.T)[choices].softmax(1)  # (P, C, n)
            sums = sums + share @ x
            shares = shares + share.sum(-1, keepdim=True)
        drawn.append(sums * reciprocal(shares))
    return torch.stack(drawn)


def _closeness(points: Tensor) -> Tensor:
    """The largest inner product between two of the points: (..., C, K) -> (...)."""
    same = torch.eye(points.shape[-2], dtype=torch.bool, device=points.device)
    return (points @ points.mT).masked_fill(same, -torch.inf).amax((-2, -1))
