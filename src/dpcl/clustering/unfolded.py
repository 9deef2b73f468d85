"""Soft k-means whose steps are layers: a network is trained through the clustering."""

from __future__ import annotations

import torch
from torch import Tensor

from dpcl.clustering.kmeans import kmeans

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
