"""Estimate from the embeddings alone the number of sources, and the SI-SDR of each.

Embeddings of one talker lie close together, those of C talkers in C directions. With more
talkers, more eigenvalues of V^T V are large, one more cluster lowers the k-means error more,
and more clusters share a frame. Where talkers overlap, embeddings lie between the directions.
So no threshold is right for every network. Instead, a small classifier of these cues is fitted
on validation mixtures and stored with the weights.

Embeddings of a talker whom the network separates well lie close to their centroid and far from
the others. A second clustering finds the same centroid. A linear model of such cues gives the
SI-SDR; it is fitted on validation mixtures with known sources and stored too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpcl.clustering.kmeans import kmeans

SAMPLE = 3000  # number of sampled points; more do not improve the estimate
EIGENVALUES = 6  # number of eigenvalues among the cues
CLUSTERS = 5  # largest number of clusters that is tried for the cues
SHARED = 4  # largest number of clusters whose shares of the frames are cues
QUANTILES = 0.1, 0.5, 0.9  # quantiles of the frames' entropies
SMALLEST = 1e-4  # lower limit of logarithms' arguments: smaller values are not informative
OF_CLOUD = EIGENVALUES + 1 + CLUSTERS + 2 * (CLUSTERS - 1)  # number of cues without frames
LONGEST = 10_000  # frames; longer recordings count as this long
CUES = OF_CLOUD + (SHARED - 1) * (1 + len(QUANTILES)) + 1  # number of cues
CLASSES = 4  # number of classes of a frame: 0, 1, 2, and 3 or more talkers
HIGH = 0.5, 0.9, 0.98  # quantiles of the frames' probabilities of >= 2 and of >= 3 talkers
FRAME_CUES = CLASSES + 2 * len(HIGH) + 1  # number of cues from a frame-wise head

Rows = Sequence[Sequence[float]]

# Cues of the SI-SDR of a source
SHARPNESS = 5.0  # factor of the cosines in the soft shares of a point
SMALLEST_SHARE = 1e-3  # lower limit of the logarithm's argument
SEED = 1  # of the second clustering
SOURCE_CUES = 7  # number of cues of a source
WORST, BEST = -10.0, 25.0  # dB, limits of the estimate
RIDGE = 1e-2  # penalty on the coefficients of standardised cues


@dataclass(frozen=True)
class Count:
    """Estimated number of sources with its probabilities."""

    number: int
    scores: Tensor  # (most,), probabilities of 1, 2, … sources; the last of `most` or more


def count_sources(
    points: Tensor,
    weights: Tensor,
    frames: Tensor,
    hidden: Rows,
    output: Rows,
    most: int = 10,
    more: Tensor | None = None,
) -> Count:
    """Estimate the number of sources of weighted embeddings.

    The result is one source if no embedding has weight, as in silence, or if all are equal.

    Args:
        points: embeddings (N, K).
        weights: (N,), at least zero.
        frames: (N,), frame number of each embedding.
        hidden: one row per hidden unit: an intercept and one coefficient per cue (see `fit`).
        output: one row per number of sources 1, 2, …: an intercept and one coefficient per hidden
            unit. The estimate is at most the number of rows.
        most: upper limit of the estimate.
        more: cues appended to those of `cues`, such as `frame_cues`.

    Returns:
        Count: the most probable number, 1 to `most`, and all probabilities.

    Raises:
        ValueError: rows have other lengths, `most` is below 1, or `kmeans` rejects the points.
    """
    first, last = (torch.tensor(rows, dtype=torch.float64) for rows in (hidden, output))
    shapes = (first.ndim, last.ndim) == (2, 2)
    wanted = CUES if more is None else CUES + len(more)
    if most < 1 or not shapes or [first.shape[1], last.shape[1]] != [1 + wanted, 1 + len(first)]:
        raise ValueError(
            f"most must be at least 1, hidden (H, {1 + wanted}) and output (C, 1 + H);"
            f" got {most}, {tuple(first.shape)} and {tuple(last.shape)}"
        )
    most = min(most, len(last))
    one = Count(1, functional.one_hot(torch.tensor(0), most).double())
    if not bool((weights > 0).any()):
        return one
    found = cues(points, weights, frames)
    if found[EIGENVALUES + 1].exp() <= SMALLEST:  # one cluster explains all points
        return one
    found = found if more is None else torch.cat([found, more.double()])
    scores = score(found, first, last).softmax(0)
    scores = torch.cat([scores[: most - 1], scores[most - 1 :].sum(0, keepdim=True)])
    return Count(int(scores.argmax()) + 1, scores)


def score(found: Tensor, hidden: Tensor, output: Tensor) -> Tensor:
    """Return logits (..., C) of 1, 2, … sources for cues (..., CUES): one tanh hidden layer."""
    inner = (found @ hidden[:, 1:].T + hidden[:, 0]).tanh()
    return inner @ output[:, 1:].T + output[:, 0]


def sample_points(points: Tensor, weights: Tensor, size: int = SAMPLE, seed: int = 0) -> Tensor:
    """Draw points at random, in proportion to their weights.

    The result depends on the seed, but not on the scale of the weights.

    Args:
        points: (N, K).
        weights: (N,), at least zero.
        size: number of draws.
        seed: seed of the random numbers.

    Returns:
        (size, K); a point can occur more than once.
    """
    shares = weights.double().cumsum(0)
    steps = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # Stratified draws, one in each of `size` equal parts of the weight, vary less than free draws.
    places = (torch.arange(size, dtype=torch.float64) + steps).to(shares.device) / size
    chosen = torch.searchsorted(shares, places * shares[-1], right=True)
    return points[chosen.clamp_max(len(points) - 1)]


def cues(points: Tensor, weights: Tensor, frames: Tensor) -> Tensor:
    """Compute the cues from which the number of sources is estimated.

    From a sample of the points:

    - logarithms of the largest eigenvalues of V^T V / N, whose sum is one, and of their effective
      rank (Roy and Vetterli 2007);
    - for k = 1, 2, … clusters the logarithm of the mean squared distance to the nearest centroid;
    - for k = 2, 3, … the largest cosine of two centroids, and the simplified silhouette
      (Hruschka et al. 2004): how much nearer a point is, on average, to its own centroid than to
      the second nearest.

    From all points:

    - for k = 2, 3, … the entropy of the clusters' shares of a frame: mean and quantiles. Sources
      that are active at once share frames, sources that take turns do not;
    - the logarithm of the number of frames from the first to the last, since the embeddings of one
      talker drift over minutes.

    Rotating the embeddings does not change any cue.

    Args:
        points: embeddings (N, K).
        weights: (N,), at least zero.
        frames: (N,), frame number of each embedding.

    Returns:
        (CUES,).
    """
    has_weight = weights > 0
    all_points = functional.normalize(points[has_weight].float(), dim=-1)
    mass = weights[has_weight].double()
    _, places = torch.unique(frames[has_weight], return_inverse=True)
    x = sample_points(all_points, mass)
    eigenvalues = torch.linalg.eigvalsh((x.T @ x).double() / len(x)).flip(0).clamp_min(0)  # (K,)
    rank = torch.special.entr(eigenvalues).sum()  # logarithm of the effective rank
    largest = functional.pad(eigenvalues, (0, EIGENVALUES))[:EIGENVALUES]
    cloud = [*largest.clamp_min(SMALLEST).log().tolist(), float(rank)]
    sharing: list[float] = []
    for k in range(1, CLUSTERS + 1):
        clusters = kmeans(x, k, restarts=3, iterations=30)
        cloud.append(float((clusters.inertia / len(x)).clamp_min(SMALLEST).log()))
        if k > 1:
            directions = functional.normalize(clusters.centroids, dim=-1)  # (k, K)
            cosines = directions @ directions.T - 2 * torch.eye(k, device=x.device)
            cloud.append(float(cosines.max()))
            cloud.append(_silhouette(x @ directions.T))
            if k <= SHARED:
                owners = (all_points @ directions.T).argmax(1)
                sharing += _sharing(owners, k, mass, places)
    length = min(int(frames.max() - frames.min()) + 1, LONGEST)
    return torch.tensor([*cloud, *sharing, math.log(length)], dtype=torch.float64)


def frame_cues(probabilities: Tensor, background: Tensor) -> Tensor:
    """Compute cues for the number of sources from a frame-wise head.

    Args:
        probabilities: (L, CLASSES) of 0, 1, 2, and 3 or more talkers in each frame.
        background: (), the background's share of the weight.

    Returns:
        (FRAME_CUES,): mean probabilities, quantiles of the probabilities of two or more and of
        three or more talkers, and the share of the background.
    """
    places = probabilities.new_tensor(HIGH)
    several = [probabilities[:, number:].sum(1).quantile(places) for number in (2, 3)]
    return torch.cat([probabilities.mean(0), *several, background.reshape(1)]).double()


def _silhouette(cosines: Tensor) -> float:
    """Return the mean silhouette in [0, 1] for cosines (N, k) of points and k > 1 centroids."""
    nearest = cosines.topk(2, dim=1).values  # (N, 2)
    near, far = (1 - nearest).clamp_min(SMALLEST).unbind(1)
    return float((1 - near / far).mean())


def _sharing(owners: Tensor, k: int, weights: Tensor, frames: Tensor) -> list[float]:
    """Return the entropies, in nat, of the clusters' shares of a frame: mean, then quantiles.

    owners (N,) are the clusters of the points, frames (N,) their frames from 0. Each frame counts
    by its weight.
    """
    held = weights.new_zeros((int(frames.max()) + 1) * k)
    held = held.index_add_(0, frames * k + owners, weights).view(-1, k)  # (L, k)
    mass = held.sum(1)
    entropies, order = torch.special.entr(held / mass.unsqueeze(1)).sum(1).sort()
    shares = mass[order] / mass.sum()
    places = torch.searchsorted(shares.cumsum(0), shares.new_tensor(QUANTILES))
    quantiles: list[float] = entropies[places.clamp_max(len(entropies) - 1)].tolist()
    return [float(entropies @ shares), *quantiles]


def fit(
    found: Tensor, counts: Tensor, importance: Tensor, units: int = 16, steps: int = 400
) -> tuple[list[list[float]], list[list[float]]]:
    """Fit `hidden` and `output` of `count_sources` on mixtures with known numbers of sources.

    Minimises cross-entropy with AdamW. Noise on the cues, a tenth of their standard deviation, and
    weight decay prevent overfitting.

    Args:
        found: cues (M, CUES) of M mixtures.
        counts: (M,), number of sources of each mixture.
        importance: (M,), weight of each mixture.
        units: number of hidden units.
        steps: number of optimiser steps.

    Returns:
        `hidden` and `output`, rounded to 4 decimals.
    """
    found = found.double()
    mean, std = found.mean(0), found.std(0)
    std = torch.where(std > 1e-6, std, torch.inf)  # constant cues carry no information
    scaled = (found - mean) / std
    share = importance.double() / importance.sum()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = nn.Linear(found.shape[1], units).double()
        last = nn.Linear(units, int(counts.max())).double()
        parameters = [*first.parameters(), *last.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=5e-3, weight_decay=1.0)
        for _ in range(steps):
            optimiser.zero_grad()
            logits = last(first(scaled + 0.1 * torch.randn_like(scaled)).tanh())
            errors = functional.cross_entropy(logits, counts - 1, reduction="none")
            (share * errors).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    plain = first.weight.detach() / std  # (units, CUES), for cues that are not standardised
    hidden = torch.cat([(first.bias.detach() - plain @ mean).unsqueeze(1), plain], 1)
    output = torch.cat([last.bias.detach().unsqueeze(1), last.weight.detach()], 1)
    return _rounded(hidden), _rounded(output)


def _rounded(table: Tensor) -> list[list[float]]:
    """Return the rows of a table, rounded to 4 decimals."""
    return [[round(value, 4) for value in row] for row in table.tolist()]


def confidence_cues(points: Tensor, weights: Tensor, centroids: Tensor) -> Tensor:
    """Compute the cues from which the SI-SDR of each source is estimated.

    For each source: mean cosine of its points to their centroid; mean margin to the second nearest
    centroid; mean soft share of its points; logarithm of its share of the weight; cosine to the
    nearest other centroid; cosine to the nearest centroid of a second clustering; number of
    sources.

    Args:
        points: embeddings (N, K).
        weights: (N,), at least zero, not all zero.
        centroids: (C, K).

    Returns:
        (C, SOURCE_CUES), float64.
    """
    x = sample_points(functional.normalize(points.float(), dim=-1), weights.double())
    directions = functional.normalize(centroids.float(), dim=-1)
    cosines = x @ directions.T  # (n, C)
    count = len(directions)
    owners = functional.one_hot(cosines.argmax(1), count).float()
    mass = owners.sum(0)  # (C,)
    near = (owners * cosines).sum(0) / mass.clamp_min(1)
    if count > 1:
        two = cosines.topk(2, dim=1).values
        margin = (owners * (two[:, :1] - two[:, 1:])).sum(0) / mass.clamp_min(1)
        closest = (directions @ directions.T - 2 * torch.eye(count)).amax(1)
    else:
        margin, closest = near.new_ones(1), -near.new_ones(1)
    soft = (SHARPNESS * cosines).softmax(1)
    purity = soft.square().sum(0) / soft.sum(0)
    share = (mass / len(x)).clamp_min(SMALLEST_SHARE).log()
    again = kmeans(x, count, seed=SEED, restarts=1).centroids
    stable = (directions @ functional.normalize(again, dim=-1).T).amax(1)
    number = torch.full_like(near, count)
    return torch.stack([near, margin, purity, share, closest, stable, number], 1).double()


def estimate_si_sdr(cues: Tensor, coefficients: Sequence[float]) -> list[float]:
    """Estimate the SI-SDR of each source.

    Args:
        cues: (C, SOURCE_CUES).
        coefficients: intercept, then one coefficient per cue (see `fit_confidence`).

    Returns:
        SI-SDR in dB, one per source, within WORST and BEST.

    Example:
        >>> import torch
        >>> estimate_si_sdr(torch.zeros(2, SOURCE_CUES), [4.0] + [0.0] * SOURCE_CUES)
        [4.0, 4.0]
    """
    table = torch.tensor(coefficients, dtype=torch.float64)
    values = table[0] + cues.double() @ table[1:]
    return [round(value, 2) for value in values.clamp(WORST, BEST).tolist()]


def fit_confidence(cues: Tensor, si_sdr: Tensor) -> list[float]:
    """Fit the coefficients of `estimate_si_sdr` by ridge regression.

    Args:
        cues: (M, SOURCE_CUES) of M sources.
        si_sdr: (M,), their SI-SDR in dB; values beyond WORST and BEST count as these.

    Returns:
        Intercept and coefficients, rounded to 4 decimals.
    """
    cues, wanted = cues.double(), si_sdr.double().clamp(WORST, BEST)
    mean, std = cues.mean(0), cues.std(0)
    std = torch.where(std > 1e-6, std, torch.inf)  # constant cues carry no information
    scaled = (cues - mean) / std
    square = scaled.T @ scaled / len(cues) + RIDGE * torch.eye(SOURCE_CUES, dtype=torch.float64)
    slopes = torch.linalg.solve(square, scaled.T @ (wanted - wanted.mean()) / len(cues)) / std
    intercept = float(wanted.mean() - slopes @ mean)
    return [round(value, 4) for value in (intercept, *slopes.tolist())]
