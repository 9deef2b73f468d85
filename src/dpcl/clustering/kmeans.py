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
    """The best of the restarts for every item."""

    centroids: Tensor  # (..., C, K)
    labels: Tensor  # (..., N) int64 in [0, C)
    inertia: Tensor  # (...) weighted sum of squared distances to the own centroid


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
    """Lloyd's algorithm from k-means++ starts, all restarts in the same products.

    points: (N, K) or (B, N, K); weights: (N,) or (B, N), at least zero, None for one each. A point
    of weight zero gets a label but pulls no centroid; where all weigh zero, all count the same.
    metric: "cosine" puts points and centroids on the unit sphere (spherical k-means).
    A restart stops when none of its centroids moves by more than `tolerance`, in units of the
    largest coordinate of a point seen from the mean of all. An emptied cluster starts again at
    the point that is worst served. The heaviest cluster comes first, so that the order does not
    hang on which restart was best by a rounding error. An item's result depends neither on the
    others of its batch nor on torch's global random numbers.
    Raises ValueError for shapes that do not belong together, no points, or fewer than 1 cluster.
    Sources: Lloyd 1982; Arthur and Vassilvitskii 2007.
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
    """points (N, K), weights (N,)."""
    points = points.to(torch.promote_types(points.dtype, torch.float32))
    w = weights.to(points.dtype)
    heard = w > 0
    if not heard.any():
        w, heard = torch.ones_like(w), ~heard
    w = w[heard]  # (M,)
    if metric == "cosine":
        points = functional.normalize(points, dim=-1)
        x = points[heard]  # (M, K)
    else:
        # Distances come from differences of squares: far from the origin they would be rounding.
        x = points[heard]
        centre = (w / w.sum()) @ x  # (K,)
        size = (x - centre).abs().amax()
        size = torch.where(size > 0, size, torch.ones_like(size))
        points, x = (points - centre) / size, (x - centre) / size
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
    mass = functional.one_hot(labels[heard], clusters).to(w.dtype).T @ w  # (C,)
    order = mass.argsort(descending=True, stable=True)
    centroids, labels = centroids[order], order.argsort()[labels]
    if metric == "cosine":
        return Clusters(centroids, labels, inertia)
    return Clusters(centroids * size + centre, labels, inertia * size.square())


def _distances(x: Tensor, centroids: Tensor) -> Tensor:
    """points (N, K), centroids (R, C, K) -> squared distances (R, C, N)."""
    return (_relative_distances(x, centroids) + x.square().sum(-1)).clamp_min_(0)


def _relative_distances(x: Tensor, centroids: Tensor) -> Tensor:
    """Squared distances less |x|², which is the same for all centroids: |c|² - 2 x.c, (R, C, N)."""
    flat = centroids.flatten(0, 1)  # (R*C, K)
    relative = torch.addmm(flat.square().sum(-1, keepdim=True), flat, x.T, alpha=-2)
    return relative.view(*centroids.shape[:2], -1)


def _step(x: Tensor, w: Tensor, centroids: Tensor) -> Tensor:
    """One assignment and update of all restarts."""
    distances = _relative_distances(x, centroids)  # (R, C, N)
    # One-hot by comparison: several times as fast as an argmin. The first of equals is the owner.
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
    """k-means++: each next start is drawn in proportion to weight times squared distance."""
    chance = w.expand(restarts, -1)  # (R, N)
    nearest = torch.full_like(chance, torch.inf)
    starts: list[Tensor] = []
    while True:
        # Drawn in float64: a float32 cumulative sum over 10^5 bins would lose the quiet ones.
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


# A centroid is pulled towards where it was by so much of an item's weight. Fixed points stay what
# they are, and a cluster without bins stays where it was instead of dividing by nothing.
INERTIA = 1e-6
SAMPLE = 4096  # bins of an item that the hard start clusters: the steps after it see all of them


def soft_kmeans(
    points: Tensor,
    centroids: Tensor,
    weights: Tensor,
    alpha: float | Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """So many steps of soft k-means, with a gradient for points, centroids and alpha.

    points: (B, N, K); centroids: (B, C, K), where they start; weights: (B, N), at least zero, no
    gradient; alpha: how hard, above zero
    returns centroids (B, C, K) and responsibilities (B, C, N), which add up to one over C, of all
    points for these centroids: softmax over c of -alpha |v - mu_c|².
    Each step moves a centroid to its mean of the points, weighted by weight times responsibility.
    Points without weight pull no centroid; where none has any, the centroids stay. In the limit of
    a large alpha a step is one of Lloyd's (hard k-means). Time and memory grow with N*C*K.
    Source: Isik et al. 2016, section 2.4. Raises ValueError for shapes that do not fit.
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
    """Responsibilities (B, C, N) as a stream has them: each block's for the centroids before it.

    points: (B, N, K), in the order of time; weights: (B, N), at least zero; alpha, steps: as for
    soft_kmeans; block: points. Centroids begin with hard k-means on the first block, whose own
    they are, and move before each block from where they were, so that no cluster changes places.
    With a gradient for points and alpha. Source: soft_kmeans, on what was heard so far.
    """
    centroids = hard_start(points[:, :block], num_clusters, weights[:, :block])
    shares = []
    for first in range(0, points.shape[1], block):
        heard, now = slice(0, max(first, block)), slice(first, first + block)
        centroids, _ = soft_kmeans(points[:, heard], centroids, weights[:, heard], alpha, steps)
        _, share = soft_kmeans(points[:, now], centroids, weights[:, now], alpha, 0)
        shares.append(share)
    return torch.cat(shares, -1)


def hard_start(points: Tensor, num_clusters: int, weights: Tensor) -> Tensor:
    """Centroids (B, C, K) by hard k-means on a sample, without a gradient.

    points: (B, N, K); weights: (B, N). Points with weight are sampled before those without. An
    item's result depends on the item alone.
    """
    with torch.no_grad():
        random = torch.Generator().manual_seed(0)
        ranks = torch.rand(points.shape[1], generator=random).to(points.device)  # (N,)
        chosen = (ranks * (weights > 0)).topk(min(SAMPLE, len(ranks)), dim=-1).indices  # (B, n)
        sample = points.gather(1, chosen.unsqueeze(-1).expand(-1, -1, points.shape[-1]))
        return kmeans(sample, num_clusters, weights.gather(1, chosen)).centroids


def _responsibilities(points: Tensor, centroids: Tensor, alpha: float | Tensor) -> Tensor:
    """(B, N, K), (B, C, K) -> softmax over c of -alpha |v - mu_c|², (B, C, N).

    Distances are taken relative to that to the centroids' middle, |v - m|² - |v - mu|² =
    2 v.(mu - m) - (mu - m).(mu + m): no squares of what all have in common are rounded off.
    """
    middle = centroids.mean(1, keepdim=True).detach()  # (B, 1, K)
    apart = centroids - middle
    offset = (apart * (centroids + middle)).sum(-1, keepdim=True)  # (B, C, 1)
    return (alpha * (2 * apart @ points.mT - offset)).softmax(1)
