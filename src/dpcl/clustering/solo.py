"""Centroids from stretches in which one source is alone: what long recordings have many of."""

from __future__ import annotations

import torch
from torch import Tensor

from dpcl.clustering.kmeans import kmeans

KEPT = 0.5  # of the stretches, those whose points lie closest together
FAINTEST = 0.1  # weight of a stretch, of the median, that it takes to count
# Stretches for each cluster: in less time talkers hardly take turns, and all points decide.
ENOUGH = 20
LOOSEST = 1.4  # inertia, of that of k-means on all points, beyond which these decide
JUDGES = 4  # one point of so many judges of that, which saves most of the time of this


def solo_centroids(
    points: Tensor,
    weights: Tensor,
    stretches: Tensor,
    num_clusters: int,
    whitening: Tensor | None = None,
) -> Tensor:
    """Centroids (C, K) by k-means on the means of the stretches in which one source is alone.

    points: (N, K); weights: (N,), at least zero; stretches: (N,), which short stretch of time each
    is from, any whole numbers; whitening: (K, K), see `whiten`, for the means. Of one source alone
    the points lie close together: the half of the stretches that do so most is clustered, each
    counting once. k-means on all points is drawn towards what lies between the sources wherever
    they overlap, and by the loudest talker.
    Where the points say clearly that this is wrong, as with a source that is never alone, and with
    too few stretches, it is k-means on all points nevertheless.
    """
    numbers, index = torch.unique(stretches, return_inverse=True)
    weights = weights.to(points.dtype)
    mass = points.new_zeros(len(numbers)).index_add_(0, index, weights)
    sums = points.new_zeros(len(numbers), points.shape[1])
    sums.index_add_(0, index, weights.unsqueeze(-1) * points)
    squares = points.new_zeros(len(numbers)).index_add_(0, index, weights * points.square().sum(-1))
    heard = mass > 0
    if heard.any():
        heard &= mass >= FAINTEST * mass[heard].median()
    means = sums[heard] / mass[heard].unsqueeze(-1)
    spread = squares[heard] / mass[heard] - means.square().sum(-1)
    if len(means) * KEPT < ENOUGH * num_clusters:
        return kmeans(points, num_clusters, weights).centroids
    close = spread <= spread.quantile(KEPT)
    alone = means[close]
    told = alone if whitening is None else alone @ whitening
    clusters = kmeans(told, num_clusters, restarts=16).labels
    centroids = torch.stack([alone[clusters == number].mean(0) for number in range(num_clusters)])
    some, their_weights = points[::JUDGES], weights[::JUDGES]
    inertia = their_weights @ torch.cdist(some, centroids).amin(-1).square()
    if inertia <= LOOSEST * kmeans(some, num_clusters, their_weights).inertia:
        return centroids
    return kmeans(points, num_clusters, weights).centroids


def whiten(scatter: Tensor, floor: float = 0.3) -> Tensor:
    """scatter (K, K) of the means of stretches around their source's -> its inverse root (K, K).

    How a voice drifts in a conversation, learned on others, is the same for all talkers: what
    differs along those directions says little about who it is. floor: variance that is added, as
    a share of the mean one, for means that are of few points.
    Source: within-class covariance normalisation, Hatch, Kajarekar and Stolcke 2006.
    """
    values, vectors = torch.linalg.eigh(scatter)
    root: Tensor = (vectors * (values + floor * values.mean()).rsqrt()) @ vectors.mT
    return root
