"""Agglomerative clustering of voice vectors: how many talkers, and which vectors are theirs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

MOST_POINTS = 4000  # vectors in the tree; of more, evenly spaced ones
GROUPS = 120  # clusters of the tree that evidence joins further
SHARED = 3  # vectors fewer steps apart share audio
NEAR = 0.05  # weight of a pair of vectors that share audio; 1 for other pairs
# Similarity of two clusters, relative to the similarity within each, from which on they are one
# talker; its deviation between long clusters, and what one vector on each side adds. Measured on
# conversations of `valid`, like the numbers below.
ALIKE, DEVIATION, OF_ONE = 0.72, 0.2, 0.26
# The similarity within a cluster is drawn to the one usual in the recording: by this share, since
# alike vectors were joined first, and by this number of pairs.
DRAWN, PAIRS = 0.91, 30.0
# Cosine of a talker and a known voice: 1 % of other people on `valid` are above it, with 10 s of
# both in two rooms; the least similar pair of one person has 0.62.
KNOWN = 0.52


def cluster_directions(
    vectors: Tensor, weights: Tensor, number: int | None, least: float, most: int
) -> tuple[Tensor, Tensor]:
    """Cluster vectors of unit length by the evidence that two clusters are one talker.

    Evidence compares the mean cosine of two clusters with the cosines within each of them, so that
    room and network cancel. It grows with the size of the clusters: two large parts of a talker
    who speaks most of the time join before a short, uncertain cluster does. Joins end where
    evidence is against one talker. A larger given number undoes the least evident joins; a smaller
    one keeps the heaviest clusters.

    Args:
        vectors: (N, D), one for each step of time.
        weights: (N,), amount of clean speech in each.
        number: number of clusters; None to estimate it.
        least: weight of a cluster that counts in the estimate; others are outliers, such as
            laughter.
        most: upper limit of the estimate.

    Returns:
        Directions (C, D) of unit length and their weights (C,), the heaviest cluster first. C is
        `number` if it is given and there are that many vectors.

    Sources: agglomerative clustering of voice vectors, Sell and Garcia-Romero 2014; its score
    depends on the amount of speech as in probabilistic LDA, Kenny 2010.
    """
    times = (weights > 0).nonzero()[:, 0]
    step = max(1, -(-len(times) // MOST_POINTS))
    times = times[::step].contiguous()
    vectors, weights = vectors[times], weights[times] * step
    if not len(vectors):
        return torch.zeros(1, vectors.shape[1]), torch.zeros(1)
    groups = _first_groups(vectors)  # (G, N)
    joins = _joins(*_pairs(vectors, weights, times, groups), (groups @ weights).numpy())
    against = (n for n, join in enumerate(joins) if join[2] <= 0)
    wanted = max(number or 0, len(groups) - next(against, len(joins)))
    labels = torch.arange(len(groups))
    for kept, other, _ in joins[: max(0, len(groups) - wanted)]:
        labels[labels == other] = kept
    owners = torch.stack([groups[labels == label].sum(0) for label in torch.unique(labels)])
    mass = owners @ weights
    order = mass.argsort(descending=True)
    if number is None:
        number = max(1, min(most, int((mass >= least).sum())))
    order = order[:number]
    return _means(vectors, weights, owners[order]), mass[order]


def _first_groups(vectors: Tensor) -> Tensor:
    """Return clusters (G, N), 0 or 1: each vector, or the first ones of average linkage."""
    if len(vectors) <= GROUPS:
        return torch.eye(len(vectors))
    from scipy.cluster.hierarchy import fcluster, linkage  # slow to import

    distances = (1 - vectors @ vectors.T).clamp_min(0).numpy().astype(np.float64)
    tree = linkage(distances[np.triu_indices(len(vectors), 1)], "average")
    labels = torch.from_numpy(fcluster(tree, GROUPS, "maxclust").astype(np.int64))
    return functional.one_hot(labels - 1).T.to(vectors.dtype)


def _pairs(
    vectors: Tensor, weights: Tensor, times: Tensor, groups: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Sum the cosines and the weights of all pairs of vectors from two clusters.

    Args:
        vectors: (N, D).
        weights: (N,).
        times: (N,), step of each vector, in order.
        groups: (G, N), 0 or 1.

    Returns:
        Sums of cosines (G, G), of weights (G, G), and the median cosine of vectors that are close
        in time without common audio.
    """
    owned = (groups * weights).double()
    totals, mass = owned @ vectors.double(), owned.sum(1)
    cosines, pairs = totals @ totals.T, mass[:, None] * mass
    labels = groups.argmax(0)
    for gap in range(min(SHARED, len(times))):
        first, second = labels[: len(times) - gap], labels[gap:]
        close = times[gap:] - times[: len(times) - gap] < SHARED
        weight = (weights[: len(times) - gap] * weights[gap:] * close).double()
        weight = weight * (1 - NEAR if gap else 1.0)  # a vector is no pair with itself
        cosine = (vectors[: len(times) - gap] * vectors[gap:]).sum(1).double()
        for table, values in ((cosines, weight * cosine), (pairs, weight)):
            table.index_put_((first, second), -values, accumulate=True)
            if gap:
                table.index_put_((second, first), -values, accumulate=True)
    later = torch.searchsorted(times, times + SHARED)
    there = later < len(times)
    there[there.clone()] &= times[later[there]] < times[there] + 2 * SHARED
    near = (vectors[there] * vectors[later[there]]).sum(1)
    return cosines.numpy(), pairs.numpy(), float(near.median()) if len(near) else 0.5


def _joins(
    cosines: NDArray[np.float64],
    pairs: NDArray[np.float64],
    usual: float,
    mass: NDArray[np.float32],
) -> list[tuple[int, int, float]]:
    """Join the two clusters with the most evidence for one talker, until one is left.

    Args:
        cosines: (G, G), sums of the cosines of all pairs.
        pairs: (G, G), sums of the weights of all pairs.
        usual: cosine of two vectors of one talker in this recording.
        mass: (G,), weights of the clusters.

    Returns:
        Numbers of both clusters and the evidence, join by join; the first number stays.
    """
    numbers, joins = list(range(len(mass))), []
    while len(numbers) > 1:
        own = (cosines.diagonal() + PAIRS * usual) / (pairs.diagonal() + PAIRS)
        own = np.sqrt((own + DRAWN * (usual - own)).clip(0.05))
        alike = cosines / pairs.clip(1e-6) / np.outer(own, own)
        one = OF_ONE**2 * SHARED / (mass + SHARED - 1)
        evidence = (alike - ALIKE) / (DEVIATION**2 + one[:, None] + one)
        np.fill_diagonal(evidence, -np.inf)
        kept, other = sorted(map(int, np.unravel_index(evidence.argmax(), evidence.shape)))
        joins.append((numbers[kept], numbers[other], float(evidence[kept, other])))
        for table in (cosines, pairs):
            table[kept] += table[other]
            table[:, kept] += table[:, other]
        cosines, pairs = (
            np.delete(np.delete(table, other, 0), other, 1) for table in (cosines, pairs)
        )
        mass[kept] += mass[other]
        mass = np.delete(mass, other)
        numbers.pop(other)
    return joins


def _means(vectors: Tensor, weights: Tensor, owners: Tensor) -> Tensor:
    """Return the directions (C, D) of weighted sums; zeros where there is nothing to sum."""
    return functional.normalize((owners * weights) @ vectors, dim=-1)


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
