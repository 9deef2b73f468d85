"""k-means on embeddings that come frame by frame: centroids that follow, and never change places.

Nothing is known at first. When enough has been heard, k-means on it gives the first centroids, as
many as are really apart: two halves of one voice are not two sources. What is missing is looked
for in what was heard lately until all are found, so that a source that enters late gets a
centroid of its own; those that are known keep their places. From then on each centroid is a mean
that forgets, but only as more of the same is heard: a source that is silent keeps its centroid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.kmeans import kmeans

START = 0.2  # s with anything to hear in them before the first clustering
AGAIN = 0.2  # s, likewise, between attempts to find who is missing
RECENT = 4.0  # s, likewise, in which they are looked for
POINTS = 4096  # in which they are looked for: enough, and quick enough to do it often
BLOCK = 0.2  # s between steps of the centroids
MEMORY = 10.0  # s of a source after which its centroid has forgotten all but 1/e
APART = 0.9  # cosine between centroids that are of two sources, at most: 0.7 loses 2.5 dB on valid2
SHARPNESS = 20.0  # of the assignment softmax(sharpness * cosine) that centroids learn from


@dataclass(frozen=True)
class OnlineClusters:
    """All that `follow` has to know of what it heard before."""

    centroids: Tensor  # (C, K), zero rows for sources that are not found yet
    masses: Tensor  # (C,) weight behind each centroid
    found: int  # how many of the sources are found
    points: Tensor  # (l, F, K) of the block that is not complete
    weights: Tensor  # (l, F) of the same
    recent: tuple[tuple[Tensor, Tensor, float], ...]  # blocks: points, weights, seconds heard
    heard: float  # s since the last attempt to find sources
    most: float  # the mass at which a centroid begins to forget


def start(num_sources: int, bins: int, embedding: int) -> OnlineClusters:
    """The state before anything was heard, for `bins` F and embeddings of K dimensions."""
    return OnlineClusters(
        centroids=torch.zeros(num_sources, embedding),
        masses=torch.zeros(num_sources),
        found=0,
        points=torch.zeros(0, bins, embedding),
        weights=torch.zeros(0, bins),
        recent=(),
        heard=AGAIN - START,
        most=0.0,
    )


def follow(
    points: Tensor, weights: Tensor, state: OnlineClusters, hop: float
) -> tuple[Tensor, OnlineClusters]:
    """The centroids that hold in each of the next frames, from what came before them.

    points (L, F, K); weights (L, F), at least zero; hop: seconds from frame to frame. Returns
    (L, C, K) and the state after the last frame. Frames in pieces give the same as all at once.
    Centroids change at whole multiples of BLOCK seconds; frames in which nothing weighs anything
    change nothing. Rows of zeros are sources that are not found yet.
    Sources: MacQueen 1967 (means that follow); Bezdek 1981, in spirit (shared assignment).
    """
    block = max(1, round(BLOCK / hop))
    before = len(state.points)
    points = torch.cat([state.points, points])
    weights = torch.cat([state.weights, weights])
    complete = len(points) // block * block
    centroids = [state.centroids]
    for first in range(0, complete, block):
        part = slice(first, first + block)
        state = _learn(points[part], weights[part], state, hop)
        centroids.append(state.centroids)
    in_force = torch.stack(centroids).repeat_interleave(block, dim=0)[before : len(points)]
    return in_force, replace(
        state, points=points[complete:].clone(), weights=weights[complete:].clone()
    )


def _learn(points: Tensor, weights: Tensor, state: OnlineClusters, hop: float) -> OnlineClusters:
    """The state after one block (M, F, K) with weights (M, F)."""
    audible = weights > 0
    seconds = hop * int(audible.any(-1).sum())
    if not seconds:
        return state
    x, w = points[audible], weights[audible]  # (n, K), (n,)
    if state.found < len(state.centroids):
        recent = (*state.recent, (x, w, seconds))
        while len(recent) > 1 and sum(s for _, _, s in recent[1:]) >= RECENT:
            recent = recent[1:]
        state = replace(state, recent=recent, heard=state.heard + seconds)
        if state.heard >= AGAIN - hop / 2:
            searched = _search(replace(state, heard=0.0))
            if searched.found > state.found:
                return searched  # learned from this block as well
            state = searched
    return _step(x, w, state) if state.found else state


def _search(state: OnlineClusters) -> OnlineClusters:
    """Look for the sources that are missing in what was heard lately."""
    x = torch.cat([points for points, _, _ in state.recent])
    w = torch.cat([weights for _, weights, _ in state.recent])
    thin = -(-len(x) // POINTS)
    x, w = x[::thin], thin * w[::thin]  # each stands for those left out
    wanted = len(state.centroids)
    for count in range(wanted, state.found, -1):
        clusters = kmeans(x, count, w)
        directions = functional.normalize(clusters.centroids, dim=-1)
        cosines = directions @ directions.mT - 2 * torch.eye(count)  # the diagonal out of the way
        if count == 1 or cosines.max() <= APART:
            break
    else:
        return state
    known = functional.normalize(state.centroids[: state.found], dim=-1)
    _, order = linear_sum_assignment((known @ directions.mT).numpy(), maximize=True)
    # those that are known keep their places, and the heaviest of the new ones comes next
    places = [*order.tolist(), *(i for i in range(count) if i not in order)]
    masses = torch.zeros(count).index_add(0, clusters.labels, w)[places]
    most = state.most or MEMORY * float(w.sum()) / sum(s for _, _, s in state.recent) / wanted
    missing = wanted - count
    return replace(
        state,
        centroids=functional.pad(clusters.centroids[places], (0, 0, 0, missing)),
        masses=functional.pad(masses.clamp(max=most), (0, missing)),
        found=count,
        recent=state.recent if missing else (),
        most=most,
    )


def _step(x: Tensor, w: Tensor, state: OnlineClusters) -> OnlineClusters:
    """Each centroid a step towards the mean of its share of points (n, K), weights (n,)."""
    found = state.found
    # The zero rows of those that are missing take what is like none of the found.
    directions = functional.normalize(state.centroids, dim=-1)
    share = (SHARPNESS * (directions @ x.mT)).softmax(0)[:found] * w  # (C', n)
    gained = share.sum(-1)  # (C',)
    total = state.masses[:found] + gained
    moved = (state.centroids[:found] * state.masses[:found, None] + share @ x) / total[:, None]
    missing = len(state.centroids) - found
    return replace(
        state,
        centroids=functional.pad(moved, (0, 0, 0, missing)),
        masses=functional.pad(total.clamp(max=state.most), (0, missing)),
    )
