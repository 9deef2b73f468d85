"""Deep clustering: embed every STFT bin, cluster the embeddings, mask the mixture."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.kmeans import kmeans
from dpcl.errors import InputError
from dpcl.mixtures.ideal import bin_weights
from dpcl.networks.model import MaskSettings, Model
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
        """mixture (..., T) at self.sample_rate -> its sources; two if it is left to us.

        Raises InputError where there are no samples or not all of them are finite.
        """
        if mixture.shape[-1] == 0 or not bool(mixture.isfinite().all()):
            raise InputError(
                "the mixture is empty or holds NaN or infinite values; repair it first"
            )
        spectrum = self.stft(mixture.reshape(-1, mixture.shape[-1]))  # (B, L, F)
        count = 2 if num_sources is None else num_sources
        embeddings = self.embed(spectrum)  # (B, L*F, K)
        masks = cluster_masks(embeddings, spectrum, count, self.model.settings.masks)
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
            embeddings: Tensor = self.model.network(
                self.model.settings.signal.features(spectrum).float()
            )
        return embeddings


def cluster_masks(
    embeddings: Tensor, spectrum: Tensor, num_sources: int, settings: MaskSettings
) -> Tensor:
    """Cluster embeddings (B, L*F, K) of a mixture's spectrum (B, L, F) into masks (B, C, L, F).

    Masks add up to one in every bin. Binary ones say which centroid is nearest; soft ones share a
    bin by its cosines to the centroids, which loses less where the network is in doubt.
    """
    weights = bin_weights(spectrum, settings.weighting, settings.floor_db)  # (B, L*F)
    clusters = kmeans(embeddings, num_sources, weights)
    if settings.sharpness is None:
        masks = functional.one_hot(clusters.labels, num_sources).to(embeddings.dtype)
    else:
        directions = functional.normalize(clusters.centroids, dim=-1)  # (B, C, K)
        cosines = embeddings @ directions.transpose(1, 2)  # (B, L*F, C)
        masks = (settings.sharpness * cosines).softmax(-1)
    return masks.view(*spectrum.shape, num_sources).movedim(-1, 1)
