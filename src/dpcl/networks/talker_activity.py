"""Who talks when in a long recording: what clusters own around every frame, and whose voice it is.

A talker's embeddings drift with what else is heard, at times half way to another's centroid: what
that centroid then owns looks like a second talker. How much each cluster owns, how close together
that lies, where it lies between the centroids, and whether it sounds like the talker that this
cluster holds elsewhere, tells the two apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpcl.networks import voice
from dpcl.networks.voice import VoiceNetwork, Voices

STRIDE = 4  # one frame of so many tells who is active
REACHES = 4, 23  # such frames before and after one that its signs are of
OF_CLUSTERS, OF_VOICES = 16, 7  # signs
TAPS, DILATIONS = 9, (1, 2, 4, 8)  # of the convolutions: they reach 4 s, at frames of 16 ms
SOFT = 5.0  # owners share a bin in softmax(SOFT * cosine)
PURE = 3  # power of its share of the loudness with which a block tells of a talker's voice
BLOCK = voice.HOP * voice.STRIDE // STRIDE  # frames that share a vector
BATCH = 8  # windows at once
PASSES = 2  # over a recording: who talks alone is better known after the first

Each = Callable[[Callable[[Any], Tensor], Iterable[Any]], Iterable[Tensor]]


class TalkerActivity(nn.Module):
    """Dilated convolutions along time, the same for every source, each of which hears the others.

    bins: F of the spectrum; width: channels. Fitted by benchmarks/talker_activity.py, to signs of
    the first pass of `who_talks` and to two to four talkers.
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

    def forward(self, signs: Tensor) -> Tensor:
        """Signs (B, C, l, OF_CLUSTERS + OF_VOICES) of C sources -> log odds (B, C, l) that each
        is active."""
        x = functional.relu(self.first((signs - self.mean) / self.std))  # (B, C, l, width)
        for convolution in self.convolutions:
            all_of_them = [x.mean(1, keepdim=True), x.amax(1, keepdim=True)]
            heard = torch.cat([x, *(y.expand_as(x) for y in all_of_them)], dim=-1)
            heard = functional.dropout(heard, self.dropout, self.training)
            y = convolution(heard.flatten(0, 1).mT).mT  # (B*C, l, width)
            x = x + functional.relu(y).view_as(x)
        odds: Tensor = self.active(x).squeeze(-1)
        return odds

    @torch.no_grad()
    def who_talks(
        self, clusters: Sequence[Tensor], voices: Sequence[Voices], each: Each = map
    ) -> list[Tensor]:
        """Log odds (C, l) of each window of a recording.

        clusters: cluster_signs (C, l, OF_CLUSTERS) of each; voices: what `voice` found of each;
        each: as `map`, perhaps in threads.
        """
        alone: list[Tensor] | None = None
        for _ in range(PASSES):
            told = voice_signs(voices, alone)
            some = (slice(first, first + BATCH) for first in range(0, len(told), BATCH))
            batches = ((clusters[windows], told[windows]) for windows in some)
            odds = [x for heard in each(self._odds, batches) for x in heard]
            alone = [_alone(x, v.vectors.shape[1]) for x, v in zip(odds, voices, strict=True)]
        return odds

    @torch.no_grad()  # in every thread anew
    def _odds(self, batch: tuple[Sequence[Tensor], Sequence[Tensor]]) -> Tensor:
        odds: Tensor = self(together(*batch))
        return odds


def together(clusters: Sequence[Tensor], voices: Sequence[Tensor]) -> Tensor:
    """Both kinds of signs of equally long windows (C, l, OF_CLUSTERS), (C, n, OF_VOICES) -> those
    that the network hears (windows, C, l, OF_CLUSTERS + OF_VOICES)."""
    own = torch.stack(list(clusters))
    told = torch.stack(list(voices)).repeat_interleave(BLOCK, 2)[:, :, : own.shape[2]]
    return torch.cat([own, told], -1)


def cluster_signs(
    embeddings: Tensor, audible: Tensor, centroids: Tensor, whitening: Tensor
) -> Tensor:
    """What clusters tell of who is active: (C, l, OF_CLUSTERS), for two sources or more.

    embeddings: (l, F, K) of every STRIDE-th frame; audible: (l, F), 1 for the bins that count;
    centroids: (C, K); whitening: (K, K), see dpcl.clustering.alone.whiten.
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
    signs = []
    for reach in REACHES:
        whole, own = _around(counted, reach).clamp_min(1), _around(outright, reach)
        share = _around(softly, reach) / whole
        signs += [share, _largest(share.unsqueeze(1).expand(-1, sources, -1)), own / whole]
        signs += [_around(x, reach) / own.clamp_min(1) for x in (like, unlike)]
    sums = _around(mine @ embeddings, REACHES[-1])
    # own and share are those of the longest reach from here on
    means = sums / own.clamp_min(1).unsqueeze(-1) @ whitening  # (l, C, K)
    away = torch.cdist(means, told.expand(len(means), -1, -1))  # (l, C, C)
    signs += [away.diagonal(dim1=1, dim2=2), _nearest(away), _nearest(torch.cdist(means, means))]
    signs += [_nearest(torch.cdist(told, told)).expand_as(share)]
    signs += [counted.expand_as(share) / audible.shape[-1], torch.full_like(share, 1 / sources)]
    return torch.stack(signs, -1).transpose(0, 1)


def voice_signs(voices: Sequence[Voices], alone: Sequence[Tensor] | None = None) -> list[Tensor]:
    """What voices tell of who is active in each window of a recording: (C, n, OF_VOICES).

    alone: (C, n) of each window, how sure it is that a source is active and no other; None where
    nothing is known of that. The voice of a source in the whole recording is the mean of its
    vectors, mostly of blocks that it has for itself. Signs are cosines: of what the source owns in
    a block and this voice; of what another owns and this voice, the most; of what the source owns
    and another voice, the most; of all that is heard and this voice, and another's, the most; of
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
    signs = [
        owned.diagonal(dim1=1, dim2=2),
        _largest(owned.mT),
        _largest(owned),
        mixture,
        _largest(mixture.unsqueeze(1).expand_as(owned)),
        _largest(whole @ whole.mT).expand_as(mixture),
        share.mT,
    ]
    return list(torch.split(torch.stack(signs, -1).transpose(0, 1), counts, 1))


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
