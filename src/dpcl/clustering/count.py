"""How many sources there are, from the embeddings alone.

Embeddings of one talker lie close together, those of C talkers in C directions: the more there are,
the more eigenvalues of V^T V are large, and the more k-means gains from one more cluster. Where
talkers overlap, a network is in doubt and its embeddings lie between, so no threshold is right for
every network: what each sign counts is fitted on validation mixtures and belongs to the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.kmeans import kmeans

SAMPLE = 3000  # points that are looked at; the count of more is no better
EIGENVALUES = 6
CLUSTERS = 5
SMALLEST = 1e-4  # in a logarithm: what is smaller says nothing
SIGNS = EIGENVALUES + 1 + CLUSTERS + 2 * (CLUSTERS - 1)


@dataclass(frozen=True)
class Count:
    """How many sources, and how sure that is."""

    number: int
    scores: Tensor  # (most,) probabilities of 1, 2, … sources; they add up to one


def count_sources(
    points: Tensor, weights: Tensor, coefficients: Sequence[Sequence[float]], most: int = 10
) -> Count:
    """The likeliest number of sources, 1 to `most`, of embeddings (N, K) with weights (N,).

    coefficients: a row for 1, 2, … sources, an intercept and one number for each of the `signs`,
    of a multinomial logistic regression; there are never more sources than rows. Where nothing
    has weight, as in silence, there is one source.
    Raises ValueError for coefficients of another shape, `most` under 1, and what kmeans refuses.
    """
    table = torch.tensor(coefficients, dtype=torch.float64)[:most]  # (C, 1 + SIGNS)
    if most < 1 or table.ndim != 2 or table.shape[1] != 1 + SIGNS:
        raise ValueError(
            f"want most >= 1 and rows of {1 + SIGNS} coefficients; got {most}, {tuple(table.shape)}"
        )
    if not bool((weights > 0).any()):
        scores = functional.one_hot(torch.tensor(0), len(table)).double()
        return Count(1, scores)
    found = torch.cat([table.new_ones(1), signs(sample_points(points, weights))])
    scores = (table @ found).softmax(0)  # (C,)
    return Count(int(scores.argmax()) + 1, scores)


def sample_points(points: Tensor, weights: Tensor, size: int = SAMPLE, seed: int = 0) -> Tensor:
    """`size` of the points (N, K), each drawn as often as its weight (N,) says -> (size, K).

    The same for the same seed, and for weights of another scale.
    """
    shares = weights.double().cumsum(0)
    steps = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # One draw in each of `size` equal parts of the weight: less left to chance than free draws.
    places = (torch.arange(size, dtype=torch.float64) + steps).to(shares.device) / size
    chosen = torch.searchsorted(shares, places * shares[-1], right=True)
    return points[chosen.clamp_max(len(points) - 1)]


def signs(points: Tensor) -> Tensor:
    """What tells the number of sources of points (N, K) of equal weight -> (SIGNS,), float64.

    Logarithms of the largest eigenvalues of V^T V / N, which add up to one, and of their effective
    rank (Roy and Vetterli 2007); for k = 1, 2, … the logarithm of the mean squared distance to the
    nearest of k centroids; and for k = 2, 3, … the largest cosine of two centroids, and how much
    nearer a point is, on average, to its centroid than to the next (the simplified silhouette:
    Hruschka et al. 2004). None changes when the embeddings are rotated.
    """
    x = functional.normalize(points.float(), dim=-1)
    eigenvalues = torch.linalg.eigvalsh((x.T @ x).double() / len(x)).flip(0).clamp_min(0)  # (K,)
    rank = torch.special.entr(eigenvalues).sum()  # its logarithm
    largest = functional.pad(eigenvalues, (0, EIGENVALUES))[:EIGENVALUES]
    found = [*largest.clamp_min(SMALLEST).log().tolist(), float(rank)]
    for k in range(1, CLUSTERS + 1):
        clusters = kmeans(x, k, restarts=3, iterations=30)
        found.append(float((clusters.inertia / len(x)).clamp_min(SMALLEST).log()))
        if k > 1:
            directions = functional.normalize(clusters.centroids, dim=-1)  # (k, K)
            cosines = directions @ directions.T - 2 * torch.eye(k, device=x.device)
            found.append(float(cosines.max()))
            found.append(_silhouette(x @ directions.T))
    return torch.tensor(found, dtype=torch.float64)


def _silhouette(cosines: Tensor) -> float:
    """Cosines of points to k > 1 centroids (N, k) -> a mean in [0, 1]."""
    nearest = cosines.topk(2, dim=1).values  # (N, 2)
    near, far = (1 - nearest).clamp_min(SMALLEST).unbind(1)
    return float((1 - near / far).mean())


def fit_coefficients(
    found: Tensor, counts: Tensor, decay: float = 1e-3, steps: int = 300
) -> list[list[float]]:
    """Coefficients for count_sources from signs (M, SIGNS) of mixtures whose counts (M,) are known.

    Multinomial logistic regression in which every number of sources counts the same, however many
    mixtures have it; `decay` times the square of the coefficients, of signs brought to unit
    variance, is added to the mean negative logarithm of the likelihood.
    """
    found = found.double()
    mean, std = found.mean(0), found.std(0).clamp_min(1e-6)
    x = torch.cat([torch.ones_like(found[:, :1]), (found - mean) / std], dim=1)  # (M, 1 + SIGNS)
    classes = int(counts.max())
    share = 1 / torch.bincount(counts - 1, minlength=classes).clamp_min(1)[counts - 1].double()
    table = x.new_zeros(classes, x.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([table], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        errors = functional.cross_entropy(x @ table.T, counts - 1, reduction="none")
        value = (share * errors).sum() / classes + decay * table[:, 1:].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    plain = table.detach()[:, 1:] / std  # (C, SIGNS)
    intercepts = table.detach()[:, :1] - (plain * mean).sum(1, keepdim=True)
    rows: list[list[float]] = torch.cat([intercepts, plain], dim=1).tolist()
    return [[round(value, 4) for value in row] for row in rows]
