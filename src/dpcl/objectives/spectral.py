"""Objectives on subspaces of embeddings: spectral, whitened k-means, deep LDA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dpcl.objectives.affinity import labelled, over_bins, reciprocal, weighted

# The constants below are relative to 1, the largest eigenvalue of a normalised affinity.
RIDGE = 1e-5  # ridge added to the eigenvalues, so that a collapsed direction has an inverse
GAP = 1e-3  # lower limit of λ_C - λ_{C+1} in the gradient
ROW_SUM = 1e-3  # lower limit of the row sums, in [0, 1], of an affinity in [0, 1]
SIGNED_ROW_SUM = 1e-2  # lower limit for an affinity in [-1, 1], where sums <= 0 are common


def spectral_loss(embeddings: Tensor, assignments: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute the distance of the subspace found by spectral clustering to the ideal one, per item.

    The gradient flows to the embeddings alone, and cannot be differentiated again.

    Args:
        embeddings: V, (B, N, K), rows of unit length; float32, float64 or bfloat16.
        assignments: Y, (B, N, C), one-hot rows.
        weights: w, (B, N), at least zero; None weights every bin equally.

    Returns:
        (B,) in [0, 2C']: |P_V - P_0|², with C' the number of sources that have weight. It is 0 if
        clustering is certain to be right, and 0 for an item without weight. P_V is
        `spectral_projector` at C', P_0 the projector on the indicators D^½ W^½ Y of the sources.

    Raises:
        ValueError: the shapes do not agree.

    Source: Bach and Jordan 2006, cost function J1 (here twice that value). Their similarities are a
    parametric function of features; here they come from learned embeddings.
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
    """Compute the projector on the top eigenvectors of the normalised affinity, in two factors.

    The affinity is (1 + v_i.v_j) / 2, in [0, 1]. The signed affinity v_i.v_j has row sums d_i near
    zero, and no graph can be normalised by these. For embeddings that are orthogonal between
    sources both span the same subspace.

    The gradient depends on the gap λ_C - λ_{C+1} alone, not on gaps among the first C or among the
    others. It is exact for gaps of at least 1e-3 and bounded for smaller ones.

    Args:
        embeddings: V, (B, N, K), rows of unit length.
        num_sources: number of eigenvectors, one integer or (B,).
        weights: w, (B, N), at least zero; None weights every bin equally.

    Returns:
        X (B, N, K + 1) and T (B, K + 1, K + 1). The projector, N x N, is X T Xᵀ; it need not be
        formed. X has the rows (d_i / w_i)^-½ [v_i, 1] / √2 with w summing to one.

    Raises:
        ValueError: the shapes do not agree.

    Source: Ng, Jordan and Weiss 2002, section 2 (normalised affinity); Bach and Jordan 2006 (the
    subspace as the target of learning).
    """
    v, w = weighted(embeddings, weights)
    points, inner, _ = _normalised(v, w, num_sources)
    return points, inner


def graph_laplacian_loss(
    embeddings: Tensor, assignments: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Compute the distance of learned and ideal affinity, normalised by their row sums, per item.

    The row sums d_i = v_i.Σ_j w_j v_j of a signed affinity may be zero or negative. They are
    clipped at 1 % of their largest possible value.

    Args:
        embeddings: V, (B, N, K), rows of unit length.
        assignments: Y, (B, N, C), one-hot rows.
        weights: w, (B, N), at least zero; None weights every bin equally.

    Returns:
        (B,), at least 0 (perfect): |D_V^-½ VVᵀ D_V^-½ - D_Y^-½ YYᵀ D_Y^-½|², with V and Y
        multiplied by W^½ from the left; 0 for an item without weight.

    Raises:
        ValueError: the shapes do not agree.

    Source: the graph Laplacian distance of Wang, Le Roux, Hershey 2018, as in public code.
    """
    v, y, w, sources = labelled(embeddings, assignments, weights)
    degrees = (v @ over_bins(v, w)).clamp_min(SIGNED_ROW_SUM)  # (B, N, 1)
    points = w.sqrt() * degrees.rsqrt() * v  # (B, N, K)
    common = over_bins(points, w.sqrt() * y)  # (B, K, C)
    common = common.square().sum(1) * reciprocal(sources)  # (B, C)
    own = over_bins(points, points).square().sum((1, 2))
    return (own + (sources > 0).sum(-1) - 2 * common.sum(-1)).clamp_min(0)


def top_inverse(gram: Tensor, rank: int | Tensor) -> Tensor:
    """Compute Q_C Λ_C^-1 Q_Cᵀ of the C = `rank` largest eigenvalues; with rank K the inverse.

    The gradient divides only by gaps between the C largest and the other eigenvalues. Gaps below
    1e-3 of the largest eigenvalue count as 1e-3 of it.

    Args:
        gram: (B, K, K), symmetric, eigenvalues above zero.
        rank: one integer or (B,).

    Returns:
        (B, K, K).
    """
    result: Tensor = _TopInverse.apply(gram, rank)  # type: ignore[no-untyped-call]
    return result


def _normalised(v: Tensor, w: Tensor, rank: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return X (B, N, K+1), T (B, K+1, K+1) and row sums (B, N, 1) of the shifted affinity."""
    features = torch.cat([v, torch.ones_like(w)], -1) * 0.5**0.5  # (B, N, K + 1)
    degrees = (features @ over_bins(features, w)).clamp_min(ROW_SUM)  # (B, N, 1)
    points = w.sqrt() * degrees.rsqrt() * features
    gram = over_bins(points, points)  # (B, K + 1, K + 1), its largest eigenvalue is 1
    ridge = RIDGE * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return points, top_inverse(gram + ridge, rank), degrees


class _TopInverse(torch.autograd.Function):
    """Function of the eigenvalues, with the gradient Q (F * Qᵀ G Q) Qᵀ; F are divided differences.

    f(λ) is 1 / λ for the first C eigenvalues and 0 for the others. F_ij is -f_i f_j for two of the
    first: it contains no gap. F_ij is f_i / (λ_i - λ_j) for one of the first and one of the
    others, and 0 for two of the others.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor, rank: int | Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(gram)  # (B, K) ascending, (B, K, K)
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


# Ridge added to VᵀV, relative to its mean eigenvalue: embeddings that span fewer than K dimensions
# then have an inverse.
RELATIVE_RIDGE = 1e-4
COLLAPSED = 1e-4  # lower limit of the total scatter, relative to the embeddings' mean square


def whitened_kmeans_loss(
    embeddings: Tensor, assignments: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Compute the k-means error of the ideal assignments on whitened embeddings, per item.

    The published value is K - tr(...), in [K - C', K]: 18 of 20 is perfect for two sources. Its
    constant K - C' is omitted here. A ridge of 1e-4 of its mean eigenvalue is added to VᵀV, so a
    perfect embedding does not reach exactly zero. Up to this ridge, neither the scale of V nor any
    invertible map of V matters. The gradient flows to the embeddings alone, and cannot be
    differentiated again. O(NK) memory, O(NK² + NKC + K³) time.

    Args:
        embeddings: V, (B, N, K); float32, float64 or bfloat16.
        assignments: Y, (B, N, C), one-hot rows.
        weights: w, (B, N), at least zero; None weights every bin equally.

    Returns:
        (B,) in [0, C']: C' - tr((VᵀV)^-1 VᵀY (YᵀY)^-1 YᵀV), with V and Y multiplied by W^½ from
        the left and C' the number of sources that have weight. An item without weight has C' = 0
        and a loss of 0.

    Raises:
        ValueError: the shapes do not agree.

    Source: Wang, Le Roux, Hershey 2018, eq. 6.
    """
    _, inverse, common, present = _subspaces(embeddings, assignments, weights)
    return (present - _trace(inverse, common)).clamp_min(0)


def projector_loss(
    embeddings: Tensor, assignments: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Compute the squared distance |P_V - P_Y|² of the subspaces of V and Y, per item.

    P_V and P_Y are the orthogonal projectors on the columns of W^½ V and W^½ Y. The loss compares
    subspaces. P_V has the ridge of `whitened_kmeans_loss`. With embeddings of rank R >= C' the
    least value is R - C'. The loss is then R - C' plus twice the whitened k-means loss, and teaches
    the same. `spectral_loss` is the variant that picks C' dimensions out of K.

    Args:
        embeddings: as for `whitened_kmeans_loss`.
        assignments: as for `whitened_kmeans_loss`.
        weights: as for `whitened_kmeans_loss`.

    Returns:
        (B,) in [0, K + C']: 0 if embeddings and assignments span the same space, whatever the
        basis; 0 for an item without weight.

    Raises:
        ValueError: the shapes do not agree.
    """
    gram, inverse, common, present = _subspaces(embeddings, assignments, weights)
    own = inverse @ gram  # (B, K, K), its square has the trace of P_V²
    own_trace = (own * own.mT).sum((1, 2))
    return (own_trace + present - 2 * _trace(inverse, common)).clamp_min(0)


def deep_lda_loss(embeddings: Tensor, assignments: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute the scatter of the embeddings within the sources relative to the total, per item.

    A total scatter below 1e-4 of the embeddings' mean square counts as that much.

    Args:
        embeddings: as for `whitened_kmeans_loss`.
        assignments: as for `whitened_kmeans_loss`.
        weights: as for `whitened_kmeans_loss`.

    Returns:
        (B,) in [0, 1]: |V - Y (YᵀY)^-1 YᵀV|² / |V - v̄|², with V and Y multiplied by W^½ from the
        left and v̄ the weighted mean. It is 0 if each source is a point, and 1 if all sources have
        the same mean, as with a single source. It is 0 for an item without weight.

    Raises:
        ValueError: the shapes do not agree.

    Source: the deep linear discriminant analysis of Wang, Le Roux, Hershey 2018, as in public code.
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
    """Return VᵀV, its inverse, VᵀY (YᵀY)^-½ and the number of sources with weight."""
    v, y, w, sources = labelled(embeddings, assignments, weights)
    wv = w * v
    gram = over_bins(wv, v)  # (B, K, K)
    ridge = RELATIVE_RIDGE * gram.diagonal(dim1=1, dim2=2).mean(-1)  # (B,)
    # Ridge of one for an item without weight: its Gram matrix is 0, and any inverse will do.
    ridge = torch.where(ridge > 0, ridge, 1)[:, None, None]
    inverse = top_inverse(gram + ridge * torch.eye(v.shape[-1]).to(gram), v.shape[-1])
    common = over_bins(wv, y) * reciprocal(sources.sqrt()).unsqueeze(1)  # (B, K, C)
    return gram, inverse, common, (sources > 0).sum(-1)


def _trace(inverse: Tensor, common: Tensor) -> Tensor:
    """Return tr(P_V P_Y): (B, K, K), (B, K, C) -> (B,)."""
    return (common * (inverse @ common)).sum((1, 2))
