"""Estimate the SI-SDR of each source from the embeddings, without references.

Embeddings of a talker whom the network separates well lie close to their centroid and far from
the others, and a second clustering finds the same centroid. A linear model of such cues is fitted
on validation mixtures with known sources and stored with the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.count import sample_points
from dpcl.clustering.kmeans import kmeans

SHARPNESS = 5.0  # factor of the cosines in the soft shares of a point
SMALLEST = 1e-3  # lower limit of the logarithm's argument
SEED = 1  # of the second clustering
CUES = 7  # number of cues of a source
WORST, BEST = -10.0, 25.0  # dB, limits of the estimate
RIDGE = 1e-2  # penalty on the coefficients of standardised cues


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
        (C, CUES), float64.
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
    share = (mass / len(x)).clamp_min(SMALLEST).log()
    again = kmeans(x, count, seed=SEED, restarts=1).centroids
    stable = (directions @ functional.normalize(again, dim=-1).T).amax(1)
    number = torch.full_like(near, count)
    return torch.stack([near, margin, purity, share, closest, stable, number], 1).double()


def estimate_si_sdr(cues: Tensor, coefficients: Sequence[float]) -> list[float]:
    """Estimate the SI-SDR of each source.

    Args:
        cues: (C, CUES).
        coefficients: intercept, then one coefficient per cue (see `fit_confidence`).

    Returns:
        SI-SDR in dB, one per source, within WORST and BEST.

    Example:
        >>> import torch
        >>> estimate_si_sdr(torch.zeros(2, CUES), [4.0] + [0.0] * CUES)
        [4.0, 4.0]
    """
    table = torch.tensor(coefficients, dtype=torch.float64)
    values = table[0] + cues.double() @ table[1:]
    return [round(value, 2) for value in values.clamp(WORST, BEST).tolist()]


def fit_confidence(cues: Tensor, si_sdr: Tensor) -> list[float]:
    """Fit the coefficients of `estimate_si_sdr` by ridge regression.

    Args:
        cues: (M, CUES) of M sources.
        si_sdr: (M,), their SI-SDR in dB; values beyond WORST and BEST count as these.

    Returns:
        Intercept and coefficients, rounded to 4 decimals.
    """
    cues, wanted = cues.double(), si_sdr.double().clamp(WORST, BEST)
    mean, std = cues.mean(0), cues.std(0)
    std = torch.where(std > 1e-6, std, torch.inf)  # constant cues carry no information
    scaled = (cues - mean) / std
    square = scaled.T @ scaled / len(cues) + RIDGE * torch.eye(CUES, dtype=torch.float64)
    slopes = torch.linalg.solve(square, scaled.T @ (wanted - wanted.mean()) / len(cues)) / std
    intercept = float(wanted.mean() - slopes @ mean)
    return [round(value, 4) for value in (intercept, *slopes.tolist())]
