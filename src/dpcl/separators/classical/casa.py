"""Computational auditory scene analysis (CASA): segments, grouped by pitch and timbre."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from dpcl.separators.base import WindowSeparator
from dpcl.separators.classical.auditory import LAGS, SAMPLE_RATE, STFT_8K, Scene, masks_by_units
from dpcl.separators.classical.voices import (
    APERIODIC,
    Contour,
    contours,
    follow_voices,
    harmonicity,
)

SMOOTHING = (0.25, 0.5, 0.25)  # over frames of 16 ms


def level_changes(power: Tensor, floor: float = 1e-5) -> Tensor:
    """How fast each channel's level rises, in dB a frame; falls are negative.

    power (channels, L), relative to the loudest unit -> (channels, L): the change from the frame
    before, of the level smoothed over frames. Source: Hu and Wang 2007.
    """
    levels = 10 * power.clamp_min(floor).log10()
    padded = torch.nn.functional.pad(levels[:, None], (1, 1), mode="replicate")
    smooth = torch.nn.functional.conv1d(padded, levels.new_tensor([[SMOOTHING]]))[:, 0]
    return smooth.diff(dim=1, prepend=smooth[:, :1])


def segments(
    heard: Tensor, changes: Tensor, alike: Tensor, edge: float = 2.0, likeness: float = 0.99
) -> Tensor:
    """Number the segments of a scene.

    heard: (channels, L) of which units there is anything; changes: (channels, L) from
    `level_changes`; alike: (channels, L) from `cross_channel_correlation`. Returns (channels, L)
    int64 from 0 on, -1 where nothing is heard.

    A channel's stretch runs from an onset to an offset or the next onset: peaks of the level's
    change of more than `edge` dB a frame. Stretches of neighbouring channels are one segment where
    the mean correlation of the frames that both last is over `likeness`. Sources: Hu and Wang
    2004 and 2007 (onsets and offsets), Wang and Brown 1999 (cross-channel correlation).
    """
    channels, frames = heard.shape
    steep = changes.abs()
    before, after = steep.roll(1, 1), steep.roll(-1, 1)
    borders = (steep > edge) & (steep >= before) & (steep > after)
    starts = heard & (borders | ~heard.roll(1, 1))
    starts[:, 0] = heard[:, 0]
    runs = (starts.flatten().cumsum(0) - 1).view(channels, frames)
    count = int(starts.sum())
    both = heard[:-1] & heard[1:]
    upper, lower = runs[:-1][both].numpy(), runs[1:][both].numpy()
    shape = (max(count, 1), max(count, 1))
    total = coo_matrix((alike[:-1][both].double().numpy(), (upper, lower)), shape).tocsr()
    shared = coo_matrix((np.ones(len(upper)), (upper, lower)), shape).tocsr()
    _, labels = connected_components(total - likeness * shared > 0, directed=False)
    return torch.where(heard, torch.from_numpy(labels).long()[runs.clamp(min=0)], -1)


COEFFICIENTS = 12  # of the gammatone cepstrum, without the first, which is the level
TIMBRE = 0.5  # weight of a coefficient beside that of the log pitch, both of unit variance
TOGETHER = 3.0  # cost a frame of two contours of one talker that sound at once
STARTS = 16
SWEEPS = 8


def voice_features(
    scene: Scene, tracks: Tensor, masks: Tensor, found: Sequence[Contour]
) -> tuple[Tensor, Tensor]:
    """Features (K, 1 + COEFFICIENTS) of K contours, and how many frames each lasts (K,).

    masks: (2, channels, L), which units are either track's. Features are the means over frames of
    the log pitch and of the gammatone cepstrum (cosine transform over channels of the cubic root
    of the power under the mask), each scaled by its spread over all frames of all contours.
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
    together = torch.cat(frames)
    together = together - together.mean(0)
    spread = together.square().mean(0).sqrt().clamp_min(1e-6)
    weights = torch.tensor([1.0] + [TIMBRE] * COEFFICIENTS)
    lengths = [len(part) for part in frames]
    scaled = torch.split_with_sizes(together / spread * weights, lengths)
    return torch.stack([part.mean(0) for part in scaled]), torch.tensor(lengths).float()


def group_contours(
    features: Tensor, lengths: Tensor, found: Sequence[Contour], talkers: int
) -> Tensor:
    """A talker 0 ... C - 1 for each of K contours, given their features (K, D), lengths (K,).

    Least within-talker scatter, a frame counting once, with a price on overlaps of one talker with
    himself: local search from the tracks themselves and from random starts. For features whitened
    by their total scatter this is the trace criterion of Hu and Wang 2013, whose beam search it
    replaces.
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
    """Squared distances to the talkers' means times lengths, and one-hot labels, both (R, K, C)."""
    shares = torch.nn.functional.one_hot(labels, talkers).float()
    weighted = shares * lengths[:, None]
    totals = weighted.sum(1)[..., None].clamp_min(1e-9)  # (R, C, 1)
    means = weighted.transpose(1, 2) @ features / totals  # (R, C, D)
    distances = (features[:, None] - means[:, None]).square().sum(-1)  # (R, K, C)
    return distances * lengths[:, None], shares


# Chosen on the validation list.
SHARPNESS = 3.0  # of the masks, by difference of periodicity
TIMBRE_SHARPNESS = 10.0  # of the masks under which timbre is measured
COMMON = 0.6  # how much a unit's evidence is that of its segment


class Casa(WindowSeparator):
    """A small system of auditory scene analysis, which hears without having learned.

    Gammatone filterbank, correlogram, and two pitches followed with their masks by turns
    (simultaneous grouping; Wang and Brown 2006; Hu and Wang 2010); segments between onsets and
    offsets, over which evidence is shared (Hu and Wang 2004, 2007); contours clustered into
    talkers by pitch and gammatone cepstra (sequential grouping; Hu and Wang 2013). Two talkers at
    most are voiced at once, also where more are asked for. The published systems give a unit whole
    to one talker; here masks are soft, a softmax of the evidence, since a wrong half costs less.
    """

    sample_rate = SAMPLE_RATE
    stft = STFT_8K

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Estimate the masks of one window from the units of its auditory scene."""
        return masks_by_units(spectrum, num_sources, unit_masks)


def unit_masks(scene: Scene, talkers: int) -> Tensor:
    """Masks of the units of a scene, (C, channels, L), adding up to one."""
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
    parts = segments(scene.heard, level_changes(scene.power), scene.alike)
    return (SHARPNESS * _shared(evidence, parts)).softmax(0)


def _shared(evidence: Tensor, parts: Tensor) -> Tensor:
    """Evidence (C, channels, L) drawn towards its mean over each segment of `parts`."""
    index = parts.flatten() + 1  # what is not heard counts as one segment, left as it is
    count = torch.bincount(index).clamp_min(1)
    flat = evidence.flatten(1)
    sums = flat.new_zeros(len(flat), len(count)).index_add(1, index, flat)
    means = (sums / count)[:, index]
    return torch.where(index > 0, torch.lerp(flat, means, COMMON), flat).view_as(evidence)
