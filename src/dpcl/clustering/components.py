"""Principal components: the few directions in which embeddings differ most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Components:
    """Points seen along their principal components, the first along the widest spread."""

    scores: Tensor  # (N, count), of weighted mean zero
    directions: Tensor  # (count, K), orthonormal; zero beyond the K-th
    variance: Tensor  # (count,) each one's part of the whole variance, in [0, 1]


def principal_components(
    points: Tensor, weights: Tensor | None = None, count: int = 3
) -> Components:
    """The first `count` principal components of points (N, K), each point counted by its weight.

    weights: (N,), at least zero, None for one each; where all weigh zero, all count the same. The
    sign of a component, which is free, makes its largest coordinate positive, so that equal points
    give equal pictures. Computed in float64 from the K x K covariance.
    Raises ValueError for shapes that do not belong together and no points.
    Source: Jolliffe 2002, "Principal Component Analysis", chapter 1 and section 14.2.1 (weights).
    """
    if points.ndim != 2 or len(points) == 0:
        raise ValueError(f"points must be (N, K) with N > 0; got {tuple(points.shape)}")
    if weights is not None and weights.shape != points.shape[:1]:
        raise ValueError(f"weights {tuple(weights.shape)} do not fit {tuple(points.shape)}")
    x = points.double()
    w = torch.ones_like(x[:, 0]) if weights is None or not weights.any() else weights.double()
    w = w / w.sum()
    x = x - w @ x
    variances, vectors = torch.linalg.eigh((x * w[:, None]).T @ x)  # ascending; in columns
    variances = variances.clamp_min(0).flip(0)  # (K,)
    directions = vectors.T.flip(0)[:count]  # (<= count, K)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * largest.sign()
    missing = count - len(directions)
    directions = torch.cat([directions, directions.new_zeros(missing, x.shape[1])])
    part = variances[:count] / variances.sum().clamp_min(torch.finfo(x.dtype).tiny)
    part = torch.cat([part, part.new_zeros(missing)])
    kept = points.dtype
    return Components((x @ directions.T).to(kept), directions.to(kept), part.to(kept))
