"""k-means on embeddings that come frame by frame: centroids that follow, and never change places.

Nothing is known at first. When enough has been heard, k-means on it gives the first centroids, as
many as are really apart: two halves of one voice are not two sources. What is missing is looked
for in what was heard lately until all are found, so that a source that enters late gets a
centroid of its own; those that are known keep their places. Whose a point is that was heard lately
is asked again at every step, as the centroids become better known; then it is settled, in means
that forget, but only as more of the same is heard: a source that is silent keeps its centroid.
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
RECENT = 4.0  # s, likewise, in which they are looked for, and nothing is settled
POINTS = 4096  # that stand for these seconds: enough, and quick enough to go through them often
BLOCK = 0.2  # s between steps of the centroids
ROUNDS = 3  # of k-means, in each step
MEMORY = 5.0  # s of a source after which what is settled has forgotten all but 1/e
APART = 0.9  # cosine between centroids that are of two sources, at most: 0.7 loses 2.5 dB on valid2


@dataclass(frozen=True)
class OnlineClusters:
    """All that `follow` has to know of what it heard before."""

    centroids: Tensor  # (C, K), zero rows for sources that are not found yet
    settled: Tensor  # (C, K) means of the points that are settled,
    masses: Tensor  # (C,) and the weight behind them
    found: int  # how many of the sources are found
    points: Tensor  # (l, F, K) of the block that is not complete
    weights: Tensor  # (l, F) of the same
    recent: tuple[tuple[Tensor, Tensor, float], ...]  # blocks: points, weights, seconds heard
    heard: float  # s since the last attempt to find sources
    most: float  # the mass at which what is settled begins to forget


def start(num_sources: int, bins: int, embedding: int) -> OnlineClusters:
    """The state before anything was heard, for `bins` F and embeddings of K dimensions."""
    return OnlineClusters(
        centroids=torch.zeros(num_sources, embedding),
        settled=torch.zeros(num_sources, embedding),
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
    Source: MacQueen 1967 (means that follow), with k-means on what is not settled.
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
    recent = (*state.recent, (points[audible], weights[audible], seconds))
    state = replace(state, recent=recent, heard=state.heard + seconds)
    if state.found < len(state.centroids) and state.heard >= AGAIN - hop / 2:
        state = _search(replace(state, heard=0.0))
    while sum(s for _, _, s in state.recent[1:]) >= RECENT:
        state = _settle(state)
    return _refine(state) if state.found else state


def _lately(state: OnlineClusters) -> tuple[Tensor, Tensor]:
    """What was heard lately, (n, K) and its weights (n,): of many points one for some."""
    x = torch.cat([points for points, _, _ in state.recent])
    w = torch.cat([weights for _, weights, _ in state.recent])
    thin = -(-len(x) // POINTS)
    return x[::thin], thin * w[::thin]


def _search(state: OnlineClusters) -> OnlineClusters:
    """Look for the sources that are missing in what was heard lately."""
    x, w = _lately(state)
    wanted = len(state.centroids)
    for count in range(wanted, state.found, -1):
        centroids = kmeans(x, count, w).centroids
        directions = functional.normalize(centroids, dim=-1)
        cosines = directions @ directions.mT - 2 * torch.eye(count)  # the diagonal out of the way
        if count == 1 or cosines.max() <= APART:
            break
    else:
        return state
    known = functional.normalize(state.centroids[: state.found], dim=-1)
    _, order = linear_sum_assignment((known @ directions.mT).numpy(), maximize=True)
    # those that are known keep their places, and the heaviest of the new ones comes next
    places = [*order.tolist(), *(i for i in range(count) if i not in order)]
    return replace(
        state,
        centroids=functional.pad(centroids[places], (0, 0, 0, wanted - count)),
        found=count,
        most=state.most or MEMORY * float(w.sum()) / sum(s for _, _, s in state.recent) / wanted,
    )


def _shares(x: Tensor, w: Tensor, state: OnlineClusters) -> Tensor:
    """The weights (n,) of points (n, K) for the source that each is nearest to, else 0, (C, n)."""
    # The zero rows of those that are missing take what is like none of the found.
    directions = functional.normalize(state.centroids, dim=-1)
    nearest = (directions @ x.mT).argmax(0)
    shares = functional.one_hot(nearest, len(directions)).mT * w
    shares[state.found :] = 0
    return shares


def _settle(state: OnlineClusters) -> OnlineClusters:
    """The oldest of what was heard lately becomes part of what is settled."""
    (x, w, _), *recent = state.recent
    settled, masses = _mean(x, _shares(x, w, state), state)
    return replace(
        state, recent=tuple(recent), settled=settled, masses=masses.clamp(max=state.most)
    )


def _refine(state: OnlineClusters) -> OnlineClusters:
    """Centroids of what is settled and what was heard lately."""
    x, w = _lately(state)
    for _ in range(ROUNDS):
        means, masses = _mean(x, _shares(x, w, state), state)
        means = torch.where(masses[:, None] > 0, means, state.centroids)  # none is lost
        state = replace(state, centroids=means)
    return state


def _mean(x: Tensor, shares: Tensor, state: OnlineClusters) -> tuple[Tensor, Tensor]:
    """Means (C, K) of what is settled and of shares (C, n) in points (n, K), and their masses."""
    masses = state.masses + shares.sum(-1)  # (C,)
    sums = state.settled * state.masses[:, None] + shares @ x
    return sums / masses[:, None].clamp_min(torch.finfo(masses.dtype).tiny), masses
