"""Sequential grouping: which contours are one talker's, told by pitch and timbre."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dpcl.separators.auditory import LAGS, Scene
from dpcl.separators.voices import Contour

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
