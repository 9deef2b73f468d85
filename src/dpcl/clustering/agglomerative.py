"""Agglomerative clustering of voice vectors: how many talkers, and which vectors are theirs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

MOST_POINTS = 4000  # vectors in the tree; of more, evenly spaced ones, and the rest joins clusters
COMMON = 0.7  # share of the mean vector that is removed first: it is the room, not a talker
ONE = 0.8  # cosine of the means of two clusters from which they are one talker
KNOWN = 0.7  # cosine of a talker and a known voice; 1 % of other people on `valid` are above it
KEPT = 0.82  # separation that more clusters keep, relative to two, if they are talkers


def cluster_directions(
    vectors: Tensor, weights: Tensor, number: int | None, least: float, most: int
) -> Tensor:
    """Cluster vectors of unit length by average linkage of their cosines.

    Small clusters are outliers, such as laughter or two talkers at once: they are no talkers. The
    number is the largest whose clusters are nearly as separate as two clusters are.

    Args:
        vectors: (N, D).
        weights: (N,), amount of clean speech in each.
        number: number of clusters; None to estimate it.
        least: weight of a cluster that counts.
        most: upper limit of the estimate.

    Returns:
        Directions (C, D) of unit length, the heaviest cluster first. C is `number` if it is given
        and there are that many vectors.

    Source: agglomerative clustering of voice vectors, Sell and Garcia-Romero 2014.
    """
    used = weights > 0
    vectors, weights = vectors[used], weights[used]
    if not len(vectors):
        return torch.zeros(1, vectors.shape[1])
    mean = (weights @ vectors) / weights.sum()
    centred = functional.normalize(vectors - COMMON * mean, dim=-1)
    tree = _Tree(centred, weights, least)
    if number is not None:
        return _means(vectors, weights, _owners(centred, weights, tree.seeds(number)))
    found, first = _means(vectors, weights, torch.ones(1, len(vectors))), 0.0
    for clusters in range(2, most + 1):
        seeds = tree.seeds(clusters)
        if len(seeds) < clusters:
            break
        owners = _owners(centred, weights, seeds)
        directions = _means(vectors, weights, owners)
        separation = _separation(centred, weights, _means(centred, weights, owners))
        if clusters == 2:
            if float(directions[0] @ directions[1]) > ONE:
                break
            first = separation
        if separation >= KEPT * first:
            found = directions
    return found


class _Tree:
    """Average linkage of vectors (N, D) of unit length."""

    def __init__(self, vectors: Tensor, weights: Tensor, least: float) -> None:
        from scipy.cluster.hierarchy import linkage  # slow to import

        step = -(-len(vectors) // MOST_POINTS)
        self.vectors, self.weights = vectors[::step], weights[::step] * step
        self.least = least
        distances = (1 - self.vectors @ self.vectors.T).clamp_min(0).numpy().astype(np.float64)
        upper = np.triu_indices(len(self.vectors), 1)
        self.tree = linkage(distances[upper], "average") if len(self.vectors) > 1 else None

    def seeds(self, number: int) -> Tensor:
        """Return the directions (C, D) of the first cut that has `number` heavy clusters.

        Without such a cut, of the `number` heaviest clusters of the first cut.
        """
        from scipy.cluster.hierarchy import fcluster

        if self.tree is None:
            return self.vectors
        chosen: Tensor | None = None
        first, last = min(number, len(self.vectors)), min(len(self.vectors), 8 * number + 20)
        for clusters in range(first, last + 1):
            labels = torch.from_numpy(fcluster(self.tree, clusters, "maxclust").astype(np.int64))
            owners = functional.one_hot(labels - 1).T.to(self.weights.dtype)  # (clusters, N)
            mass = owners @ self.weights
            heaviest = mass.argsort(descending=True)[:number]
            if chosen is None or float(mass[heaviest[-1]]) >= self.least:
                chosen = _means(self.vectors, self.weights, owners[heaviest])
            if len(heaviest) == number and float(mass[heaviest[-1]]) >= self.least:
                break
        assert chosen is not None
        return chosen


def _owners(vectors: Tensor, weights: Tensor, directions: Tensor) -> Tensor:
    """Return the nearest direction of each vector, 0 or 1 (C, N), the heaviest first."""
    owners = functional.one_hot((vectors @ directions.T).argmax(1), len(directions))
    owned = owners.T.to(weights.dtype)
    order = (owned @ weights).argsort(descending=True)
    return owned[order]


def _means(vectors: Tensor, weights: Tensor, owners: Tensor) -> Tensor:
    """Return the directions (C, D) of weighted sums; zeros where there is nothing to sum."""
    return functional.normalize((owners * weights) @ vectors, dim=-1)


def _separation(vectors: Tensor, weights: Tensor, directions: Tensor) -> float:
    """Return the mean difference of the two largest cosines of a vector and the directions."""
    nearest = (vectors @ directions.T).topk(2, dim=1).values
    return float((nearest[:, 0] - nearest[:, 1]) @ weights / weights.sum())


def assign_names(directions: Tensor, voices: Mapping[str, Tensor]) -> dict[int, str]:
    """Find known voices among talkers: one talker for a voice, if they are similar enough.

    Args:
        directions: voice vectors (C, D) of talkers, of unit length or zeros.
        voices: voice vector (D,) by name, of unit length.

    Returns:
        Name by number of the talker.

    Example:
        >>> assign_names(torch.eye(3)[:2], {"ann": torch.eye(3)[1], "bob": torch.eye(3)[2]})
        {1: 'ann'}

    Source: assignment of Kuhn 1955.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    names = list(voices)
    cosines = directions @ torch.stack([voices[name] for name in names]).T  # (C, voices)
    gain = (cosines - KNOWN).clamp_min(0)  # a voice below the limit takes no talker from another
    pairs = zip(*linear_sum_assignment(gain.numpy(), maximize=True), strict=True)
    return {int(talker): names[name] for talker, name in pairs if gain[talker, name] > 0}


def smooth_posteriors(scores: Tensor, stay: float, shares: Tensor | None = None) -> Tensor:
    """Return the posteriors (C, n) of the states of a Markov chain by forward-backward.

    Args:
        scores: log-likelihoods (C, n).
        stay: probability that a state is kept, and not drawn anew from the shares.
        shares: probability of each state (C,); None for equal ones.

    Returns:
        Posteriors (C, n), which sum to one.

    Source: Rabiner 1989, section III.
    """
    states, steps = scores.shape
    prior = np.full(states, 1 / states)
    if shares is not None:
        prior = (shares / shares.sum()).double().numpy()
    values = (scores - scores.amax(0)).double().exp().numpy().T.copy()  # (n, C)
    before, after = np.empty((steps, states)), np.empty((steps, states))
    before[0], after[-1] = prior, 1.0
    for step in range(1, steps):
        now = before[step - 1] * values[step - 1]
        before[step] = stay * now / max(now.sum(), 1e-300) + (1 - stay) * prior
    for step in range(steps - 1, 0, -1):
        now = after[step] * values[step]
        now = stay * now + (1 - stay) * (prior @ now)
        after[step - 1] = now / max(now.sum(), 1e-300)
    joint = before * values * after
    joint /= np.maximum(joint.sum(1, keepdims=True), 1e-300)
    return torch.from_numpy(joint.T).to(scores.dtype)
