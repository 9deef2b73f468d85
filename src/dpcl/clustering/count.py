"""How many sources there are, from the embeddings alone.

Embeddings of one talker lie close together, those of C talkers in C directions: the more there are,
the more eigenvalues of V^T V are large, the more k-means gains from one more cluster, and the more
clusters share a frame. Where talkers overlap, a network is in doubt and its embeddings lie between,
so no threshold is right for every network: what the cues say together is fitted on validation
mixtures and belongs to the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpcl.clustering.kmeans import kmeans

SAMPLE = 3000  # points that are looked at; the count of more is no better
EIGENVALUES = 6
CLUSTERS = 5
SHARED = 4  # clusters, at most, of which is told how they share the frames
QUANTILES = 0.1, 0.5, 0.9  # of the frames
SMALLEST = 1e-4  # in a logarithm: what is smaller says nothing
OF_CLOUD = EIGENVALUES + 1 + CLUSTERS + 2 * (CLUSTERS - 1)  # cues that know of no frames
LONGEST = 10_000  # frames, beyond which recordings count as equally long
CUES = OF_CLOUD + (SHARED - 1) * (1 + len(QUANTILES)) + 1
CLASSES = 4  # of the frame-wise number of talkers: 0, 1, 2, 3 or more
HIGH = 0.5, 0.9, 0.98  # quantiles of the frames' probabilities of two and of three talkers
FRAME_CUES = CLASSES + 2 * len(HIGH) + 1

Rows = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Count:
    """How many sources, and how sure that is."""

    number: int
    scores: Tensor  # (most,) probabilities of 1, 2, …, and `most` sources or more


def count_sources(
    points: Tensor,
    weights: Tensor,
    frames: Tensor,
    hidden: Rows,
    output: Rows,
    most: int = 10,
    more: Tensor | None = None,
) -> Count:
    """The likeliest number of sources, 1 to `most`, of embeddings (N, K) with weights (N,).

    Where nothing has weight, as in silence, or all embeddings are the same, there is one source.

    Args:
        points: embeddings (N, K).
        weights: (N,).
        frames: (N,), the number of the frame of each embedding.
        hidden: rows of an intercept and a number for each of the cues (see `fit`).
        output: a row for 1, 2, ... sources, an intercept and a number for each hidden row. There
            are never more sources than rows.
        most: limit.
        more: further cues after those of `cues`, such as `frame_cues`.

    Raises ValueError for rows of other lengths, `most` under 1, and what kmeans refuses.
    """
    first, last = (torch.tensor(rows, dtype=torch.float64) for rows in (hidden, output))
    shapes = (first.ndim, last.ndim) == (2, 2)
    wanted = CUES if more is None else CUES + len(more)
    if most < 1 or not shapes or [first.shape[1], last.shape[1]] != [1 + wanted, 1 + len(first)]:
        raise ValueError(
            f"want most >= 1, hidden rows of 1 + {wanted} numbers and output rows of one more than"
            f" there are hidden ones; got {most}, {tuple(first.shape)} and {tuple(last.shape)}"
        )
    most = min(most, len(last))
    one = Count(1, functional.one_hot(torch.tensor(0), most).double())
    if not bool((weights > 0).any()):
        return one
    found = cues(points, weights, frames)
    if found[EIGENVALUES + 1].exp() <= SMALLEST:  # of one cluster nothing is left to explain
        return one
    found = found if more is None else torch.cat([found, more.double()])
    scores = score(found, first, last).softmax(0)
    scores = torch.cat([scores[: most - 1], scores[most - 1 :].sum(0, keepdim=True)])
    return Count(int(scores.argmax()) + 1, scores)


def score(found: Tensor, hidden: Tensor, output: Tensor) -> Tensor:
    """Signs (..., CUES) -> logits (..., C) of 1, 2, … sources: one hidden layer of tanh."""
    inner = (found @ hidden[:, 1:].T + hidden[:, 0]).tanh()
    return inner @ output[:, 1:].T + output[:, 0]


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


def cues(points: Tensor, weights: Tensor, frames: Tensor) -> Tensor:
    """What tells the number of sources of points (N, K) of weights (N,) in frames (N,): (CUES,).

    Of a sample: logarithms of the largest eigenvalues of V^T V / N, which add up to one, and of
    their effective rank (Roy and Vetterli 2007); for k = 1, 2, … the logarithm of the mean squared
    distance to the nearest of k centroids; and for k = 2, 3, … the largest cosine of two centroids,
    and how much nearer a point is, on average, to its centroid than to the next (the simplified
    silhouette: Hruschka et al. 2004). Of all points, for k = 2, 3, …: the entropy of the shares
    that the clusters have of a frame, its mean and quantiles. Sources that talk at once share
    frames, those who take turns do not. And the logarithm of the frames from the first to the last:
    in minutes the embeddings of one talker drift. None changes when the embeddings are rotated.
    """
    heard = weights > 0
    everything = functional.normalize(points[heard].float(), dim=-1)
    loud = weights[heard].double()
    _, places = torch.unique(frames[heard], return_inverse=True)
    x = sample_points(everything, loud)
    eigenvalues = torch.linalg.eigvalsh((x.T @ x).double() / len(x)).flip(0).clamp_min(0)  # (K,)
    rank = torch.special.entr(eigenvalues).sum()  # its logarithm
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
                owners = (everything @ directions.T).argmax(1)
                sharing += _sharing(owners, k, loud, places)
    length = min(int(frames.max() - frames.min()) + 1, LONGEST)
    return torch.tensor([*cloud, *sharing, math.log(length)], dtype=torch.float64)


def frame_cues(probabilities: Tensor, background: Tensor) -> Tensor:
    """Signs of the number of sources from a frame-wise head.

    Args:
        probabilities: (L, CLASSES) of 0, 1, 2, and 3 or more talkers in each frame.
        background: (), the share of the weight that the background has.

    Returns:
        (FRAME_CUES,): mean probabilities, quantiles of that of two or more and of three or more
        talkers, and the share of the background.
    """
    places = probabilities.new_tensor(HIGH)
    several = [probabilities[:, number:].sum(1).quantile(places) for number in (2, 3)]
    return torch.cat([probabilities.mean(0), *several, background.reshape(1)]).double()


def _silhouette(cosines: Tensor) -> float:
    """Cosines of points to k > 1 centroids (N, k) -> a mean in [0, 1]."""
    nearest = cosines.topk(2, dim=1).values  # (N, 2)
    near, far = (1 - nearest).clamp_min(SMALLEST).unbind(1)
    return float((1 - near / far).mean())


def _sharing(owners: Tensor, k: int, weights: Tensor, frames: Tensor) -> list[float]:
    """Clusters (N,) of points in frames 0, 1, … (N,) -> entropies of the clusters' shares in nat.

    The mean over the frames and their quantiles, every frame counting by its weight.
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
    """hidden and output of `count_sources` from cues (M, CUES) of mixtures of known counts (M,).

    importance: (M,), how much each mixture counts. Cross-entropy by AdamW; noise on the cues, of a
    tenth of their deviation, and the decay of the weights keep it from learning them by heart.
    """
    found = found.double()
    mean, std = found.mean(0), found.std(0)
    std = torch.where(std > 1e-6, std, torch.inf)  # what is the same for all tells nothing
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
    plain = first.weight.detach() / std  # (units, CUES), of cues as they are
    hidden = torch.cat([(first.bias.detach() - plain @ mean).unsqueeze(1), plain], 1)
    output = torch.cat([last.bias.detach().unsqueeze(1), last.weight.detach()], 1)
    return _rounded(hidden), _rounded(output)


def _rounded(table: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in table.tolist()]
