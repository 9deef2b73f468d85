"""Ways to count sources from one or two cues and thresholds, for count.py to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from dpcl.clustering.count import CLUSTERS, EIGENVALUES, OF_CLOUD


def _inertia(found: Tensor) -> Tensor:
    """(M, CLUSTERS): mean squared distance to the nearest of 1, 2, … centroids."""
    return found[:, [EIGENVALUES + 1, *range(EIGENVALUES + 2, OF_CLOUD, 3)]].exp()


def by_eigenvalues(found: Tensor, threshold: float) -> Tensor:
    return (found[:, :EIGENVALUES].exp() > threshold).sum(1).clamp(min=1)


def by_gap(found: Tensor) -> Tensor:
    return (found[:, :4] - found[:, 1:5]).argmax(1) + 1


def by_rank(found: Tensor, *thresholds: float) -> Tensor:
    rank = found[:, EIGENVALUES].exp()
    return 1 + sum((rank > threshold).long() for threshold in thresholds)


def by_evidence(found: Tensor, size: float) -> Tensor:
    """Bayes' information criterion of k equal round Gaussians, K taken as 20.

    size: how many independent points the bins are worth; neighbours say the same.
    """
    width = 20
    sizes = torch.arange(1, CLUSTERS + 1)
    fit = size * width * _inertia(found).log() / 2
    return (fit + sizes * (width + 1) / 2 * np.log(size)).argmin(1) + 1


def by_silhouette(found: Tensor, threshold: float) -> Tensor:
    best, number = found[:, EIGENVALUES + 4 : OF_CLOUD : 3].max(1)
    return torch.where(best > threshold, number + 2, 1)


def by_merging(found: Tensor, threshold: float) -> Tensor:
    """The most clusters whose centroids all keep their distance."""
    apart = found[:, EIGENVALUES + 3 : OF_CLOUD : 3] < threshold  # (M, CLUSTERS - 1)
    return 1 + apart.long().cumprod(1).sum(1)


def by_inertia(found: Tensor, threshold: float) -> Tensor:
    """The first number of clusters that leaves little of the spread."""
    little = _inertia(found) < threshold
    return torch.where(little.any(1), little.long().argmax(1) + 1, CLUSTERS)


# From cues (M, CUES) and thresholds to numbers (M,); and the thresholds to choose from.
SHARES = tuple(np.linspace(0.02, 0.98, 49))
SIZES = tuple(np.geomspace(3, 3000, 40))
RANKS = tuple((a, b, c) for a, b, c in product(np.arange(1.5, 12, 0.5), repeat=3) if a < b < c)
Way = Callable[..., Tensor]
WAYS: dict[str, tuple[Way, Sequence[tuple[float, ...]]]] = {
    "eigenvalues over a threshold": (by_eigenvalues, [(share / 2,) for share in SHARES]),
    "largest gap of eigenvalues": (by_gap, [()]),
    "effective rank, three thresholds": (by_rank, RANKS),
    "evidence (BIC), size fitted": (by_evidence, [(size,) for size in SIZES]),
    "best silhouette, one under a threshold": (by_silhouette, [(share,) for share in SHARES]),
    "clusters merged by cosine": (by_merging, [(share,) for share in SHARES]),
    "inertia under a threshold": (by_inertia, [(share,) for share in SHARES]),
}
