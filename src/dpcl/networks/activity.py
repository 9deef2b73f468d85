"""Networks that map frames to voice vectors, and clusters to the activity of talkers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

# Voices
VOICE_STRIDE = 2  # frames from one encoded frame to the next
HOP = 16  # encoded frames from one voice vector to the next: about half a second
REACH = 55  # encoded frames pooled on each side of the middle of a vector's HOP frames
# Bands above the lowest quarter of the bins. Each bin of that quarter is a band of its own, because
# it resolves the harmonics of a voice.
BANDS = 33
DEEPEST_DB = -60.0  # lowest level of a band, relative to the loudest band of the window
WIDTH, SIZE = 160, 48  # channels of the convolutions; values D of a voice vector
LAYERS = (5, 1), (5, 2), (3, 3), (1, 1)  # kernel size and dilation of each convolution

# Activity
STRIDE = 4  # frames from one activity frame to the next
REACHES = 4, 23  # activity frames on each side of a frame over which its cues are summed
OF_CLUSTERS, OF_VOICES = 16, 7  # number of cues from the clusters, and from the voices
# Kernel size and dilations of the convolutions: they reach 4 s at frames of 16 ms.
TAPS, DILATIONS = 9, (1, 2, 4, 8)
SOFT = 5.0  # sharpness: sources share a bin by softmax(SOFT * cosine)
PURE = 3  # exponent of a source's share of the loudness in the weight of a block for its voice
BLOCK = HOP * VOICE_STRIDE // STRIDE  # activity frames that share a voice vector
BATCH = 8  # windows in one call of the network
PASSES = 2  # passes over a recording: the second weights voices by the solo blocks of the first

Each = Callable[[Callable[[Any], Tensor], Iterable[Any]], Iterable[Tensor]]


@dataclass(frozen=True)
class Voices:
    """Voice vectors of the sources of a window, followed by the vectors of the mixture.

    Attributes:
        vectors: (C + 1, n, D), of unit length.
        loudness: (C + 1, n), root of the energy of the HOP encoded frames of each vector.
    """

    vectors: Tensor
    loudness: Tensor


class VoiceNetwork(nn.Module):
    """Convolutional network from band levels to voice vectors.

    Convolutions run along time. Mean and deviation around a frame, weighted by attention, then give
    one vector. Fitted by the phase `fit: activity` of a recipe, on the bins of clusters.

    Args:
        bins: number of bins F of the spectrum.
        width: channels of the convolutions.
        size: values D of a vector.

    Sources: x-vectors, Snyder et al. 2018; attentive statistics, Okabe et al. 2018.
    """

    pool: Tensor

    def __init__(self, bins: int, width: int = WIDTH, size: int = SIZE) -> None:
        super().__init__()
        pool = voice_bands(bins)
        self.register_buffer("pool", pool)
        sizes = [len(pool), *[width] * (len(LAYERS) - 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(channels, width, taps, dilation=dilation, padding="same")
            for channels, (taps, dilation) in zip(sizes, LAYERS, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in LAYERS)
        self.attention = nn.Conv1d(width, 1, 1)
        self.out = nn.Linear(2 * width, size)
        self.last = nn.BatchNorm1d(size)

    def levels(self, masks: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the band levels of the sources of a window and of the mixture.

        Args:
            masks: (C, l, F), of every VOICE_STRIDE-th frame.
            magnitude: (l, F), of the same frames.

        Returns:
            Levels (C + 1, l, bands), about -1 to 2, each row relative to its own loudest band; and
            the root of the energy in every HOP frames (C + 1, n).
        """
        energies = torch.cat([masks * magnitude, magnitude[None]]).square()
        level = 10 * (energies @ self.pool.mT + 1e-9).log10()
        relative = (level - level.amax((1, 2), keepdim=True)).clamp_min(DEEPEST_DB)
        energy = energies.sum(-1)  # (C + 1, l)
        blocks = functional.pad(energy, (0, -energy.shape[-1] % HOP)).view(len(energy), -1, HOP)
        return (relative + 40) / 20, blocks.sum(-1).sqrt()

    def forward(self, levels: Tensor) -> Tensor:
        """Encode levels as voice vectors.

        Args:
            levels: (N, l, bands), from `levels`.

        Returns:
            Vectors (N, n, D) of unit length, one for every HOP frames.
        """
        x = levels.mT
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.relu(norm(convolution(x)))  # (N, width, l)
        weight = self.attention(x)
        weight = (weight - weight.amax(-1, keepdim=True)).exp()
        total, first, second = (around(y) for y in (weight, weight * x, weight * x.square()))
        total = total.clamp_min(1e-9)
        mean = first / total
        deviation = (second / total - mean.square()).clamp_min(1e-5).sqrt()
        vectors = self.out(torch.cat([mean, deviation], 1).mT)  # (N, n, D)
        return functional.normalize(self.last(vectors.mT).mT, dim=-1)


def around(x: Tensor) -> Tensor:
    """Average over the frames within REACH of the middle of every HOP frames.

    Frames beyond the ends count as zeros. Their number cancels in the ratio of two such averages.

    Args:
        x: (N, C, l).

    Returns:
        Averages (N, C, n).
    """
    frames = torch.arange(x.shape[-1], device=x.device)
    middles = frames[::HOP] + HOP // 2
    near = (frames.unsqueeze(-1) - middles).abs() <= REACH  # (l, n)
    return x @ (near.to(x.dtype) / (2 * REACH + 1))  # takes a fifth of the time of pooling


def voice_bands(bins: int) -> Tensor:
    """Return the weights that average the energy of bins into bands.

    Args:
        bins: number of bins F.

    Returns:
        Weights (bands, F); the first bin belongs to no band.
    """
    low = bins // 4
    high = np.geomspace(low, bins, BANDS + 1).round().astype(int)
    edges = np.concatenate([np.arange(1, low), np.unique(high)])
    pool = torch.zeros(len(edges) - 1, bins)
    for band, (first, end) in enumerate(pairwise(edges)):
        pool[band, first:end] = 1 / float(end - first)
    return pool


class TalkerActivity(nn.Module):
    """Network that estimates when each source of a recording is active.

    Dilated convolutions along time, shared by all sources. Every layer also gets the mean and the
    maximum over the sources. Fitted by benchmarks/talker_activity.py, to cues of the first pass of
    `detect_activity` and to two to four talkers.

    Args:
        bins: number of bins F of the spectrum.
        width: number of channels.
        dropout: probability, in every layer.

    Source: permutation-equivariant layers, Zaheer et al. 2017, "Deep Sets", section 2.2; the task
    is target-speaker voice activity detection, Medennikov et al. 2020.
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
        """Predict the activity of each source.

        Args:
            cues: (B, C, l, OF_CLUSTERS + OF_VOICES), of C sources.

        Returns:
            Log odds (B, C, l) that each source is active.
        """
        x = functional.relu(self.first((cues - self.mean) / self.std))  # (B, C, l, width)
        for convolution in self.convolutions:
            pooled = [x.mean(1, keepdim=True), x.amax(1, keepdim=True)]  # over the sources
            encoded = torch.cat([x, *(y.expand_as(x) for y in pooled)], dim=-1)
            encoded = functional.dropout(encoded, self.dropout, self.training)
            y = convolution(encoded.flatten(0, 1).mT).mT  # (B*C, l, width)
            x = x + functional.relu(y).view_as(x)
        odds: Tensor = self.active(x).squeeze(-1)
        return odds

    @torch.no_grad()
    def detect_activity(
        self, clusters: Sequence[Tensor], voices: Sequence[Voices], each: Each = map
    ) -> list[Tensor]:
        """Predict the activity of the sources in every window of a recording.

        Args:
            clusters: `cluster_cues` (C, l, OF_CLUSTERS) of every window.
            voices: voice vectors of every window, from `voice`.
            each: function with the signature of `map`; it may use threads.

        Returns:
            Log odds (C, l) of every window.
        """
        alone: list[Tensor] | None = None
        for _ in range(PASSES):
            cues = voice_cues(voices, alone)
            slices = (slice(first, first + BATCH) for first in range(0, len(cues), BATCH))
            batches = ((clusters[windows], cues[windows]) for windows in slices)
            odds = [x for batch_odds in each(self._odds, batches) for x in batch_odds]
            alone = [_alone(x, v.vectors.shape[1]) for x, v in zip(odds, voices, strict=True)]
        return odds

    @torch.no_grad()  # gradient mode is a setting of each thread
    def _odds(self, batch: tuple[Sequence[Tensor], Sequence[Tensor]]) -> Tensor:
        """Predict the log odds (windows, C, l) of a batch of windows."""
        odds: Tensor = self(together(*batch))
        return odds


def together(clusters: Sequence[Tensor], voices: Sequence[Tensor]) -> Tensor:
    """Join the cues of clusters and of voices into the input of the network.

    Args:
        clusters: (C, l, OF_CLUSTERS) of each window; all windows have the same length.
        voices: (C, n, OF_VOICES) of each window.

    Returns:
        Cues (windows, C, l, OF_CLUSTERS + OF_VOICES).
    """
    cluster = torch.stack(list(clusters))
    voice = torch.stack(list(voices)).repeat_interleave(BLOCK, 2)[:, :, : cluster.shape[2]]
    return torch.cat([cluster, voice], -1)


def cluster_cues(
    embeddings: Tensor, audible: Tensor, centroids: Tensor, whitening: Tensor
) -> Tensor:
    """Compute the cues of talker activity that the clusters give.

    The cues of a source in a frame, in this order:

        - for each of REACHES, over the audible bins around the frame: the soft share of the source,
          and the largest soft share of another source; the share of bins nearest to its centroid;
          the mean similarity of these bins to that centroid, and to the second nearest
        - for the mean embedding of its bins within the longest reach: the distance to its centroid,
          to the nearest other centroid, and to the nearest other mean
        - the distance of its centroid to the nearest other centroid
        - the audible share of the bins of the frame
        - one divided by the number of sources

    Args:
        embeddings: (l, F, K), of every STRIDE-th frame.
        audible: (l, F), 1 for the bins that count, 0 for the others.
        centroids: (C, K), two or more.
        whitening: (K, K) for the distances, see dpcl.separators.masks.whiten.

    Returns:
        Cues (C, l, OF_CLUSTERS).
    """
    sources = len(centroids)
    whitened = centroids @ whitening
    cosines = functional.normalize(centroids, dim=-1) @ embeddings.mT  # (l, C, F)
    # Comparison finds the owners eight times faster than topk and argmax.
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
    # From here on, `own` and `share` cover the longest reach.
    means = sums / own.clamp_min(1).unsqueeze(-1) @ whitening  # (l, C, K)
    away = torch.cdist(means, whitened.expand(len(means), -1, -1))  # (l, C, C)
    cues += [away.diagonal(dim1=1, dim2=2), _nearest(away), _nearest(torch.cdist(means, means))]
    cues += [_nearest(torch.cdist(whitened, whitened)).expand_as(share)]
    cues += [counted.expand_as(share) / audible.shape[-1], torch.full_like(share, 1 / sources)]
    return torch.stack(cues, -1).transpose(0, 1)


def voice_cues(voices: Sequence[Voices], alone: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Compute the cues of talker activity that the voices give, for every window of a recording.

    The voice of a source is the mean of its vectors over the whole recording. Blocks in which the
    source is alone weigh most. The cues of a source in a block, in this order:

        - the cosine of its vector and its voice
        - the largest cosine of another source's vector and its voice
        - the largest cosine of its vector and another voice
        - the cosine of the mixture's vector and its voice
        - the largest cosine of the mixture's vector and another voice
        - the largest cosine of its voice and another voice
        - its share of the loudness

    Args:
        voices: voice vectors of every window.
        alone: (C, n) of every window, the probability that a source is active and no other is; None
            before the first estimate.

    Returns:
        Cues (C, n, OF_VOICES) of every window.
    """
    counts = [v.vectors.shape[1] for v in voices]
    vectors = torch.cat([v.vectors for v in voices], 1)  # (C + 1, N, D)
    loudness = torch.cat([v.loudness for v in voices], 1)[:-1]  # (C, N)
    share = loudness / loudness.sum(0).clamp_min(1e-9)
    weights = loudness * share**PURE
    if alone is not None:
        weights = weights * torch.cat(list(alone), 1)
    whole = functional.normalize((weights.unsqueeze(1) @ vectors[:-1]).squeeze(1), dim=-1)  # (C, D)
    cosines = (vectors @ whole.mT).transpose(0, 1)  # (N, C + 1, C): vectors of blocks, voices
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
    """Return the probability (C, n) that only this source is active, from log odds (C, l)."""
    active = functional.pad(odds.sigmoid(), (0, blocks * BLOCK - odds.shape[1]), mode="replicate")
    active = active.view(-1, blocks, BLOCK).mean(-1)
    silent = (1 - active).clamp_min(1e-9)
    alone: Tensor = active * silent.prod(0) / silent
    return alone


def _around(x: Tensor, reach: int) -> Tensor:
    """Sum x (l, ...) over the frames within `reach` of each frame."""
    padded = functional.pad(x.flatten(1).T, (reach, reach))
    size = 2 * reach + 1
    return size * functional.avg_pool1d(padded, size, 1).T.reshape(x.shape)


def _nearest(x: Tensor) -> Tensor:
    """Return the smallest off-diagonal value (..., C) of each row of x (..., C, C)."""
    own = torch.eye(x.shape[-1], dtype=torch.bool, device=x.device)
    return x.masked_fill(own, torch.inf).amin(-1)


def _largest(x: Tensor) -> Tensor:
    """Return the largest off-diagonal value (..., C) of each row of x (..., C, C)."""
    return -_nearest(-x)
