"""Weighted k-means: hard, soft, and unfolded into differentiable steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Metric = Literal["euclidean", "cosine"]


@dataclass(frozen=True)
class Clusters:
    """Result of k-means: for every item the best restart."""

    centroids: Tensor  # (..., C, K)
    labels: Tensor  # (..., N) int64 in [0, C)
    inertia: Tensor  # (...), weighted sum of squared distances to the nearest centroid


def kmeans(
    points: Tensor,
    num_clusters: int,
    weights: Tensor | None = None,
    seed: int = 0,
    *,
    metric: Metric = "euclidean",
    restarts: int = 4,
    iterations: int = 50,
    tolerance: float = 1e-4,
) -> Clusters:
    """Cluster points with Lloyd's algorithm from k-means++ starts.

    All restarts run in the same matrix products. A restart stops when no centroid moves by more
    than `tolerance`. An empty cluster restarts at the point with the largest weighted squared
    distance to its centroid. Clusters are sorted by weight, heaviest first, so their order does
    not depend on rounding errors between restarts. The result for an item depends neither on the
    rest of its batch nor on torch's global random numbers.

    Args:
        points: (N, K) or (B, N, K).
        num_clusters: number of clusters C, at least 1.
        weights: (N,) or (B, N), at least zero; None weights every point equally, and so does all
            zeros. A point of weight zero gets a label but moves no centroid.
        seed: seed of the starts.
        metric: "euclidean", or "cosine" for points and centroids on the unit sphere (spherical
            k-means).
        restarts: number of starts.
        iterations: upper limit of the steps of a restart.
        tolerance: in units of the largest coordinate of a point relative to the mean of all.

    Returns:
        Clusters: centroids ([B,] C, K), labels ([B,] N), inertia ([B]).

    Raises:
        ValueError: the shapes do not agree, there are no points, or `num_clusters` is below 1.

    Example:
        >>> import torch
        >>> points = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
        >>> kmeans(points, 2).labels
        tensor([0, 0, 1])

    Source: Lloyd 1982; Arthur and Vassilvitskii 2007 (k-means++).
    """
    if points.ndim not in (2, 3) or points.shape[-2] == 0:
        raise ValueError(f"points must be ([B,] N, K) with N > 0; got {tuple(points.shape)}")
    if num_clusters < 1 or num_clusters != int(num_clusters):
        raise ValueError(f"num_clusters must be a whole number, at least 1; got {num_clusters}")
    if weights is None:
        weights = points.new_ones(points.shape[:-1])
    if weights.shape != points.shape[:-1]:
        raise ValueError(f"weights must be {tuple(points.shape[:-1])}; got {tuple(weights.shape)}")
    # Under autocast the products would run in bfloat16, too coarse for small distances.
    with torch.autocast(points.device.type, enabled=False), torch.no_grad():
        flat = (points[None], weights[None]) if points.ndim == 2 else (points, weights)
        items = [
            _one_item(x, w, num_clusters, seed, metric, restarts, iterations, tolerance)
            for x, w in zip(*flat, strict=True)
        ]
    if points.ndim == 2:
        return items[0]
    return Clusters(
        torch.stack([item.centroids for item in items]),
        torch.stack([item.labels for item in items]),
        torch.stack([item.inertia for item in items]),
    )


def _one_item(
    points: Tensor,
    weights: Tensor,
    clusters: int,
    seed: int,
    metric: Metric,
    restarts: int,
    iterations: int,
    tolerance: float,
) -> Clusters:
    """Cluster the points (N, K) of one item with weights (N,); arguments as for `kmeans`."""
    points = points.to(torch.promote_types(points.dtype, torch.float32))
    w = weights.to(points.dtype)
    has_weight = w > 0
    if not has_weight.any():
        w, has_weight = torch.ones_like(w), ~has_weight
    w = w[has_weight]  # (M,)
    if metric == "cosine":
        points = functional.normalize(points, dim=-1)
        x = points[has_weight]  # (M, K)
    else:
        # Centred, since distances are differences of squares: rounding errors far from the origin.
        x = points[has_weight]
        centre = (w / w.sum()) @ x  # (K,)
        scale = (x - centre).abs().amax()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        points, x = (points - centre) / scale, (x - centre) / scale
    random = torch.Generator().manual_seed(seed)
    centroids = _plus_plus(x, w, clusters, restarts, random)  # (R, C, K)
    active = torch.arange(restarts, device=x.device)
    for _ in range(iterations):
        moved = _step(x, w, centroids[active])
        if metric == "cosine":
            moved = functional.normalize(moved, dim=-1)
        steps = (moved - centroids[active]).square().sum(-1).amax(-1)  # (active,)
        centroids[active] = moved
        active = active[steps > tolerance**2]
        if len(active) == 0:
            break
    inertia = _distances(x, centroids).amin(1) @ w  # (R,)
    best = inertia.argmin()
    centroids, inertia = centroids[best], inertia[best]  # (C, K), ()
    labels = _distances(points, centroids[None])[0].min(0).indices  # (N,)
    mass = functional.one_hot(labels[has_weight], clusters).to(w.dtype).T @ w  # (C,)
    order = mass.argsort(descending=True, stable=True)
    centroids, labels = centroids[order], order.argsort()[labels]
    if metric == "cosine":
        return Clusters(centroids, labels, inertia)
    return Clusters(centroids * scale + centre, labels, inertia * scale.square())


def _distances(x: Tensor, centroids: Tensor) -> Tensor:
    """Return squared distances (R, C, N) of points (N, K) and centroids (R, C, K)."""
    return (_relative_distances(x, centroids) + x.square().sum(-1)).clamp_min_(0)


def _relative_distances(x: Tensor, centroids: Tensor) -> Tensor:
    """Return |c|² - 2 x.c (R, C, N): squared distances less |x|², equal for all centroids."""
    flat = centroids.flatten(0, 1)  # (R*C, K)
    relative = torch.addmm(flat.square().sum(-1, keepdim=True), flat, x.T, alpha=-2)
    return relative.view(*centroids.shape[:2], -1)


def _step(x: Tensor, w: Tensor, centroids: Tensor) -> Tensor:
    """Assign all points and update the centroids (R, C, K) of all restarts once."""
    distances = _relative_distances(x, centroids)  # (R, C, N)
    # One-hot by comparison: several times faster than argmin. In a tie the first cluster wins.
    owner = distances == distances.amin(1, keepdim=True)
    for c in range(1, centroids.shape[1]):
        owner[:, c] &= ~owner[:, :c].any(1)
    share = owner.to(w.dtype).mul_(w)  # (R, C, N)
    mass = share.sum(-1, keepdim=True)  # (R, C, 1)
    moved = (share.flatten(0, 1) @ x).view_as(centroids) / mass.clamp_min(torch.finfo(w.dtype).tiny)
    empty = (mass[..., 0] == 0).nonzero().tolist()
    if empty:
        unserved = _distances(x, centroids).amin(1) * w  # (R, N)
        for r, c in empty:
            worst = unserved[r].argmax()
            moved[r, c] = x[worst]
            unserved[r, worst] = 0  # a second empty cluster takes the next worst
    return moved


def _plus_plus(
    x: Tensor, w: Tensor, clusters: int, restarts: int, random: torch.Generator
) -> Tensor:
    """Draw k-means++ starts (R, C, K).

    Each next start is drawn with probability proportional to weight times squared distance.
    """
    chance = w.expand(restarts, -1)  # (R, N)
    nearest = torch.full_like(chance, torch.inf)
    starts: list[Tensor] = []
    while True:
        # float64: a float32 cumulative sum over 10^5 bins would lose the quiet bins.
        cumulative = chance.cumsum(-1, dtype=torch.float64)
        draw = torch.rand(restarts, 1, generator=random, dtype=torch.float64).to(x.device)
        chosen = torch.searchsorted(cumulative, draw * cumulative[:, -1:], right=True)
        starts.append(x[chosen[:, 0].clamp_max(len(x) - 1)])  # (R, K)
        if len(starts) == clusters:
            return torch.stack(starts, 1)
        nearest = torch.minimum(nearest, _distances(x, starts[-1][:, None])[:, 0])
        spread = nearest * w
        # Fewer different points than clusters: any point serves as the next start.
        chance = torch.where(spread.sum(-1, keepdim=True) > 0, spread, w)


# Weight of a centroid's previous position in its update, as a share of the item's weight. Fixed
# points do not change, and a cluster without bins keeps its position instead of dividing by zero.
INERTIA = 1e-6
SAMPLE = 4096  # bins of an item that `hard_start` clusters; the soft steps use all bins


def soft_kmeans(
    points: Tensor,
    centroids: Tensor,
    weights: Tensor,
    alpha: float | Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Run a fixed number of steps of soft k-means, differentiable by points, centroids and alpha.

    Each step moves a centroid to its mean of the points, weighted by weight times responsibility.
    For large alpha a step approaches a step of Lloyd's algorithm (hard k-means). Points without
    weight move no centroid; in an item without weight the centroids stay. Time and memory grow
    with N*C*K.

    Args:
        points: (B, N, K).
        centroids: (B, C, K), start positions.
        weights: (B, N), at least zero; without gradient.
        alpha: hardness, above zero.
        steps: number of steps.

    Returns:
        Centroids (B, C, K), and the responsibilities (B, C, N) of all points for these centroids:
        softmax over c of -alpha |v - mu_c|², summing to one over C.

    Raises:
        ValueError: the shapes do not agree.

    Source: Isik et al. 2016, section 2.4.
    """
    if points.ndim != 3 or weights.shape != points.shape[:2]:
        raise ValueError(
            "points must be (B, N, K) and weights (B, N); "
            f"got {tuple(points.shape)} and {tuple(weights.shape)}"
        )
    if centroids.ndim != 3 or centroids.shape[::2] != points.shape[::2]:
        raise ValueError(
            f"centroids must be (B, C, K) for points {tuple(points.shape)}; "
            f"got {tuple(centroids.shape)}"
        )
    # Under autocast the products would run in bfloat16, too coarse for small distances.
    with torch.autocast(points.device.type, enabled=False):
        dtype = torch.promote_types(points.dtype, torch.float32)
        points, centroids = points.to(dtype), centroids.to(dtype)
        weights = weights.detach().to(dtype)
        total = weights.sum(-1, keepdim=True)  # (B, 1)
        shares = (weights / torch.where(total > 0, total, 1)).unsqueeze(1)  # (B, 1, N)
        for _ in range(steps):
            pull = shares * _responsibilities(points, centroids, alpha)  # (B, C, N)
            mass = pull.sum(-1, keepdim=True)  # (B, C, 1)
            centroids = (pull @ points + INERTIA * centroids) / (mass + INERTIA)
        return centroids, _responsibilities(points, centroids, alpha)


def following_kmeans(
    points: Tensor,
    num_clusters: int,
    weights: Tensor,
    alpha: float | Tensor,
    steps: int,
    block: int,
) -> Tensor:
    """Compute responsibilities as in a stream, for each block from the centroids before it.

    Centroids start with hard k-means on the first block; the first block uses these centroids
    itself. Before each block they move from their previous positions, so no two clusters swap
    places. Differentiable by points and alpha.

    Args:
        points: (B, N, K), in order of time.
        num_clusters: number of clusters C.
        weights: (B, N), at least zero.
        alpha: as for `soft_kmeans`.
        steps: as for `soft_kmeans`, for each block.
        block: number of points in a block.

    Returns:
        (B, C, N).

    Source: `soft_kmeans`, on the points so far.
    """
    centroids = hard_start(points[:, :block], num_clusters, weights[:, :block])
    shares = []
    for first in range(0, points.shape[1], block):
        past, now = slice(0, max(first, block)), slice(first, first + block)
        centroids, _ = soft_kmeans(points[:, past], centroids, weights[:, past], alpha, steps)
        _, share = soft_kmeans(points[:, now], centroids, weights[:, now], alpha, 0)
        shares.append(share)
    return torch.cat(shares, -1)


def hard_start(points: Tensor, num_clusters: int, weights: Tensor) -> Tensor:
    """Compute start centroids by hard k-means on a sample, without gradient.

    Points with weight are sampled before those without. The result for an item depends only on this
    item.

    Args:
        points: (B, N, K).
        num_clusters: number of clusters C.
        weights: (B, N), at least zero.

    Returns:
        (B, C, K).
    """
    with torch.no_grad():
        random = torch.Generator().manual_seed(0)
        ranks = torch.rand(points.shape[1], generator=random).to(points.device)  # (N,)
        chosen = (ranks * (weights > 0)).topk(min(SAMPLE, len(ranks)), dim=-1).indices  # (B, n)
        sample = points.gather(1, chosen.unsqueeze(-1).expand(-1, -1, points.shape[-1]))
        return kmeans(sample, num_clusters, weights.gather(1, chosen)).centroids


def _responsibilities(points: Tensor, centroids: Tensor, alpha: float | Tensor) -> Tensor:
    """Return the softmax over c of -alpha |v - mu_c|²: (B, N, K), (B, C, K) -> (B, C, N).

    Distances are relative to the distance to the mean m of the centroids: |v - m|² - |v - mu|² =
    2 v.(mu - m) - (mu - m).(mu + m). So large squares common to all centroids cost no precision.
    """
    middle = centroids.mean(1, keepdim=True).detach()  # (B, 1, K)
    apart = centroids - middle
    offset = (apart * (centroids + middle)).sum(-1, keepdim=True)  # (B, C, 1)
    return (alpha * (2 * apart @ points.mT - offset)).softmax(1)
