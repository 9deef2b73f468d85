"""Deep attractor networks: masks from the similarity of embeddings to one attractor per source."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from dpcl.objectives.affinity import labelled, over_bins, reciprocal, weighted
from dpcl.objectives.masks import mask_inference_loss

BLOCK = 2048  # number of bins per block in `_attracted_by_each`


def attractors(embeddings: Tensor, assignments: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute the attractor of each source: its weighted mean embedding.

    Args:
        embeddings: (B, N, K).
        assignments: (B, N, C), at least zero, not necessarily one-hot.
        weights: (B, N), at least zero; None weights every bin equally.

    Returns:
        (B, C, K), zeros for a source without weight.

    Raises:
        ValueError: the shapes do not agree.

    Source: Chen, Luo, Mesgarani 2017; Luo, Chen, Mesgarani 2018, eq. 9.
    """
    v, y, w, sources = labelled(embeddings, assignments, weights)
    return over_bins(w * y, v) * reciprocal(sources).unsqueeze(-1)


def attractor_masks(embeddings: Tensor, attractors: Tensor) -> Tensor:
    """Compute masks softmax_c(v_n . a_c) from embeddings and attractors.

    An attractor of zeros stands for no source, and its mask is zero. If all attractors are zeros,
    all masks are 1 / C.

    Args:
        embeddings: (B, N, K).
        attractors: (B, C, K).

    Returns:
        (B, N, C), summing to one over C.

    Source: Luo, Chen, Mesgarani 2018, eqs. 10 to 12 (softmax).
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
    """Compute the squared error of the sources masked by their attractors, relative to the mixture.

    Every bin counts, whatever its weight. The attractors have the order of the assignments: no
    permutation is searched.

    Args:
        embeddings: V, (B, N, K).
        assignments: Y, (B, N, C), one-hot rows.
        mixture: magnitudes |x|, (B, N), at least zero.
        targets: (B, N, C), ideal values of m_c |x|: |s_c|, or |x| times an ideal ratio mask.
        weights: (B, N), weights of the bins in the attractors; None weights every bin equally.

    Returns:
        (B,): Σ (m_c |x| - t_c)² / Σ |x|². It lies in [0, 2] if the targets / |x| are at least zero
        and sum to at most one. In a silent item it is the plain sum of squares.

    Raises:
        ValueError: the shapes do not agree.

    Source: Chen, Luo, Mesgarani 2017 (targets |s_c|); Luo, Chen, Mesgarani 2018, eq. 13 (targets
    from ideal masks; there the mean over sources, and not relative to the mixture).
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
    """Compute attractors from trainable anchors: no assignments, and no k-means at test time.

    All choices of C anchors out of A are tried. The anchors of a choice share out the embeddings
    by softmax_c(v_n . b_c), and the attractors are the means of these shares. The choice whose
    attractors lie farthest apart wins: the largest inner product of two attractors is smallest.
    The gradient flows to the embeddings and to the chosen anchors.

    Args:
        embeddings: (B, N, K).
        anchors: (A, K) with A >= C.
        num_sources: number of sources C.
        weights: (B, N), at least zero; None weights every bin equally.

    Returns:
        (B, C, K).

    Raises:
        ValueError: the shapes do not agree.

    Source: Luo, Chen, Mesgarani 2018 (anchored deep attractor network, ADANet).
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
        best = _closeness(_attracted_by_each(v, anchors, w, choices)).argmin(-1)  # (B,)
    return _attracted(v, anchors[choices[best]], w)


def anchored_attractor_loss(
    embeddings: Tensor,
    anchors: Tensor,
    mixture: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute `deep_attractor_loss` with anchored attractors, in the best order of the sources.

    Anchors imply no order of the sources, so the least value over all orders counts.

    Args:
        embeddings: (B, N, K).
        anchors: (A, K) with A >= C.
        mixture: magnitudes |x|, (B, N), at least zero.
        targets: (B, N, C), as for `deep_attractor_loss`.
        weights: (B, N), weights of the bins in the attractors; None weights every bin equally.

    Returns:
        (B,).

    Raises:
        ValueError: the shapes do not agree.
    """
    points = anchored_attractors(embeddings, anchors, targets.shape[-1], weights)
    return mask_inference_loss(attractor_masks(embeddings, points), mixture, targets, norm=2)


def _attracted(v: Tensor, anchors: Tensor, w: Tensor) -> Tensor:
    """Return each anchor's mean: (B, N, K), (C, K) or (B, C, K), (B, N, 1) -> (B, C, K)."""
    share = w * (v @ anchors.mT).softmax(-1)  # (B, N, C)
    return over_bins(share, v) * reciprocal(share.sum(1)).unsqueeze(-1)


def _attracted_by_each(v: Tensor, anchors: Tensor, w: Tensor, choices: Tensor) -> Tensor:
    """Return the result of `_attracted` for each choice (P, C) of the anchors (A, K): (B, P, C, K).

    Blocks of bins of one item at a time stay in a processor's cache.
    """
    attracted = []
    for item, weights in zip(v, w, strict=True):
        sums, shares = v.new_zeros(()), v.new_zeros(())
        for x, weight in zip(torch.split(item, BLOCK), torch.split(weights, BLOCK), strict=True):
            share = weight.T * (anchors @ x.T)[choices].softmax(1)  # (P, C, n)
            sums = sums + share @ x
            shares = shares + share.sum(-1, keepdim=True)
        attracted.append(sums * reciprocal(shares))
    return torch.stack(attracted)


def _closeness(points: Tensor) -> Tensor:
    """Return the largest inner product of two of the points: (..., C, K) -> (...)."""
    same = torch.eye(points.shape[-2], dtype=torch.bool, device=points.device)
    return (points @ points.mT).masked_fill(same, -torch.inf).amax((-2, -1))
