"""Deep clustering: embed every STFT bin, cluster the embeddings, mask the mixture.

Networks with a mask head, alone or beside the embeddings, run here too: they differ in whose masks
are taken (`MaskSettings.head`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.alone import alone_centroids
from dpcl.clustering.count import count_sources
from dpcl.clustering.kmeans import kmeans
from dpcl.errors import InputError
from dpcl.model import MaskSettings, Model
from dpcl.networks.activity import SOFT, STRIDE, VOICE_STRIDE, cluster_signs
from dpcl.networks.base import EmbeddingNetwork
from dpcl.networks.precision import fastest
from dpcl.objectives.attractor import anchored_attractors
from dpcl.separators.limits import MOST_SOURCES, check_mixture
from dpcl.separators.masks import (
    active_masks,
    both,
    held_back,
    in_order_of,
    nearest_masks,
    similarities,
)
from dpcl.separators.separation import Separation
from dpcl.signal.bins import bin_weights
from dpcl.signal.features import FLOOR

# Frames whose embeddings a processor's cache holds: a third faster than a window at once. A
# multiple of the strides of what tells who talks.
FRAMES = 160
REACH = 3.0  # s before and after a frame that tell who is active there
# Masks take the mean of the odds within so many s, and are so much surer of who talks. On
# conversations of `valid` this, and SILENT, bring 0.5 to 1.1 dB SI-SDRi, with turns of seconds and
# of half minutes, and no more sources that are taken for one another.
STEADY = 0.5
DECIDED = 2.0

Finish = Callable[[Tensor, Tensor, MaskSettings], Tensor]


@dataclass(frozen=True)
class Talkers:
    """What tells who talks in a window, and its masks but for that."""

    signs: Tensor  # (C, l, OF_CLUSTERS), see cluster_signs
    levels: Tensor  # (C + 1, l', bands), for the VoiceNetwork
    loudness: Tensor  # (C + 1, n), see Voices
    scores: Tensor  # (C, L, F), the log of masks up to what is common to all sources


class DeepClustering:
    """A trained embedding network as a separator.

    Global clustering: one k-means over all bins of the mixture. Source: Hershey et al. 2016,
    section 3.3; soft masks as in Isik et al. 2016 (soft k-means), their alpha half our sharpness.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.sample_rate = model.settings.signal.sample_rate
        self.stft = model.settings.signal.stft()

    def __call__(self, mixture: Tensor, num_sources: int | None = None) -> Separation:
        """mixture (..., T) at self.sample_rate -> its sources; without `num_sources` as
        many as are found (see `count`), of several mixtures the most that one has.

        Raises InputError where there are no samples or not all of them are finite, and for a
        number of sources that a network without embeddings has no masks for.
        """
        check_mixture(mixture)
        spectrum = self.stft(mixture.reshape(-1, mixture.shape[-1]))  # (B, L, F)
        lead, grid = mixture.shape[:-1], spectrum.shape[1:]
        network = self.model.network
        with torch.no_grad():
            heard = network.hear(self._features(spectrum))  # (B, L, H)
            if network.heads.embedding:
                embeddings = network.embed(heard)  # (B, L*F, K)
                weights = self.weights(spectrum)  # (B, L*F)
                if num_sources is None:
                    frames = torch.arange(weights.shape[1], device=weights.device) // grid[1]
                    pairs = zip(embeddings, weights, strict=True)
                    num_sources = max(self.count(v, w, frames) for v, w in pairs)
                centroids = self.centroids(embeddings, num_sources, weights)
                masks = self._masks(network, heard, embeddings, centroids)
            else:
                embeddings = None
                masks = self._own_masks(heard, num_sources or network.heads.masks)
        sources = self.stft.inverse(masks * spectrum[:, None], mixture.shape[-1])  # (B, C, T)
        return Separation(
            sources.view(*lead, *sources.shape[1:]),
            masks.view(*lead, *masks.shape[1:]),
            None if embeddings is None else embeddings.view(*lead, *grid, -1),
        )

    def embed(self, spectrum: Tensor) -> Tensor:
        """spectrum (B, L, F) -> embeddings (B, L*F, K)."""
        with torch.no_grad():
            network = self.model.network
            return network.embed(network.hear(self._features(spectrum)))

    def weights(self, spectrum: Tensor) -> Tensor:
        """How much each bin of a spectrum or magnitude (..., L, F) pulls centroids, (..., L*F)."""
        settings = self.model.settings.masks
        return bin_weights(spectrum, settings.weighting, settings.floor_db)

    def audible(self, magnitude: Tensor) -> Tensor:
        """magnitude (..., L, F) -> 1 for the bins that count, 0 for the others, (..., L, F)."""
        return (self.weights(magnitude) > 0).view_as(magnitude).to(magnitude.dtype)

    def count(
        self, points: Tensor, weights: Tensor, frames: Tensor, most: int = MOST_SOURCES
    ) -> int:
        """How many sources embeddings (N, K) of weights (N,) come from, at most `most`.

        frames: (N,), the number of the frame that each is of.
        Two, or `most` if that is less, for a model that was not taught to count.
        """
        settings = self.model.settings.count
        if settings is None:
            return min(2, most)
        return count_sources(points, weights, frames, settings.hidden, settings.output, most).number

    def centroids(
        self,
        embeddings: Tensor,
        num_sources: int,
        weights: Tensor,
        stretches: Tensor | None = None,
    ) -> Tensor:
        """Of embeddings ([B,] N, K) of weights ([B,] N), a centroid of each source ([B,] C, K).

        stretches: (N,), which stretch of time each embedding of one long recording is from, where
        k-means may look for those in which a source is alone (see alone_centroids).
        """
        if self.model.settings.masks.centroids == "kmeans":
            if stretches is not None:
                whitening = self._whitening(embeddings)
                return alone_centroids(embeddings, weights, stretches, num_sources, whitening)
            return kmeans(embeddings, num_sources, weights).centroids
        anchors = self.model.network.anchors
        if embeddings.ndim == 2:
            return anchored_attractors(embeddings[None], anchors, num_sources, weights[None])[0]
        return anchored_attractors(embeddings, anchors, num_sources, weights)

    def hear(self, spectrum: Tensor) -> Tensor:
        """spectrum or magnitude (B, L, F) -> what the network keeps of each frame (B, L, H)."""
        return self.model.network.hear(self._features(spectrum))

    def embeddings(self, heard: Tensor) -> Tensor:
        """What `hear` gave (B, L, H) -> embeddings (B, L*F, K)."""
        return self.model.network.embed(heard)

    def masks(self, heard: Tensor, centroids: Tensor, audible: Tensor | None = None) -> Tensor:
        """What `hear` gave (B, L, H), centroids (C, K) -> masks (B, C, L, F) in their order.

        audible: (B, L, F), 1 for the bins that count, of a recording in which sources come and go:
        those that own little of these are held back (see active_masks), unless masks are binary.
        """
        centroids = centroids.expand(len(heard), -1, -1)
        if self.soft and audible is not None:
            reach = round(REACH * self.sample_rate / self.stft.hop)
            return active_masks(self._scores(heard, centroids), audible, reach)
        if self.model.settings.masks.head != "embedding":
            return self._masks(self.model.network, heard, self.embeddings(heard), centroids)
        blocks = self._embedded(heard)
        return torch.cat([self._of_bins(nearest_masks, x, centroids) for x in blocks], dim=2)

    @property
    def soft(self) -> bool:
        """Whether sources share bins."""
        settings = self.model.settings.masks
        return settings.sharpness is not None or settings.head == "masks"

    def talkers(self, heard: Tensor, magnitude: Tensor, centroids: Tensor) -> Talkers:
        """What tells who talks in a window heard (L, H) of magnitude (L, F), for a model with a
        network of that; centroids: (C, K)."""
        assert self.model.activity is not None
        whitening = self._whitening(centroids)
        if whitening is None:
            whitening = torch.eye(centroids.shape[-1]).to(centroids)
        scores, some = [], []
        for block in self._embedded(heard[None]):
            scores.append(self._of_bins(similarities, block, centroids[None])[0])
            some.append(block[0, ::VOICE_STRIDE])
        embeddings = torch.cat(some)  # (l', F, K)
        every = STRIDE // VOICE_STRIDE
        audible = self.audible(magnitude)[::STRIDE]
        signs = cluster_signs(embeddings[::every], audible, centroids, whitening)
        masks = (SOFT * functional.normalize(centroids, dim=-1) @ embeddings.mT).softmax(1)
        levels, loudness = self.model.activity.voice.levels(
            masks.transpose(0, 1), magnitude[::VOICE_STRIDE]
        )
        if self.model.settings.masks.head == "embedding":
            return Talkers(signs, levels, loudness, torch.cat(scores, 1))
        return Talkers(signs, levels, loudness, self._scores(heard[None], centroids[None])[0])

    def told_masks(self, scores: Tensor, odds: Tensor) -> Tensor:
        """Scores (C, L, F) that `talkers` gave -> masks in which who is silent is held back.

        odds: (C, l), log odds that each is active, see TalkerActivity.
        """
        around = round(STEADY * self.sample_rate / (self.stft.hop * STRIDE))
        odds = functional.pad(odds, (around, around), mode="replicate")
        steady = functional.avg_pool1d(odds, 2 * around + 1, 1)
        return held_back(scores, functional.logsigmoid(DECIDED * steady), STRIDE)

    @cached_property
    def fast(self) -> DeepClustering:
        """The same for many windows: its network in the numbers that are fastest here."""
        network = self.model.network
        precision = fastest() if network.mean.device.type == "cpu" else "float32"
        if precision == "float32":
            return self
        other = copy(self)
        network = network.in_int8() if precision == "int8" else network.in_bfloat16()
        other.model = replace(self.model, network=network)
        return other

    def _whitening(self, like: Tensor) -> Tensor | None:
        """The model's (K, K), if it has one, where and in the numbers that `like` is."""
        rows = self.model.settings.whitening
        return None if rows is None else like.new_tensor(rows)

    def _scores(self, heard: Tensor, centroids: Tensor) -> Tensor:
        """(B, L, H), (B, C, K) -> the log of masks (B, C, L, F) as they are when all are active, up
        to what is common to all sources."""
        if self.model.settings.masks.head != "embedding":
            masks = self._masks(self.model.network, heard, self.embeddings(heard), centroids)
            return masks.clamp_min(FLOOR).log()
        blocks = self._embedded(heard)
        return torch.cat([self._of_bins(similarities, x, centroids) for x in blocks], dim=2)

    def _embedded(self, heard: Tensor) -> Iterator[Tensor]:
        """(B, L, H) -> embeddings (B, FRAMES, F, K) of its frames, the last ones fewer."""
        for frames in torch.split(heard, FRAMES, 1):
            yield self.embeddings(frames).view(*frames.shape[:2], self.stft.bins, -1)

    def _of_bins(self, finish: Finish, embeddings: Tensor, centroids: Tensor) -> Tensor:
        """What `finish` makes of embeddings (B, l, F, K) and centroids (B, C, K): (B, C, l, F)."""
        found = finish(embeddings.flatten(1, 2), centroids, self.model.settings.masks)
        return found.view(*found.shape[:2], *embeddings.shape[1:3])

    def _masks(
        self, network: EmbeddingNetwork, heard: Tensor, embeddings: Tensor, centroids: Tensor
    ) -> Tensor:
        """(B, L, H), (B, L*F, K), (B, C, K) -> masks (B, C, L, F): head, clusters, both.

        Those of the head come in the order of the centroids, which alone know who is who.
        """
        settings, num_sources = self.model.settings.masks, centroids.shape[1]
        masks = nearest_masks(embeddings, centroids, settings)
        masks = masks.view(*masks.shape[:2], heard.shape[1], -1)
        if settings.head == "embedding" or not network.gives_masks(num_sources):
            return masks
        inferred = network.infer_masks(heard, num_sources, embeddings, centroids)
        own = in_order_of(inferred, masks)
        return own if settings.head == "masks" else both(own, masks)

    def _own_masks(self, heard: Tensor, num_sources: int) -> Tensor:
        """What was heard (B, L, H) -> masks (B, C, L, F) of a network without embeddings."""
        network = self.model.network
        if not network.gives_masks(num_sources):
            raise InputError(
                f"the network gives masks of {network.heads.masks} sources, not of {num_sources};"
                " give one with embeddings, which serve any number"
            )
        return network.infer_masks(heard, num_sources)

    def _features(self, spectrum: Tensor) -> Tensor:
        return self.model.settings.signal.features(spectrum).float()
