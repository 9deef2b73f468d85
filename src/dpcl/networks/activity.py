"""Networks that map frames to voice vectors and clusters to talker activity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

VOICE_STRIDE = 2  # one frame of so many is encoded
HOP = 16  # such frames from vector to vector, about half a second
REACH = 55  # such frames before and after the middle of one that it hears
BANDS = 33  # above a quarter of the band; below, every bin shows the harmonics of a voice
DEEPEST_DB = -60.0  # of a band, under the loudest of the window
WIDTH, SIZE = 160, 48  # channels; D of a vector
LAYERS = (5, 1), (5, 2), (3, 3), (1, 1)  # taps and dilation of each convolution


@dataclass(frozen=True)
class Voices:
    """Of the sources of a window, and after them of the mixture."""

    vectors: Tensor  # (C + 1, n, D), unit length
    loudness: Tensor  # (C + 1, n), the root of the energy behind each


class VoiceNetwork(nn.Module):
    """Convolutions along time, then mean and deviation around a frame, weighted by attention.

    bins: F of the spectrum. Fitted by benchmarks/talker_activity.py.
    Sources: x-vectors, Snyder et al. 2018; attentive statistics, Okabe et al. 2018.
    """

    pool: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        pool = voice_bands(bins)
        self.register_buffer("pool", pool)
        sizes = [len(pool), *[WIDTH] * (len(LAYERS) - 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, WIDTH, taps, dilation=dilation, padding="same")
            for size, (taps, dilation) in zip(sizes, LAYERS, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in LAYERS)
        self.attention = nn.Conv1d(WIDTH, 1, 1)
        self.out = nn.Linear(2 * WIDTH, SIZE)
        self.last = nn.BatchNorm1d(SIZE)

    def levels(self, masks: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (C, l, F) and magnitude (l, F) of every VOICE_STRIDE-th frame of a window -> levels
        of bands (C + 1, l, bands) of its sources and of all together, relative to the loudest each,
        about -1 to 2; and the root of the energy in each HOP frames (C + 1, n).
        """
        energies = torch.cat([masks * magnitude, magnitude[None]]).square()
        level = 10 * (energies @ self.pool.mT + 1e-9).log10()
        relative = (level - level.amax((1, 2), keepdim=True)).clamp_min(DEEPEST_DB)
        energy = energies.sum(-1)  # (C + 1, l)
        blocks = functional.pad(energy, (0, -energy.shape[-1] % HOP)).view(len(energy), -1, HOP)
        return (relative + 40) / 20, blocks.sum(-1).sqrt()

    def forward(self, levels: Tensor) -> Tensor:
        """Levels (N, l, bands) -> vectors (N, n, D), one of each HOP frames."""
        x = levels.mT
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.relu(norm(convolution(x)))  # (N, WIDTH, l)
        weight = self.attention(x)
        weight = (weight - weight.amax(-1, keepdim=True)).exp()
        some = around(torch.cat([weight, weight * x, weight * x.square()], 1))  # (N, ..., n)
        whole, first, second = torch.split(some, [1, WIDTH, WIDTH], 1)
        whole = whole.clamp_min(1e-9)
        mean = first / whole
        deviation = (second / whole - mean.square()).clamp_min(1e-5).sqrt()
        vectors = self.out(torch.cat([mean, deviation], 1).mT)  # (N, n, D)
        return functional.normalize(self.last(vectors.mT).mT, dim=-1)


def around(x: Tensor) -> Tensor:
    """Means (N, C, n) of x (N, C, l) within REACH of the middle of each HOP frames.

    What is beyond the ends counts as zeros, which a ratio of two such means does without.
    """
    frames = torch.arange(x.shape[-1], device=x.device)
    middles = frames[::HOP] + HOP // 2
    near = (frames.unsqueeze(-1) - middles).abs() <= REACH  # (l, n)
    return x @ (near.to(x.dtype) / (2 * REACH + 1))  # a fifth of the time of a pooling


def voice_bands(bins: int) -> Tensor:
    """Weights (bands, F) that average the energy of bins."""
    low = bins // 4
    high = np.geomspace(low, bins, BANDS + 1).round().astype(int)
    edges = np.concatenate([np.arange(1, low), np.unique(high)])
    pool = torch.zeros(len(edges) - 1, bins)
    for band, (first, end) in enumerate(pairwise(edges)):
        pool[band, first:end] = 1 / float(end - first)
    return pool


STRIDE = 4  # one frame of so many tells who is active
REACHES = 4, 23  # such frames before and after one that its cues are of
OF_CLUSTERS, OF_VOICES = 16, 7  # cues
TAPS, DILATIONS = 9, (1, 2, 4, 8)  # of the convolutions: they reach 4 s, at frames of 16 ms
SOFT = 5.0  # owners share a bin in softmax(SOFT * cosine)
PURE = 3  # power of its share of the loudness with which a block tells of a talker's voice
BLOCK = HOP * VOICE_STRIDE // STRIDE  # frames that share a vector
BATCH = 8  # windows at once
PASSES = 2  # over a recording: who talks alone is better known after the first

Each = Callable[[Callable[[Any], Tensor], Iterable[Any]], Iterable[Tensor]]


class TalkerActivity(nn.Module):
    """Dilated convolutions along time, the same for every source, each of which hears the others.

    bins: F of the spectrum; width: channels. Fitted by benchmarks/talker_activity.py, to cues of
    the first pass of `detect_activity` and to two to four talkers.
    Source: permutation-equivariant layers, Zaheer et al. 2017, "Deep Sets", section 2.2; the task
    is that of target-speaker voice activity detection, Medennikov et al. 2020.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, bins: int, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.voice = VoiceNetwork(bins)
        self.dropout = dropout
        self.register_buffer("mean", torch.zeros(OF_CLUSTERS + OF_VOICES))
        self.register_buffer("std", torch.ones(OF_CLUSTERS + OF_VOICES))
        self.first = nn.Linear(OF_CLUSTERS + OF_VOICES, width)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(3 * width, width, TAPS, dilation=d, padding="same") for d in DILATIONS
        )
        self.active = nn.Linear(width, 1)

    def forward(self, cues: Tensor) -> Tensor:
        """Signs (B, C, l, OF_CLUSTERS + OF_VOICES) of C sources -> log odds (B, C, l) that each
        is active."""
        x = functional.relu(self.first((cues - self.mean) / self.std))  # (B, C, l, width)
        for convolution in self.convolutions:
            all_of_them = [x.mean(1, keepdim=True), x.amax(1, keepdim=True)]
            encoded = torch.cat([x, *(y.expand_as(x) for y in all_of_them)], dim=-1)
            encoded = functional.dropout(encoded, self.dropout, self.training)
            y = convolution(encoded.flatten(0, 1).mT).mT  # (B*C, l, width)
            x = x + functional.relu(y).view_as(x)
        odds: Tensor = self.active(x).squeeze(-1)
        return odds

    @torch.no_grad()
    def detect_activity(
        self, clusters: Sequence[Tensor], voices: Sequence[Voices], each: Each = map
    ) -> list[Tensor]:
        """Log odds (C, l) of each window of a recording.

        clusters: cluster_cues (C, l, OF_CLUSTERS) of each; voices: what `voice` found of each;
        each: as `map`, perhaps in threads.
        """
        alone: list[Tensor] | None = None
        for _ in range(PASSES):
            told = voice_cues(voices, alone)
            some = (slice(first, first + BATCH) for first in range(0, len(told), BATCH))
            batches = ((clusters[windows], told[windows]) for windows in some)
            odds = [x for encoded in each(self._odds, batches) for x in encoded]
            alone = [_alone(x, v.vectors.shape[1]) for x, v in zip(odds, voices, strict=True)]
        return odds

    @torch.no_grad()  # in every thread anew
    def _odds(self, batch: tuple[Sequence[Tensor], Sequence[Tensor]]) -> Tensor:
        odds: Tensor = self(together(*batch))
        return odds


def together(clusters: Sequence[Tensor], voices: Sequence[Tensor]) -> Tensor:
    """Both kinds of cues of equally long windows (C, l, OF_CLUSTERS), (C, n, OF_VOICES) -> those
    that the network hears (windows, C, l, OF_CLUSTERS + OF_VOICES)."""
    own = torch.stack(list(clusters))
    told = torch.stack(list(voices)).repeat_interleave(BLOCK, 2)[:, :, : own.shape[2]]
    return torch.cat([own, told], -1)


def cluster_cues(
    embeddings: Tensor, audible: Tensor, centroids: Tensor, whitening: Tensor
) -> Tensor:
    """What clusters tell of who is active: (C, l, OF_CLUSTERS), for two sources or more.

    embeddings: (l, F, K) of every STRIDE-th frame; audible: (l, F), 1 for the bins that count;
    centroids: (C, K); whitening: (K, K), see dpcl.clustering.solo.whiten.
    Of the bins around a frame: what share a source owns, softly and outright, and the largest of
    another's; how like its centroid they are, and how like the next one. Of the mean of what it
    owns: how far it lies from its centroid, from the nearest other centroid, and from the nearest
    other mean, and how far apart the centroids are. Last, how much is audible, and one of how many
    sources it is.
    """
    sources = len(centroids)
    told = centroids @ whitening
    cosines = functional.normalize(centroids, dim=-1) @ embeddings.mT  # (l, C, F)
    # Owners by comparison: eight times as fast as topk and argmax.
    best = cosines.amax(1)  # (l, F)
    owned = cosines == best.unsqueeze(1)
    second = cosines.masked_fill(owned, -1).amax(1)
    mine = owned * audible.unsqueeze(1)  # (l, C, F)
    outright = mine.sum(-1)  # (l, C)
    softly = ((SOFT * cosines).softmax(1) * audible.unsqueeze(1)).sum(-1)
    like, unlike = ((mine @ x.unsqueeze(-1)).squeeze(-1) for x in (best, second))
    counted = audible.sum(-1, keepdim=True)  # (l, 1)
    cues = []
    for reach in REACHES:
        whole, own = _around(counted, reach).clamp_min(1), _around(outright, reach)
        share = _around(softly, reach) / whole
        cues += [share, _largest(share.unsqueeze(1).expand(-1, sources, -1)), own / whole]
        cues += [_around(x, reach) / own.clamp_min(1) for x in (like, unlike)]
    sums = _around(mine @ embeddings, REACHES[-1])
    # own and share are those of the longest reach from here on
    means = sums / own.clamp_min(1).unsqueeze(-1) @ whitening  # (l, C, K)
    away = torch.cdist(means, told.expand(len(means), -1, -1))  # (l, C, C)
    cues += [away.diagonal(dim1=1, dim2=2), _nearest(away), _nearest(torch.cdist(means, means))]
    cues += [_nearest(torch.cdist(told, told)).expand_as(share)]
    cues += [counted.expand_as(share) / audible.shape[-1], torch.full_like(share, 1 / sources)]
    return torch.stack(cues, -1).transpose(0, 1)


def voice_cues(voices: Sequence[Voices], alone: Sequence[Tensor] | None = None) -> list[Tensor]:
    """What voices tell of who is active in each window of a recording: (C, n, OF_VOICES).

    alone: (C, n) of each window, how sure it is that a source is active and no other; None where
    nothing is known of that. The voice of a source in the whole recording is the mean of its
    vectors, mostly of blocks that it has for itself. Signs are cosines: of what the source owns in
    a block and this voice; of what another owns and this voice, the most; of what the source owns
    and another voice, the most; of all that is encoded and this voice, and another's, the most; of
    this voice and another, the most. Last, the source's share of the loudness.
    """
    counts = [v.vectors.shape[1] for v in voices]
    vectors = torch.cat([v.vectors for v in voices], 1)  # (C + 1, N, D)
    loudness = torch.cat([v.loudness for v in voices], 1)[:-1]  # (C, N)
    share = loudness / loudness.sum(0).clamp_min(1e-9)
    weights = loudness * share**PURE
    if alone is not None:
        weights = weights * torch.cat(list(alone), 1)
    whole = functional.normalize((weights.unsqueeze(1) @ vectors[:-1]).squeeze(1), dim=-1)  # (C, D)
    cosines = (vectors @ whole.mT).transpose(0, 1)  # (N, C + 1, C): of what is owned, and voices
    owned, mixture = cosines[:, :-1], cosines[:, -1]  # (N, C, C), (N, C)
    cues = [
        owned.diagonal(dim1=1, dim2=2),
        _largest(owned.mT),
        _largest(owned),
        mixture,
        _largest(mixture.unsqueeze(1).expand_as(owned)),
        _largest(whole @ whole.mT).expand_as(mixture),
        share.mT,
    ]
    return list(torch.split(torch.stack(cues, -1).transpose(0, 1), counts, 1))


def _alone(odds: Tensor, blocks: int) -> Tensor:
    """Log odds (C, l) -> in each block, how sure it is that this source alone is active (C, n)."""
    active = functional.pad(odds.sigmoid(), (0, blocks * BLOCK - odds.shape[1]), mode="replicate")
    active = active.view(-1, blocks, BLOCK).mean(-1)
    silent = (1 - active).clamp_min(1e-9)
    alone: Tensor = active * silent.prod(0) / silent
    return alone


def _around(x: Tensor, reach: int) -> Tensor:
    """Sums (l, ...) over the frames of x (l, ...) within reach."""
    padded = functional.pad(x.flatten(1).T, (reach, reach))
    size = 2 * reach + 1
    return size * functional.avg_pool1d(padded, size, 1).T.reshape(x.shape)


def _nearest(x: Tensor) -> Tensor:
    """The least of each row of x (..., C, C) beside the one on the diagonal, (..., C)."""
    own = torch.eye(x.shape[-1], dtype=torch.bool, device=x.device)
    return x.masked_fill(own, torch.inf).amin(-1)


def _largest(x: Tensor) -> Tensor:
    """As `_nearest`, the largest."""
    return -_nearest(-x)
