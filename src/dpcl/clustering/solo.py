"""Centroids from stretches of time in which a single source is active.

Long recordings have many of these.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dpcl.clustering.kmeans import kmeans

KEPT = 0.5  # share of the stretches that is clustered: the ones with the smallest spread
FAINTEST = 0.1  # least weight of a stretch that counts, relative to the median stretch
# Least number of clustered stretches per cluster: in less time talkers hardly take turns.
# With fewer stretches, all points are clustered.
ENOUGH = 20
LOOSEST = 1.4  # largest inertia that is accepted, relative to k-means on all points
JUDGES = 4  # stride: every 4th point enters that comparison, which saves most of its time


def solo_centroids(
    points: Tensor,
    weights: Tensor,
    stretches: Tensor,
    num_clusters: int,
    whitening: Tensor | None = None,
) -> Tensor:
    """Compute centroids by k-means on the means of the stretches in which one source is active.

    The points of a single source lie close together. So the half of the stretches with the
    smallest spread is clustered, with equal weights. k-means on all points would be drawn towards
    points between the sources wherever sources overlap, and by the loudest talker.

    Falls back to k-means on all points in two cases: there are too few stretches, or the centroids
    clearly do not fit the points, for instance because one source is never alone.

    Args:
        points: (N, K).
        weights: (N,), at least zero.
        stretches: (N,), number of the short stretch of time of each point; any integers.
        num_clusters: number of centroids C.
        whitening: (K, K) for the means, see `whiten`; None for no whitening.

    Returns:
        (C, K).
    """
    numbers, index = torch.unique(stretches, return_inverse=True)
    weights = weights.to(points.dtype)
    mass = points.new_zeros(len(numbers)).index_add_(0, index, weights)
    sums = points.new_zeros(len(numbers), points.shape[1])
    sums.index_add_(0, index, weights.unsqueeze(-1) * points)
    squares = points.new_zeros(len(numbers)).index_add_(0, index, weights * points.square().sum(-1))
    counted = mass > 0
    if counted.any():
        counted &= mass >= FAINTEST * mass[counted].median()
    means = sums[counted] / mass[counted].unsqueeze(-1)
    spread = squares[counted] / mass[counted] - means.square().sum(-1)
    if len(means) * KEPT < ENOUGH * num_clusters:
        return kmeans(points, num_clusters, weights).centroids
    compact = spread <= spread.quantile(KEPT)
    solo = means[compact]
    whitened = solo if whitening is None else solo @ whitening
    clusters = kmeans(whitened, num_clusters, restarts=16).labels
    centroids = torch.stack([solo[clusters == number].mean(0) for number in range(num_clusters)])
    sample, sample_weights = points[::JUDGES], weights[::JUDGES]
    inertia = sample_weights @ torch.cdist(sample, centroids).amin(-1).square()
    if inertia <= LOOSEST * kmeans(sample, num_clusters, sample_weights).inertia:
        return centroids
    return kmeans(points, num_clusters, weights).centroids


def whiten(scatter: Tensor, floor: float = 0.3) -> Tensor:
    """Compute the inverse square root of the scatter of stretch means around their source's mean.

    The drift of a voice in a conversation, learned on other talkers, is the same for all talkers.
    Differences along those directions say little about the talker.

    Args:
        scatter: (K, K).
        floor: variance added to every direction, as a share of the mean variance. It allows for
            means of few points.

    Returns:
        (K, K).

    Source: within-class covariance normalisation, Hatch, Kajarekar and Stolcke 2006.
    """
    values, vectors = torch.linalg.eigh(scatter)
    root: Tensor = (vectors * (values + floor * values.mean()).rsqrt()) @ vectors.mT
    return root
