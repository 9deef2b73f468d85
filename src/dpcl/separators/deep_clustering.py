"""Deep clustering: embed every STFT bin, cluster the embeddings, mask the mixture."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.count import count_sources
from dpcl.clustering.kmeans import kmeans
from dpcl.mixtures.ideal import bin_weights
from dpcl.networks.blstm import BLSTMEmbedding
from dpcl.networks.model import MaskSettings, Model
from dpcl.separators.limits import MOST_SOURCES, check_mixture
from dpcl.separators.separation import Separation


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

        Raises InputError where there are no samples or not all of them are finite.
        """
        check_mixture(mixture)
        spectrum = self.stft(mixture.reshape(-1, mixture.shape[-1]))  # (B, L, F)
        embeddings = self.embed(spectrum)  # (B, L*F, K)
        settings = self.model.settings.masks
        if num_sources is None:
            weights = bin_weights(spectrum, settings.weighting, settings.floor_db)  # (B, L*F)
            num_sources = max(map(self.count, embeddings, weights))
        masks = cluster_masks(embeddings, spectrum, num_sources, settings)
        sources = self.stft.inverse(masks * spectrum[:, None], mixture.shape[-1])  # (B, C, T)
        lead = mixture.shape[:-1]
        return Separation(
            sources.view(*lead, *sources.shape[1:]),
            masks.view(*lead, *masks.shape[1:]),
            embeddings.view(*lead, *spectrum.shape[1:], -1),
        )

    def embed(self, spectrum: Tensor) -> Tensor:
        """spectrum (B, L, F) -> unit embeddings (B, L*F, K)."""
        with torch.no_grad():
            embeddings: Tensor = self.model.network(self._features(spectrum))
        return embeddings

    def count(self, points: Tensor, weights: Tensor, most: int = MOST_SOURCES) -> int:
        """How many sources embeddings (N, K) of weights (N,) come from, at most `most`.

        Two, or `most` if that is less, for a model that was not taught to count.
        """
        settings = self.model.settings.count
        if settings is None:
            return min(2, most)
        return count_sources(points, weights, settings.coefficients, most).number

    def hear(self, spectrum: Tensor) -> Tensor:
        """spectrum or magnitude (B, L, F) -> what the network keeps of each frame (B, L, H)."""
        return self._fast.hear(self._features(spectrum))

    def embeddings(self, heard: Tensor) -> Tensor:
        """What `hear` gave (B, L, H) -> unit embeddings (B, L*F, K)."""
        return self._fast.embed(heard)

    @cached_property
    def _fast(self) -> BLSTMEmbedding:
        """The network for `hear` and `embeddings`: in bfloat16 where the processor has it."""
        network = self.model.network
        on_cpu = network.mean.device.type == "cpu"
        if on_cpu and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return network.in_bfloat16()
        return network

    def _features(self, spectrum: Tensor) -> Tensor:
        return self.model.settings.signal.features(spectrum).float()


def cluster_masks(
    embeddings: Tensor, spectrum: Tensor, num_sources: int, settings: MaskSettings
) -> Tensor:
    """Cluster embeddings (B, L*F, K) of a mixture's spectrum (B, L, F) into masks (B, C, L, F)."""
    weights = bin_weights(spectrum, settings.weighting, settings.floor_db)  # (B, L*F)
    centroids = kmeans(embeddings, num_sources, weights).centroids
    masks = nearest_masks(embeddings, centroids, settings.sharpness)
    return masks.view(*masks.shape[:2], *spectrum.shape[1:])


def nearest_masks(embeddings: Tensor, centroids: Tensor, sharpness: float | None) -> Tensor:
    """embeddings (B, N, K), centroids (B, C, K) -> masks (B, C, N), adding up to one in each bin.

    Binary ones (sharpness None) say which centroid is nearest; soft ones share a bin by its
    cosines to the centroids, which loses less where the network is in doubt.
    """
    if sharpness is None:
        distances = torch.cdist(embeddings, centroids)  # (B, N, C)
        nearest = distances.argmin(-1)
        return functional.one_hot(nearest, centroids.shape[1]).to(embeddings.dtype).mT
    directions = functional.normalize(centroids, dim=-1)  # (B, C, K)
    return (sharpness * (directions @ embeddings.mT)).softmax(1)
