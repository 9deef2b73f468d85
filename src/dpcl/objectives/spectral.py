"""Objectives on subspaces of embeddings: spectral, whitened k-means, deep LDA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dpcl.objectives.inputs import labelled, over_bins, reciprocal, weighted

# The largest eigenvalue of a normalised affinity is 1; all of these are relative to that.
RIDGE = 1e-5  # added to the eigenvalues, so that a collapsed direction has an inverse
GAP = 1e-3  # the gradient takes λ_C - λ_{C+1} to be at least this
ROW_SUM = 1e-3  # the least row sum of an affinity in [0, 1], of its mean possible value
SIGNED_ROW_SUM = 1e-2  # the same for one in [-1, 1], where sums of zero and less are common


def spectral_loss(embeddings: Tensor, assignments: Tensor, weights: Tensor | None = None) -> Tensor:
    """How far the subspace that spectral clustering finds is from the ideal one, per item.

    embeddings V: (B, N, K), rows of unit length; float32, float64 or bfloat16
    assignments Y: (B, N, C), one-hot rows
    weights w: (B, N), at least zero; None counts every bin once
    returns (B,): |P_V - P_0|² in [0, 2C'], 0 where clustering is bound to be right, C' the number
    of sources that have weight. P_V is `spectral_projector` at C', P_0 that on the indicators
    D^½ W^½ Y of the sources. 0 for an item without weight.

    The gradient flows to the embeddings alone, and cannot be differentiated again.
    Source: Bach and Jordan 2006, the cost function J1 (here twice that), whose similarities were
    a parametric function of features and are here those of learned embeddings. Raises ValueError
    for shapes that do not belong together.
    """
    v, y, w, sources = labelled(embeddings, assignments, weights)
    present = (sources > 0).sum(-1)  # (B,)
    points, inner, degrees = _normalised(v, w, present)
    ideal = degrees.sqrt() * w.sqrt() * y  # (B, N, C), columns orthogonal
    common = over_bins(points, ideal)  # (B, K + 1, C)
    explained = (common * (inner @ common)).sum(1) * reciprocal(ideal.square().sum(1))  # (B, C)
    return 2 * (present - explained.sum(-1)).clamp_min(0)


def spectral_projector(
    embeddings: Tensor, num_sources: int | Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The projector on the top eigenvectors of the normalised affinity, in two factors.

    embeddings V: (B, N, K), rows of unit length; num_sources: how many eigenvectors, one number or
    (B,); weights w: (B, N), at least zero; None counts every bin once
    returns X (B, N, K + 1) and T (B, K + 1, K + 1): the projector is X T Xᵀ, of N x N, which
    nobody needs to form. X has the rows (d_i / w_i)^-½ [v_i, 1] / √2 with w summing to one.

    The affinity is (1 + v_i.v_j) / 2, in [0, 1]: that of signed v_i.v_j has row sums d_i about
    zero, through which no graph can be normalised. For embeddings that are orthogonal between
    sources it spans the same subspace. The gradient depends on the gap λ_C - λ_{C+1} alone, not on
    gaps among the first C or among the others; it is exact for gaps from 1e-3 on and bounded below.
    Source: Ng, Jordan and Weiss 2002, section 2 (normalised affinity); Bach and Jordan 2006 (the
    subspace as what to learn from). Raises ValueError for shapes that do not fit.
    """
    v, w = weighted(embeddings, weights)
    points, inner, _ = _normalised(v, w, num_sources)
    return points, inner


def graph_laplacian_loss(
    embeddings: Tensor, assignments: Tensor, weights: Tensor | None = None
) -> Tensor:
    """|D_V^-½ VVᵀ D_V^-½ - D_Y^-½ YYᵀ D_Y^-½|²: both affinities normalised by their row sums.

    embeddings V: (B, N, K), rows of unit length; assignments Y: (B, N, C), one-hot rows;
    weights w: (B, N), at least zero; None counts every bin once
    returns (B,), at least 0, which is perfect; 0 for an item without weight.

    V and Y have W^½ before them. The row sums d_i = v_i.Σ_j w_j v_j of a signed affinity may be
    zero or less: they are clipped at 1 % of their largest possible value.
    Source: the graph Laplacian distance of Wang, Le Roux, Hershey 2018, as public code states it.
    Raises ValueError for shapes that do not belong together.
    """
    v, y, w, sources = labelled(embeddings, assignments, weights)
    degrees = (v @ over_bins(v, w)).clamp_min(SIGNED_ROW_SUM)  # (B, N, 1)
    points = w.sqrt() * degrees.rsqrt() * v  # (B, N, K)
    common = over_bins(points, w.sqrt() * y)  # (B, K, C)
    common = common.square().sum(1) * reciprocal(sources)  # (B, C)
    own = over_bins(points, points).square().sum((1, 2))
    return (own + (sources > 0).sum(-1) - 2 * common.sum(-1)).clamp_min(0)


def top_inverse(gram: Tensor, rank: int | Tensor) -> Tensor:
    """Q_C Λ_C^-1 Q_Cᵀ of the C = rank largest eigenvalues; with rank K the inverse.

    gram: (B, K, K), symmetric, eigenvalues above zero; rank: one number or (B,) -> (B, K, K).
    The gradient divides by gaps between the C largest and the other eigenvalues only, and where
    a gap is below 1e-3 of the largest eigenvalue, by that.
    """
    result: Tensor = _TopInverse.apply(gram, rank)  # type: ignore[no-untyped-call]
    return result


def _normalised(v: Tensor, w: Tensor, rank: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """X (B, N, K + 1), T (B, K + 1, K + 1) and the row sums (B, N, 1) of the shifted affinity."""
    features = torch.cat([v, torch.ones_like(w)], -1) * 0.5**0.5  # (B, N, K + 1)
    degrees = (features @ over_bins(features, w)).clamp_min(ROW_SUM)  # (B, N, 1)
    points = w.sqrt() * degrees.rsqrt() * features
    gram = over_bins(points, points)  # (B, K + 1, K + 1), its largest eigenvalue is 1
    ridge = RIDGE * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return points, top_inverse(gram + ridge, rank), degrees


class _TopInverse(torch.autograd.Function):
    """A function of the eigenvalues has the gradient Q (F * Qᵀ G Q) Qᵀ, F its divided differences.

    For f(λ) = 1 / λ among the first C and 0 else: -f_i f_j for two of the first (no gap in it),
    f_i / (λ_i - λ_j) for one of the first and one of the others, 0 for two of the others.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor, rank: int | Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(gram)  # (B, K) upwards, (B, K, K)
        width = gram.shape[-1]
        rank = torch.as_tensor(rank, device=gram.device).reshape(-1, 1)  # (B, 1) or (1, 1)
        top = torch.arange(width, device=gram.device) >= width - rank  # (B, K)
        least = torch.finfo(gram.dtype).eps * values[:, -1:]
        inverse = torch.where(top, 1 / torch.maximum(values, least), 0)  # (B, K)
        ctx.save_for_backward(values, vectors, inverse)
        result: Tensor = (vectors * inverse.unsqueeze(-2)) @ vectors.mT
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        values, vectors, inverse = ctx.saved_tensors
        gaps = values.unsqueeze(-1) - values.unsqueeze(-2)  # (B, K, K)
        gaps = torch.maximum(gaps, GAP * values[:, -1:, None])
        across = inverse.unsqueeze(-1) * (inverse == 0).unsqueeze(-2) / gaps
        differences = across + across.mT - inverse.unsqueeze(-1) * inverse.unsqueeze(-2)
        grad = vectors.mT @ (grads[0] + grads[0].mT) @ vectors / 2
        return vectors @ (differences * grad) @ vectors.mT, None


# Added to VᵀV, of its mean eigenvalue: embeddings that use fewer than K dimensions have an inverse.
RELATIVE_RIDGE = 1e-4
COLLAPSED = 1e-4  # the least total scatter, of the embeddings' mean square


def whitened_kmeans_loss(
    embeddings: Tensor, assignments: Tensor, weights: Tensor | None = None
) -> Tensor:
    """k-means error of the ideal assignments after whitening the embeddings, per item, from 0.

    embeddings V: (B, N, K); float32, float64 or bfloat16
    assignments Y: (B, N, C), one-hot rows
    weights w: (B, N), at least zero; None counts every bin once
    returns (B,): C' - tr((VᵀV)^-1 VᵀY (YᵀY)^-1 YᵀV) in [0, C'], with W^½ before V and Y and C' the
    number of sources that have weight; C' = 0 and the loss 0 for an item without.

    The published value is K - tr(...), in [K - C', K]: 18 of 20 is perfect for two sources. Its
    constant K - C' is left out here. VᵀV has 1e-4 of its mean eigenvalue added to it, which is
    what a perfect embedding is off zero by. The scale of V does not matter, nor does any
    invertible map of it (up to that ridge). The gradient flows to the embeddings alone, and cannot
    be differentiated again. O(NK) memory, O(NK² + NKC + K³) time.
    Source: Wang, Le Roux, Hershey 2018, eq. 6. Raises ValueError for shapes that do not fit.
    """
    _, inverse, common, present = _subspaces(embeddings, assignments, weights)
    return (present - _trace(inverse, common)).clamp_min(0)


def projector_loss(
    embeddings: Tensor, assignments: Tensor, weights: Tensor | None = None
) -> Tensor:
    """|P_V - P_Y|², P the orthogonal projectors on the columns of W^½ V and W^½ Y, per item.

    Arguments as for whitened_kmeans_loss; returns (B,) in [0, K + C'], 0 where the embeddings span
    the same space as the assignments, whatever their basis; 0 for an item without weight.

    P_V has the same ridge as there. With embeddings of rank R >= C' the least value is R - C': the
    loss is then R - C' plus twice the whitened k-means loss and teaches the same. It is for
    comparing subspaces; one that picks C' dimensions out of K is `spectral_loss`.
    """
    gram, inverse, common, present = _subspaces(embeddings, assignments, weights)
    own = inverse @ gram  # (B, K, K), its square has the trace of P_V²
    own_trace = (own * own.mT).sum((1, 2))
    return (own_trace + present - 2 * _trace(inverse, common)).clamp_min(0)


def deep_lda_loss(embeddings: Tensor, assignments: Tensor, weights: Tensor | None = None) -> Tensor:
    """Scatter of the embeddings within the sources, of their total scatter, per item, in [0, 1].

    Arguments as for whitened_kmeans_loss; returns (B,): |V - Y (YᵀY)^-1 YᵀV|² / |V - v̄|² with
    W^½ before V and Y and v̄ the weighted mean; 0 where each source is a point, 1 where all sources
    have the same mean, which one source alone always has; 0 for an item without weight.

    A total scatter under 1e-4 of the embeddings' mean square counts as that much.
    Source: the deep linear discriminant analysis of Wang, Le Roux, Hershey 2018, as public code
    states it. Raises ValueError for shapes that do not belong together.
    """
    v, y, w, sources = labelled(embeddings, assignments, weights)
    square = (w * v.square()).sum((1, 2))  # (B,)
    mean = over_bins(w, v)  # (B, 1, K)
    centroids = over_bins(w * y, v) * reciprocal(sources).unsqueeze(-1)  # (B, C, K)
    within = (w * (v - y @ centroids).square()).sum((1, 2))
    total = (w * (v - mean).square()).sum((1, 2))
    return within / torch.maximum(total, COLLAPSED * square).clamp_min(1e-30)


def _subspaces(
    embeddings: Tensor, assignments: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """VᵀV, its inverse, VᵀY (YᵀY)^-½ and the number of sources with weight."""
    v, y, w, sources = labelled(embeddings, assignments, weights)
    wv = w * v
    gram = over_bins(wv, v)  # (B, K, K)
    ridge = RELATIVE_RIDGE * gram.diagonal(dim1=1, dim2=2).mean(-1)  # (B,)
    # An item without weight has the Gram matrix 0, and any inverse will do.
    ridge = torch.where(ridge > 0, ridge, 1)[:, None, None]
    inverse = top_inverse(gram + ridge * torch.eye(v.shape[-1]).to(gram), v.shape[-1])
    common = over_bins(wv, y) * reciprocal(sources.sqrt()).unsqueeze(1)  # (B, K, C)
    return gram, inverse, common, (sources > 0).sum(-1)


def _trace(inverse: Tensor, common: Tensor) -> Tensor:
    """tr(P_V P_Y): (B, K, K), (B, K, C) -> (B,)."""
    return (common * (inverse @ common)).sum((1, 2))
