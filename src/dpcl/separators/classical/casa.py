"""Computational auditory scene analysis (CASA): segments, grouped by pitch and timbre."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from dpcl.separators.classical.auditory import LAGS, AuditorySeparator, Scene
from dpcl.separators.classical.voices import (
    APERIODIC,
    Contour,
    contours,
    follow_voices,
    harmonicity,
)

SMOOTHING = (0.25, 0.5, 0.25)  # weights of neighbouring frames, 16 ms apart

COEFFICIENTS = 12  # coefficients of the gammatone cepstrum, without the first, which is the level
TIMBRE = 0.5  # weight of a coefficient; the log pitch has weight 1, and all have unit variance
TOGETHER = 3.0  # cost per frame of two contours of one talker at the same time
STARTS = 16  # starts of the local search
SWEEPS = 8  # passes of the local search over all contours

# These three values were chosen on the validation list.
SHARPNESS = 3.0  # sharpness of the masks, by difference of periodicity
TIMBRE_SHARPNESS = 10.0  # sharpness of the masks under which timbre is measured
COMMON = 0.6  # weight of the mean of its segment in a unit's evidence


def level_changes(power: Tensor, floor: float = 1e-5) -> Tensor:
    """Compute the rise of each channel's level, in dB a frame; falls are negative.

    Args:
        power: (channels, L), relative to the loudest unit.
        floor: smallest power that is distinguished.

    Returns:
        Changes (channels, L) from the previous frame, of the level smoothed over frames.

    Source: Hu and Wang 2007.
    """
    levels = 10 * power.clamp_min(floor).log10()
    padded = torch.nn.functional.pad(levels[:, None], (1, 1), mode="replicate")
    smooth = torch.nn.functional.conv1d(padded, levels.new_tensor([[SMOOTHING]]))[:, 0]
    return smooth.diff(dim=1, prepend=smooth[:, :1])


def segments(
    audible: Tensor, changes: Tensor, alike: Tensor, edge: float = 2.0, likeness: float = 0.99
) -> Tensor:
    """Number the segments of a scene.

    A stretch of a channel runs from an onset to an offset or to the next onset. Onsets and offsets
    are peaks of the level change of more than `edge`. Stretches of neighbouring channels are one
    segment if their mean correlation, over the frames of both, exceeds `likeness`.

    Args:
        audible: (channels, L) bool, units that are audible.
        changes: (channels, L) in dB a frame, from `level_changes`.
        alike: (channels, L), from `cross_channel_correlation`.
        edge: least level change at a border, in dB a frame.
        likeness: least mean correlation of stretches of one segment.

    Returns:
        Numbers (channels, L), int64 from 0; -1 for inaudible units.

    Sources: Hu and Wang 2004 and 2007 (onsets and offsets), Wang and Brown 1999 (cross-channel
    correlation).
    """
    channels, frames = audible.shape
    steep = changes.abs()
    before, after = steep.roll(1, 1), steep.roll(-1, 1)
    borders = (steep > edge) & (steep >= before) & (steep > after)
    starts = audible & (borders | ~audible.roll(1, 1))
    starts[:, 0] = audible[:, 0]
    runs = (starts.flatten().cumsum(0) - 1).view(channels, frames)
    count = int(starts.sum())
    both = audible[:-1] & audible[1:]
    upper, lower = runs[:-1][both].numpy(), runs[1:][both].numpy()
    shape = (max(count, 1), max(count, 1))
    total = coo_matrix((alike[:-1][both].double().numpy(), (upper, lower)), shape).tocsr()
    shared = coo_matrix((np.ones(len(upper)), (upper, lower)), shape).tocsr()
    _, labels = connected_components(total - likeness * shared > 0, directed=False)
    return torch.where(audible, torch.from_numpy(labels).long()[runs.clamp(min=0)], -1)


def voice_features(
    scene: Scene, tracks: Tensor, masks: Tensor, found: Sequence[Contour]
) -> tuple[Tensor, Tensor]:
    """Compute the features of K contours.

    Features are means over frames of the log pitch and of the gammatone cepstrum: the cosine
    transform over channels of the cubic root of the power under the mask. Each is divided by its
    spread over all frames of all contours.

    Args:
        scene: scene of the mixture.
        tracks: (L, 2), pitch tracks.
        masks: (2, channels, L), units of each track.
        found: the contours.

    Returns:
        Features (K, 1 + COEFFICIENTS), and the number of frames (K,) of each contour.

    Sources: Zhao, Shao and Wang 2012 (GFCC); Hu and Wang 2013, who group contours by them.
    """
    channels = len(scene.power)
    steps = torch.arange(channels) + 0.5
    cosines = (math.pi / channels * torch.arange(1, COEFFICIENTS + 1)[:, None] * steps).cos()
    cosines = cosines * math.sqrt(2 / channels)
    frames = []
    for contour in found:
        span = slice(contour.start, contour.stop)
        power = masks[contour.track, :, span] * scene.power[:, span]
        power = power / power.sum(0).clamp_min(torch.finfo(power.dtype).tiny)
        timbre = (cosines @ power.pow(1 / 3)).T  # (frames, COEFFICIENTS)
        pitch = -LAGS[tracks[span, contour.track]].log()[:, None]
        frames.append(torch.cat([pitch, timbre], 1))
    joined = torch.cat(frames)
    joined = joined - joined.mean(0)
    spread = joined.square().mean(0).sqrt().clamp_min(1e-6)
    weights = torch.tensor([1.0] + [TIMBRE] * COEFFICIENTS)
    lengths = [len(part) for part in frames]
    scaled = torch.split_with_sizes(joined / spread * weights, lengths)
    return torch.stack([part.mean(0) for part in scaled]), torch.tensor(lengths).float()


def group_contours(
    features: Tensor, lengths: Tensor, found: Sequence[Contour], talkers: int
) -> Tensor:
    """Assign each of K contours to a talker.

    The assignment has the least scatter within talkers, where every frame counts once, plus a price
    for overlapping contours of one talker. Local search starts from the tracks themselves and from
    random assignments.

    Args:
        features: (K, D).
        lengths: (K,), number of frames of each contour.
        found: the contours.
        talkers: number of talkers C.

    Returns:
        Talkers 0 ... C - 1 (K,).

    Source: for features whitened by their total scatter this is the trace criterion of Hu and Wang
    2013; local search replaces their beam search.
    """
    starts = torch.tensor([contour.start for contour in found])
    stops = torch.tensor([contour.stop for contour in found])
    overlaps = torch.minimum(stops[:, None], stops) - torch.maximum(starts[:, None], starts)
    price = TOGETHER * overlaps.clamp(min=0).float().fill_diagonal_(0)
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(talkers, (STARTS, len(found)), generator=random)  # (R, K)
    labels[0] = torch.tensor([contour.track for contour in found]).clamp(max=talkers - 1)
    order = lengths.argsort(descending=True).tolist()
    for _ in range(SWEEPS):
        scatter, shares = _scatter(features, lengths, labels, talkers)
        for contour in order:
            own = (scatter[:, contour] + price[contour] @ shares).argmin(-1)  # (R,)
            labels[:, contour] = own
            shares[:, contour] = torch.nn.functional.one_hot(own, talkers).float()
    scatter, shares = _scatter(features, lengths, labels, talkers)
    costs = (shares * (scatter + price @ shares / 2)).sum((1, 2))
    return labels[costs.argmin()]


def _scatter(
    features: Tensor, lengths: Tensor, labels: Tensor, talkers: int
) -> tuple[Tensor, Tensor]:
    """Return squared distances to talkers' means times lengths, and one-hot labels: (R, K, C)."""
    shares = torch.nn.functional.one_hot(labels, talkers).float()
    weighted = shares * lengths[:, None]
    totals = weighted.sum(1)[..., None].clamp_min(1e-9)  # (R, C, 1)
    means = weighted.transpose(1, 2) @ features / totals  # (R, C, D)
    distances = (features[:, None] - means[:, None]).square().sum(-1)  # (R, K, C)
    return distances * lengths[:, None], shares


class Casa(AuditorySeparator):
    """Separator by a small system of auditory scene analysis, without learning.

    Gammatone filterbank and correlogram come first. Two pitches and their masks are then tracked in
    turns (simultaneous grouping; Wang and Brown 2006; Hu and Wang 2010). Segments between onsets
    and offsets share their evidence (Hu and Wang 2004, 2007). Contours are clustered into talkers
    by pitch and gammatone cepstra (sequential grouping; Hu and Wang 2013).
    At most two talkers are voiced at once, also if more sources are requested. The published
    systems assign a whole unit to one talker. Here masks are soft, a softmax of the evidence,
    because a wrong half costs less.
    """

    def unit_masks(self, scene: Scene, talkers: int) -> Tensor:
        """Estimate the masks (C, channels, L) of the units of a scene."""
        tracks = follow_voices(scene)
        found = contours(tracks)
        evidence = scene.power.new_full((talkers, *scene.power.shape), APERIODIC)
        if found:
            periodicity = harmonicity(scene, tracks)  # (2, channels, L)
            sharp = (TIMBRE_SHARPNESS * periodicity).softmax(0)
            features, lengths = voice_features(scene, tracks, sharp, found)
            owners = group_contours(features, lengths, found, talkers)
            for contour, owner in zip(found, owners.tolist(), strict=True):
                span = slice(contour.start, contour.stop)
                evidence[owner, :, span] = periodicity[contour.track, :, span]
        parts = segments(scene.audible, level_changes(scene.power), scene.alike)
        return (SHARPNESS * _shared(evidence, parts)).softmax(0)


def _shared(evidence: Tensor, parts: Tensor) -> Tensor:
    """Move evidence (C, channels, L) towards its mean over each segment of `parts`."""
    index = parts.flatten() + 1  # inaudible units are segment 0, left unchanged
    count = torch.bincount(index).clamp_min(1)
    flat = evidence.flatten(1)
    sums = flat.new_zeros(len(flat), len(count)).index_add(1, index, flat)
    means = (sums / count)[:, index]
    return torch.where(index > 0, torch.lerp(flat, means, COMMON), flat).view_as(evidence)
