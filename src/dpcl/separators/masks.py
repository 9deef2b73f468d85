"""Clustered embeddings of a recording: their sample, their centroids and their masks.

The embeddings of all windows of a recording are sampled: one clustering serves all of them. Where a
single source is active, the means of short stretches give the centroids. Masks come from the
centroids and from mask heads: order, combination, activity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.kmeans import kmeans
from dpcl.errors import FLOOR_DB
from dpcl.model import MaskSettings
from dpcl.signal.stft import Windows

POINTS = 200_000  # approximate number of embeddings that are clustered
STRETCH = 0.5  # s, length of a stretch, in which one source may be alone
# Frames from one sampled frame to the next, at most. Larger steps leave a stretch too few frames to
# show that one source is alone in it; whole stretches are skipped instead.
THINNEST = 8
SPARSEST = 20  # frames of a window per sampled frame, at most
QUIET_DB = -50.0  # loudest bin of a window, relative to the recording's: below it, no weight

# Share of the audible bins near a frame from which a source counts as fully active: ENOUGH of all
# bins for two or three sources, EVEN of an even share for more.
ENOUGH = 0.3
EVEN = 0.9
LEAST = 1e-3  # activity of a source that owns no bin
SILENT = 1e-5  # least activity in `gate`
STEPS = 3  # number of updates of shares and masks
STRIDE = 4  # frames from one activity estimate to the next

KEPT = 0.5  # share of the stretches that is clustered: the ones with the smallest spread
FAINTEST = 0.1  # least weight of a stretch that counts, relative to the median stretch
# Least number of clustered stretches per cluster: in less time talkers hardly take turns.
# With fewer stretches, all points are clustered.
FEWEST = 20
LOOSEST = 1.4  # largest inertia that is accepted, relative to k-means on all points
JUDGES = 4  # stride: every 4th point enters that comparison, which saves most of its time


@dataclass(frozen=True)
class Sample:
    """Sample of the embeddings of one window.

    Attributes:
        points: embeddings (n, K).
        weights: (n,); each point also carries the weight of the points skipped for it.
        frames: (n,), frame of each point in the recording.
        loudest: largest magnitude of the window.
    """

    points: Tensor
    weights: Tensor
    frames: Tensor
    loudest: float


@dataclass(frozen=True)
class Sampling:
    """Choice of the frames and bins that are sampled.

    Attributes:
        windows: windows of the recording; frames are numbered window by window, overlaps twice.
        bins: number of bins F of a frame.
        stretch: number of frames of a stretch.
    """

    windows: Windows
    bins: int
    stretch: int

    def sample(
        self,
        window: int,
        encoded: Tensor,
        magnitude: Tensor,
        weights: Tensor,
        embed: Callable[[Tensor], Tensor],
    ) -> Sample:
        """Sample the embeddings of one window.

        Bins without weight are skipped, unless the recording is so short that all bins are taken.

        Args:
            window: number of the window, from 0.
            encoded: encoded frames (L, H).
            magnitude: (L, F).
            weights: (L, F).
            embed: function from encoded frames (1, l, H) to embeddings (1, l*F, K).

        Returns:
            The sample.
        """
        first, loudest = window * self.windows.length, float(magnitude.amax())
        wanted = POINTS // self.windows.count
        if wanted >= weights.numel():
            frames = torch.arange(weights.numel()) // self.bins
            return Sample(embed(encoded[None])[0], weights.flatten(), first + frames, loudest)
        random = torch.Generator().manual_seed(window)
        frames = self._frames(random)
        chosen = weights[frames].flatten()
        audible = chosen.nonzero()[:, 0]
        picked = audible[torch.randperm(len(audible), generator=random)[:wanted]]
        share = weights.sum() / chosen[picked].sum().clamp_min(torch.finfo(weights.dtype).tiny)
        points = embed(encoded[None, frames])[0, picked]
        numbers = first + frames[picked // self.bins]
        return Sample(points, chosen[picked] * share, numbers, loudest)

    def stretches(self, frames: Tensor) -> Tensor:
        """Return the number of the stretch of each frame (n,); no stretch spans two windows."""
        length = self.windows.length
        return frames // length * length + frames % length // self.stretch

    def _frames(self, random: torch.Generator) -> Tensor:
        """Choose the frames (n,) of a window that are sampled.

        Every frame costs the embeddings of all its bins. The frames hold about four times the
        number of points that are needed. They are evenly spaced, or fill some stretches evenly.
        """
        bins = self.windows.length * self.bins
        every = min(SPARSEST, max(1, bins * self.windows.count // (4 * POINTS)))
        spaced = min(every, THINNEST)
        frames = torch.arange(spaced // 2, self.windows.length, spaced)
        if every == spaced:
            return frames
        numbers = frames // self.stretch
        share = spaced / every
        order = torch.randperm(int(numbers[-1]) + 1, generator=random)
        taken = order[: max(1, round(share * len(order)))]
        return frames[torch.isin(numbers, taken)]


def join_samples(samples: Sequence[Sample], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Join the samples of all windows.

    Points of windows far quieter than the recording get no weight.

    Args:
        samples: samples of all windows, in order.
        size: values K of an embedding.

    Returns:
        Points (N, K), weights (N,) and frames (N,); for a silent recording one point without
        weight.
    """
    points = torch.cat([sample.points for sample in samples])
    if not len(points):
        return torch.zeros(1, size), torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    least = max(sample.loudest for sample in samples) * 10 ** (QUIET_DB / 20)
    weights = torch.cat([sample.weights * (sample.loudest >= least) for sample in samples])
    return points, weights, torch.cat([sample.frames for sample in samples])


def masks_from_centroids(embeddings: Tensor, centroids: Tensor, settings: MaskSettings) -> Tensor:
    """Compute masks from the distances of embeddings to centroids.

    Binary masks (sharpness None) give each bin to the nearest centroid. Soft masks share a bin by
    its similarity to the centroids, which loses less where the network is uncertain.

    Args:
        embeddings: (B, N, K).
        centroids: (B, C, K).
        settings: sharpness and similarity.

    Returns:
        Masks (B, C, N), summing to one in each bin.
    """
    if settings.sharpness is None:
        distances = torch.cdist(embeddings, centroids)  # (B, N, C)
        nearest = distances.argmin(-1)
        return functional.one_hot(nearest, centroids.shape[1]).to(embeddings.dtype).mT
    return mask_logits(embeddings, centroids, settings).softmax(1)


def mask_logits(embeddings: Tensor, centroids: Tensor, settings: MaskSettings) -> Tensor:
    """Compute the log of soft masks, up to a constant of each bin.

    Args:
        embeddings: (B, N, K).
        centroids: (B, C, K).
        settings: sharpness and similarity.

    Returns:
        Logits (B, C, N).
    """
    if settings.similarity == "cosine":
        centroids = functional.normalize(centroids, dim=-1)
    return (settings.sharpness or 1.0) * (centroids @ embeddings.mT)


def match_order(masks: Tensor, clustered: Tensor) -> Tensor:
    """Reorder the masks of each item so that they agree best with other masks.

    Agreement is the sum over bins of the products of both masks, each minus an even share. So bins
    in which neither is certain do not count.

    Args:
        masks: (B, C, ...).
        clustered: (B, C, ...), masks of the same sources in the order that is wanted.

    Returns:
        Masks (B, C, ...) in that order.

    Example:
        >>> masks = torch.tensor([[[0.9, 0.2], [0.1, 0.8]]])
        >>> match_order(masks, masks.flip(1))
        tensor([[[0.1000, 0.8000],
                 [0.9000, 0.2000]]])
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and few networks need it

    share = 1 / masks.shape[1]
    own, wanted = (x.flatten(2) - share for x in (masks, clustered))  # (B, C, N)
    agreement = (wanted @ own.mT).numpy(force=True)  # (B, C, C)
    orders = [linear_sum_assignment(item, maximize=True)[1] for item in agreement]
    return torch.stack([item[order] for item, order in zip(masks, orders, strict=True)])


def geometric_mean(masks: Tensor, clustered: Tensor) -> Tensor:
    """Return the geometric mean of two sets of masks (B, C, ...), summing to one in each bin."""
    return (0.5 * (masks.clamp_min(1e-6).log() + clustered.clamp_min(1e-6).log())).softmax(1)


def active_masks(scores: Tensor, audible: Tensor, reach: int, floor: float = FLOOR_DB) -> Tensor:
    """Compute masks in which sources with few bins near a frame are attenuated.

    The share of a source in the audible bins within reach, up to ENOUGH of them, scales its masks.
    New masks give new shares, STEPS times. Active sources stay unchanged: without the limit, shares
    would take from the weaker of them and give to the stronger.

    Args:
        scores: (..., C, L, F), log of the masks, up to a term that all sources share.
        audible: (..., L, F), 1 for the bins that count, 0 for the others.
        reach: frames on each side of a frame.
        floor: level in dB to which inactive sources are attenuated.

    Returns:
        Masks (..., C, L, F), summing to one in each bin.

    Source: mixing proportions of soft k-means (expectation maximisation), local and limited.
    """
    sources = scores.shape[-3]
    enough = min(ENOUGH, EVEN / sources)
    strided, counts = scores[..., ::STRIDE, :], audible[..., ::STRIDE, :].unsqueeze(-3)
    reach = reach // STRIDE
    activity = scores.new_ones(*strided.shape[:-1], 1)  # (..., C, L / STRIDE, 1)
    for _ in range(STEPS):
        owned = ((strided + activity.log()).softmax(-3) * counts).sum(-1)  # (..., C, L / STRIDE)
        around = functional.avg_pool1d(
            functional.pad(owned.flatten(0, -2), (reach, reach)), 2 * reach + 1, 1
        ).view_as(owned)
        share = around / around.sum(-2, keepdim=True).clamp_min(torch.finfo(owned.dtype).tiny)
        activity = (share / enough).clamp(LEAST, 1).unsqueeze(-1)
    return gate(scores, activity.squeeze(-1).log(), STRIDE, floor)


def gate(scores: Tensor, activity: Tensor, stride: int, floor: float = FLOOR_DB) -> Tensor:
    """Compute masks from scores and activity.

    Args:
        scores: (..., C, L, F), log of the masks, up to a term that all sources share.
        activity: (..., C, l), log activity of every stride-th frame; linear in between, so that
            sources do not begin abruptly.
        stride: frames from one activity to the next.
        floor: level in dB to which inactive sources are attenuated.

    Returns:
        Masks (..., C, L, F), summing to one in each bin.
    """
    limited = activity.clamp_min(math.log(SILENT))
    following = torch.cat([limited[..., 1:], limited[..., -1:]], -1)
    place = torch.arange(stride, device=scores.device) / stride
    per_frame = torch.lerp(limited.unsqueeze(-1), following.unsqueeze(-1), place.to(limited))
    masks = (scores + per_frame.flatten(-2)[..., : scores.shape[-2], None]).softmax(-3)
    return raise_to_floor(masks, scores.softmax(-3), floor)


def raise_to_floor(masks: Tensor, ungated: Tensor, floor: float) -> Tensor:
    """Raise the masks that a gate has attenuated below a floor.

    Args:
        masks: (..., C, L, F).
        ungated: (..., C, L, F), masks without the gate; masks that are lower without it stay low.
        floor: in dB.

    Returns:
        Masks (..., C, L, F), summing to one in each bin.

    Example:
        >>> raise_to_floor(torch.tensor([[[1.0]], [[0.0]]]), torch.full((2, 1, 1), 0.5), -20)
        tensor([[[0.9091]],
        <BLANKLINE>
                [[0.0909]]])
    """
    raised = torch.maximum(masks, ungated.clamp_max(10 ** (floor / 20)))
    return raised / raised.sum(-3, keepdim=True)


def solo_centroids(
    points: Tensor,
    weights: Tensor,
    stretches: Tensor,
    num_clusters: int,
    whitening: Tensor | None = None,
) -> Tensor:
    """Compute centroids by k-means on the means of the stretches in which one source is active.

    The points of a single source lie close together. So the half of the stretches with the
    smallest spread is clustered, with equal weights. k-means on all points would be drawn towards
    points between the sources wherever sources overlap, and by the loudest talker.

    Falls back to k-means on all points in two cases: there are too few stretches, or the centroids
    clearly do not fit the points, for instance because one source is never alone.

    Args:
        points: (N, K).
        weights: (N,), at least zero.
        stretches: (N,), number of the short stretch of time of each point; any integers.
        num_clusters: number of centroids C.
        whitening: (K, K) for the means, see `whiten`; None for no whitening.

    Returns:
        (C, K).
    """
    numbers, index = torch.unique(stretches, return_inverse=True)
    weights = weights.to(points.dtype)
    mass = points.new_zeros(len(numbers)).index_add_(0, index, weights)
    sums = points.new_zeros(len(numbers), points.shape[1])
    sums.index_add_(0, index, weights.unsqueeze(-1) * points)
    squares = points.new_zeros(len(numbers)).index_add_(0, index, weights * points.square().sum(-1))
    counted = mass > 0
    if counted.any():
        counted &= mass >= FAINTEST * mass[counted].median()
    means = sums[counted] / mass[counted].unsqueeze(-1)
    spread = squares[counted] / mass[counted] - means.square().sum(-1)
    if len(means) * KEPT < FEWEST * num_clusters:
        return kmeans(points, num_clusters, weights).centroids
    compact = spread <= spread.quantile(KEPT)
    solo = means[compact]
    whitened = solo if whitening is None else solo @ whitening
    clusters = kmeans(whitened, num_clusters, restarts=16).labels
    centroids = torch.stack([solo[clusters == number].mean(0) for number in range(num_clusters)])
    sample, sample_weights = points[::JUDGES], weights[::JUDGES]
    inertia = sample_weights @ torch.cdist(sample, centroids).amin(-1).square()
    if inertia <= LOOSEST * kmeans(sample, num_clusters, sample_weights).inertia:
        return centroids
    return kmeans(points, num_clusters, weights).centroids


def whiten(scatter: Tensor, floor: float = 0.3) -> Tensor:
    """Compute the inverse square root of the scatter of stretch means around their source's mean.

    The drift of a voice in a conversation, learned on other talkers, is the same for all talkers.
    Differences along those directions say little about the talker.

    Args:
        scatter: (K, K).
        floor: variance added to every direction, as a share of the mean variance. It allows for
            means of few points.

    Returns:
        (K, K).

    Source: within-class covariance normalisation, Hatch, Kajarekar and Stolcke 2006.
    """
    values, vectors = torch.linalg.eigh(scatter)
    root: Tensor = (vectors * (values + floor * values.mean()).rsqrt()) @ vectors.mT
    return root
