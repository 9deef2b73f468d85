"""Principal components of embeddings, for pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Components:
    """Points projected on their principal components, widest spread first."""

    scores: Tensor  # (N, count), weighted mean zero
    directions: Tensor  # (count, K), orthonormal; zero rows beyond row K
    variance: Tensor  # (count,), share of the total variance, in [0, 1]


def principal_components(
    points: Tensor, weights: Tensor | None = None, count: int = 3
) -> Components:
    """Compute the first `count` principal components of weighted points.

    Computed in float64 from the K x K covariance. The sign of a component is free: here its
    largest coordinate is positive, so that equal points give equal pictures.

    Args:
        points: (N, K).
        weights: (N,), at least zero; None weights every point equally, and so does all zeros.
        count: number of components.

    Returns:
        Components: scores, directions and shares of the variance.

    Raises:
        ValueError: the shapes do not agree, or there are no points.

    Example:
        >>> import torch
        >>> points = torch.tensor([[-2.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
        >>> principal_components(points, count=2).variance
        tensor([1., 0.])

    Source: Jolliffe 2002, "Principal Component Analysis", chapter 1 and section 14.2.1 (weights).
    """
    if points.ndim != 2 or len(points) == 0:
        raise ValueError(f"points must be (N, K) with N > 0; got {tuple(points.shape)}")
    if weights is not None and weights.shape != points.shape[:1]:
        raise ValueError(f"weights must be {tuple(points.shape[:1])}; got {tuple(weights.shape)}")
    x = points.double()
    w = torch.ones_like(x[:, 0]) if weights is None or not weights.any() else weights.double()
    w = w / w.sum()
    x = x - w @ x
    variances, vectors = torch.linalg.eigh(
        (x * w[:, None]).T @ x
    )  # eigenvalues ascending; vectors in columns
    variances = variances.clamp_min(0).flip(0)  # (K,)
    directions = vectors.T.flip(0)[:count]  # (<= count, K)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * largest.sign()
    missing = count - len(directions)
    directions = torch.cat([directions, directions.new_zeros(missing, x.shape[1])])
    part = variances[:count] / variances.sum().clamp_min(torch.finfo(x.dtype).tiny)
    part = torch.cat([part, part.new_zeros(missing)])
    dtype = points.dtype
    return Components((x @ directions.T).to(dtype), directions.to(dtype), part.to(dtype))
