"""Deep clustering of streams: masks that depend on the current and on past frames only.

Online k-means clusters the embeddings as they arrive, frame by frame. Centroids follow the points
and never swap places. The state starts empty. After 0.2 s with weight, k-means gives the first
centroids: at most one per source, and only as many as lie far enough apart, since two halves of one
voice are not two sources. Missing sources are searched in the points of the last 4 s until all are
found. So a source that enters late gets its own centroid, and the known centroids keep their
places.

Points of the last 4 s are reassigned at every step. Older points are folded into one running
mean per source, which decays only while that source is active.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.kmeans import kmeans
from dpcl.errors import InputError
from dpcl.model import Model
from dpcl.separators.base import WindowSeparator
from dpcl.separators.masks import masks_from_centroids
from dpcl.signal.band import bins_below
from dpcl.signal.features import (
    UNCOUNTED,
    disturbed_frames,
    running_log_magnitude,
    tone_bins,
    weigh,
)

START = 0.2  # s of frames with weight before the first clustering
AGAIN = 0.2  # s of frames with weight between searches for missing sources
RECENT = 4.0  # s of frames with weight that are searched and not settled yet
POINTS = 4096  # upper limit of the points for these seconds: enough, and quick to revisit
BLOCK = 0.2  # s between steps of the centroids
ROUNDS = 3  # k-means rounds in each step
MEMORY = 5.0  # s of activity of a source after which its settled mean has decayed to 1/e
LOUDER = 0.7  # natural log of a bin relative to the level from which it disturbs: 6 dB
APART = 0.9  # largest cosine of the centroids of two sources; 0.7 loses 2.5 dB on valid2


@dataclass(frozen=True)
class StreamState:
    """State of a stream: everything that the masks of the next frames depend on."""

    clusters: OnlineClusters
    network: Any = None  # state of `encode_next`
    loudest: Tensor | None = None  # () natural log of the loudest bin so far
    last: Tensor | None = None  # (1, F), magnitudes of the last frame


class FrameInput(NamedTuple):
    """Input of the network and the clustering from frames."""

    features: Tensor  # (L, F)
    weights: Tensor  # (L, F), of the bins in the clustering
    tones: Tensor  # (L, F), True for bins of tones that are louder than the talkers
    passed: Tensor  # (L,), True for frames that the network gets: silence would change its state
    loudest: Tensor  # () natural log of the loudest bin so far


class OnlineDeepClustering(WindowSeparator):
    """Separator with a causal network, and centroids that follow the embeddings.

    It separates whole mixtures like any other separator, by the same rule frame by frame.
    dpcl.recordings.stream turns it into a stream.

    Args:
        model: model with a causal network and a running level.

    Raises:
        InputError: The network is not causal, or its level is not the running one.
    """

    window_seconds = math.inf  # the state runs from the first frame to the last

    def __init__(self, model: Model) -> None:
        settings = model.settings
        if not model.network.causal or settings.signal.level != "running":
            raise InputError(
                "the model is not causal, or has no running level, and cannot separate a stream;"
                " use `causal`"
            )
        self.model = model
        self.sample_rate = settings.signal.sample_rate
        self.stft = settings.signal.stft()
        self.first = bins_below(self.sample_rate, self.stft.window)  # first bin above 70 Hz

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Estimate the masks of a whole recording, frame by frame."""
        return self.step(spectrum.abs(), self.start(num_sources))[0]

    def start(self, num_sources: int) -> StreamState:
        """Return the state at the start of a stream."""
        return StreamState(
            start(num_sources, self.stft.bins, self.model.settings.network.embedding)
        )

    def step(self, magnitude: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Estimate the masks of the next frames.

        Args:
            magnitude: (L, F).
            state: state after the previous frames.

        Returns:
            Masks (C, L, F) that sum to one, even shares until the sources differ; and the new
            state.
        """
        settings = self.model.settings.masks
        even = 1 / len(state.clusters.centroids)
        with torch.no_grad():
            frames = self._prepare(magnitude, state)
            weights, passed, network = frames.weights, frames.passed, state.network
            embeddings = weights.new_zeros(*weights.shape, self.model.settings.network.embedding)
            if passed.any():
                features = frames.features[passed].float()
                encoded, network = self.model.network.encode_next(features, network)
                embeddings[passed] = self.model.network.embed(encoded[:, None])  # (L, F, K)
            hop = self.stft.hop / self.sample_rate
            centroids, clusters = follow(embeddings, weights, state.clusters, hop)  # (L, C, K)
            masks = masks_from_centroids(embeddings, centroids, settings)  # (L, C, F)
            found = centroids.any(-1).any(-1)  # (L,)
            masks = torch.where(found[:, None, None], masks, even)
            masks[..., : self.first] = even  # no mask modulates rumble
            masks = torch.where(frames.tones[:, None], even, masks)  # nor a tone
        last = magnitude[-1:] if len(magnitude) else state.last
        return masks.transpose(0, 1), StreamState(clusters, network, frames.loudest, last)

    def _prepare(self, magnitude: Tensor, state: StreamState) -> FrameInput:
        """Compute the input of the network and the clustering from the next frames (L, F)."""
        settings = self.model.settings.masks
        # Tones and clicks raise no level and move no centroid: they may come before a talker.
        before = torch.zeros_like(magnitude[:1]) if state.last is None else state.last
        tones = tone_bins(torch.cat([before, magnitude]), self.first)[1:]
        toned = tones.any(-1)
        speech = toned | ~disturbed_frames(magnitude, self.first)
        counted = magnitude * torch.where(speech, 1.0, UNCOUNTED)[:, None]
        counted = torch.where(tones, 0.0, counted)
        hop = self.stft.hop / self.sample_rate
        features, loudest = running_log_magnitude(magnitude, hop, state.loudest, counted)
        loud = features.amax(-1) >= LOUDER  # or the tone is a harmonic of a voice
        tones &= loud[:, None]
        neutral = self.model.network.mean.flatten().expand_as(features)
        features = torch.where(tones, neutral.to(features), features.clamp_max(0.0))
        features[..., : self.first] = neutral[..., : self.first]
        # Levels are relative to the loudest bin so far, like the features; bin_weights would look
        # ahead.
        audible = features >= settings.floor_db / 20 * math.log(10)
        relative = torch.where(audible, features.exp(), torch.zeros_like(features))
        relative[..., : self.first] = 0
        passed = relative.any(-1)
        relative[~speech & (relative.amax(-1) >= 1)] = 0
        relative[tones] = 0
        weights = weigh(relative, settings.weighting)
        # Tones and clicks before the first sound do not reach the network either.
        if state.network is None:
            passed &= (weights.any(-1) & ~toned).cumsum(0) > 0
            weights[~passed] = 0
        return FrameInput(features, weights, tones, passed, loudest)


@dataclass(frozen=True)
class OnlineClusters:
    """State of `follow` between calls."""

    centroids: Tensor  # (C, K), zero rows for sources not found yet
    settled: Tensor  # (C, K), means of the settled points
    masses: Tensor  # (C,), weights of the settled means
    found: int  # number of sources found so far
    points: Tensor  # (l, F, K), frames of the incomplete block
    weights: Tensor  # (l, F), weights of the incomplete block
    recent: tuple[tuple[Tensor, Tensor, float], ...]  # blocks: points, weights, seconds with weight
    unsearched: float  # s of frames with weight since the last search
    mass_limit: float  # weight at which a settled mean begins to decay


def start(num_sources: int, bins: int, embedding: int) -> OnlineClusters:
    """Return the initial state.

    Args:
        num_sources: number of sources C.
        bins: number of STFT bins F.
        embedding: dimension K of the embeddings.

    Returns:
        OnlineClusters without any points.
    """
    return OnlineClusters(
        centroids=torch.zeros(num_sources, embedding),
        settled=torch.zeros(num_sources, embedding),
        masses=torch.zeros(num_sources),
        found=0,
        points=torch.zeros(0, bins, embedding),
        weights=torch.zeros(0, bins),
        recent=(),
        unsearched=AGAIN - START,
        mass_limit=0.0,
    )


def follow(
    points: Tensor, weights: Tensor, state: OnlineClusters, hop: float
) -> tuple[Tensor, OnlineClusters]:
    """Compute the centroids for each of the next frames from the frames before it.

    Frames in pieces give the same result as all at once. Centroids change at whole multiples of
    BLOCK seconds. Frames without weight change nothing.

    Args:
        points: (L, F, K).
        weights: (L, F), at least zero.
        state: the result of `start` or of the previous call.
        hop: seconds between frames.

    Returns:
        Centroids (L, C, K), with rows of zeros for sources not found yet, and the state after the
        last frame.

    Source: MacQueen 1967 (running means), with k-means on the points that are not settled.
    """
    block = max(1, round(BLOCK / hop))
    before = len(state.points)
    points = torch.cat([state.points, points])
    weights = torch.cat([state.weights, weights])
    complete = len(points) // block * block
    centroids = [state.centroids]
    for first in range(0, complete, block):
        part = slice(first, first + block)
        state = _advance(points[part], weights[part], state, hop)
        centroids.append(state.centroids)
    in_force = torch.stack(centroids).repeat_interleave(block, dim=0)[before : len(points)]
    return in_force, replace(
        state, points=points[complete:].clone(), weights=weights[complete:].clone()
    )


def _advance(points: Tensor, weights: Tensor, state: OnlineClusters, hop: float) -> OnlineClusters:
    """Return the state after one block (M, F, K) with weights (M, F)."""
    audible = weights > 0
    seconds = hop * int(audible.any(-1).sum())
    if not seconds:
        return state
    recent = (*state.recent, (points[audible], weights[audible], seconds))
    state = replace(state, recent=recent, unsearched=state.unsearched + seconds)
    if state.found < len(state.centroids) and state.unsearched >= AGAIN - hop / 2:
        state = _search(replace(state, unsearched=0.0))
    while sum(s for _, _, s in state.recent[1:]) >= RECENT:
        state = _settle(state)
    return _refine(state) if state.found else state


def _recent_points(state: OnlineClusters) -> tuple[Tensor, Tensor]:
    """Return the recent points (n, K) and weights (n,), thinned to at most POINTS."""
    x = torch.cat([points for points, _, _ in state.recent])
    w = torch.cat([weights for _, weights, _ in state.recent])
    thin = -(-len(x) // POINTS)
    return x[::thin], thin * w[::thin]


def _search(state: OnlineClusters) -> OnlineClusters:
    """Search the recent points for the missing sources."""
    x, w = _recent_points(state)
    wanted = len(state.centroids)
    for count in range(wanted, state.found, -1):
        centroids = kmeans(x, count, w).centroids
        directions = functional.normalize(centroids, dim=-1)
        cosines = directions @ directions.mT - 2 * torch.eye(count)  # diagonal made negative
        if count == 1 or cosines.max() <= APART:
            break
    else:
        return state
    known = functional.normalize(state.centroids[: state.found], dim=-1)
    _, order = linear_sum_assignment((known @ directions.mT).numpy(), maximize=True)
    # Known sources keep their places, and the heaviest new source comes next.
    places = [*order.tolist(), *(i for i in range(count) if i not in order)]
    return replace(
        state,
        centroids=functional.pad(centroids[places], (0, 0, 0, wanted - count)),
        found=count,
        mass_limit=state.mass_limit
        or MEMORY * float(w.sum()) / sum(s for _, _, s in state.recent) / wanted,
    )


def _shares(x: Tensor, w: Tensor, state: OnlineClusters) -> Tensor:
    """Return the weight of each point (n, K) at its nearest source, else zero: (C, n)."""
    # Zero rows of missing sources attract the points unlike every source found so far.
    directions = functional.normalize(state.centroids, dim=-1)
    nearest = (directions @ x.mT).argmax(0)
    shares = functional.one_hot(nearest, len(directions)).mT * w
    shares[state.found :] = 0
    return shares


def _settle(state: OnlineClusters) -> OnlineClusters:
    """Fold the oldest recent block into the settled means."""
    (x, w, _), *recent = state.recent
    settled, masses = _mean(x, _shares(x, w, state), state)
    return replace(
        state, recent=tuple(recent), settled=settled, masses=masses.clamp(max=state.mass_limit)
    )


def _refine(state: OnlineClusters) -> OnlineClusters:
    """Recompute the centroids from the settled means and the recent points."""
    x, w = _recent_points(state)
    for _ in range(ROUNDS):
        means, masses = _mean(x, _shares(x, w, state), state)
        means = torch.where(masses[:, None] > 0, means, state.centroids)  # no centroid is lost
        state = replace(state, centroids=means)
    return state


def _mean(x: Tensor, shares: Tensor, state: OnlineClusters) -> tuple[Tensor, Tensor]:
    """Return means (C, K) and masses (C,) of settled points and shares (C, n) of points (n, K)."""
    masses = state.masses + shares.sum(-1)  # (C,)
    sums = state.settled * state.masses[:, None] + shares @ x
    return sums / masses[:, None].clamp_min(torch.finfo(masses.dtype).tiny), masses
