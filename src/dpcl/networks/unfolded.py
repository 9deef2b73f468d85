"""Masks through the clustering: unfolded soft k-means, then an enhancement network."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dpcl.clustering.kmeans import following_kmeans, hard_start, soft_kmeans
from dpcl.networks.base import EmbeddingNetwork
from dpcl.networks.convolutional import ConvolutionalEmbedding
from dpcl.networks.dual_path import DualPathEmbedding
from dpcl.networks.enhancement import BLSTMEnhancement, DualPathEnhancement
from dpcl.networks.lstm import BLSTMEmbedding
from dpcl.settings import Settings
from dpcl.signal.bins import Weighting, bin_weights
from dpcl.signal.features import FLOOR


class UnfoldedSettings(Settings):
    """Masks through the clustering: steps of soft k-means, then an enhancement network."""

    steps: int = Field(default=3, ge=1, le=20)
    alpha: float = Field(default=5.0, gt=0, allow_inf_nan=False)  # how hard, at first
    learn_alpha: bool = True
    # Frames of a block, whose centroids are of those before it, as in a stream; null: of all.
    block: int | None = Field(default=None, ge=1)
    # bins that pull the centroids, and how much: as MaskSettings has them
    weighting: Weighting = "threshold"
    floor_db: float = Field(default=-40.0, lt=0)
    enhancement: Literal["blstm", "dual_path"] = "blstm"
    layers: int = Field(default=1, ge=0, le=20)  # LSTMs or blocks of it; 0 without one
    width: int = Field(
        default=200, ge=1
    )  # units per direction; of dual_path, channels of a band: 64, say
    dropout: float = Field(default=0.0, ge=0, lt=1)  # after every one of these layers


class Unfolded(EmbeddingNetwork):
    """A trunk whose embeddings are clustered inside, into masks of any number of sources.

    Hard k-means gives the first centroids, without a gradient; steps of soft k-means move them, and
    their responsibilities are masks. Centroids that are known beforehand are taken as they are. An
    enhancement network then hears the mixture beside each source's masked mixture, and its masks
    take the place of those of the clustering. In a stream it is a trunk as any other.
    The trunk's class comes after this one among the bases, and `unfold` after its constructor.
    Source: Isik et al. 2016, sections 2.4 and 2.5.
    """

    def unfold(self, settings: UnfoldedSettings) -> None:
        """Give it what the clustering needs, and the enhancement network."""
        self.unfolding = settings
        log_alpha = torch.tensor(math.log(settings.alpha))  # alpha itself stays above zero
        if settings.learn_alpha:
            self.log_alpha = nn.Parameter(log_alpha)
        else:
            self.register_buffer("log_alpha", log_alpha)
        if settings.layers:
            kind = BLSTMEnhancement if settings.enhancement == "blstm" else DualPathEnhancement
            bins = len(self.mean)
            self.enhance = kind(bins, settings.layers, settings.width, settings.dropout)

    def encode(self, features: Tensor) -> Tensor:
        """features (B, L, F) -> these and what the trunk encoded, side by side (B, L, F + H)."""
        return torch.cat([features, super().encode(features)], dim=-1)

    def encode_next(self, features: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """As `encode` for the next frames of a stream: features (L, F) -> (L, F + H), new state."""
        encoded, state = super().encode_next(features, state)
        return torch.cat([features, encoded], dim=-1), state

    def embed(self, encoded: Tensor) -> Tensor:
        """What was encoded of each frame (B, L, H) -> embeddings (B, L*F, K), float32 rows."""
        return super().embed(encoded[..., len(self.mean) :])

    def gives_masks(self, num_sources: int) -> bool:
        """Any number: the masks come from the clustering."""
        return num_sources > 0

    def infer_masks(
        self,
        encoded: Tensor,
        num_sources: int,
        embeddings: Tensor | None = None,
        centroids: Tensor | None = None,
    ) -> Tensor:
        """What was encoded of each frame (B, L, H) -> masks (B, C, L, F), adding up to one.

        embeddings: (B, L*F, K), if they are there; centroids: (B, C, K), where they are known, in
        whose order the masks come. No step moves these: they may be of a long recording, and in a
        window in which one source is silent they would share out the others.
        """
        features = encoded[..., : len(self.mean)].float()
        if embeddings is None:
            embeddings = self.embed(encoded)
        # Features are log magnitudes relative to the loudest bin.
        weights = bin_weights(features.exp(), self.unfolding.weighting, self.unfolding.floor_db)
        alpha = self.log_alpha.float().exp()
        steps, block = self.unfolding.steps, self.unfolding.block
        if centroids is not None:
            _, masks = soft_kmeans(embeddings, centroids, weights, alpha, 0)
        elif block is None:
            start = hard_start(embeddings, num_sources, weights)
            _, masks = soft_kmeans(embeddings, start, weights, alpha, steps)
        else:
            block *= features.shape[-1]  # in bins
            masks = following_kmeans(embeddings, num_sources, weights, alpha, steps, block)
        masks = masks.view(*masks.shape[:2], *features.shape[1:])
        if not self.unfolding.layers:
            return masks
        scores: Tensor = self.enhance(self._scaled(features), self._masked(features, masks))
        # Scores change what the clustering said, so that untrained ones, all zero, change nothing.
        return (_log(masks) + scores).softmax(1)

    def _masked(self, features: Tensor, masks: Tensor) -> Tensor:
        """(B, L, F), (B, C, L, F) -> the features of each masked mixture (B, C, L, F)."""
        masked = features.unsqueeze(1) + _log(masks)
        return self._scaled(masked.clamp_min(math.log(FLOOR)))

    def _scaled(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std


class UnfoldedBLSTM(Unfolded, BLSTMEmbedding):
    """As in Isik et al. 2016."""


class UnfoldedConvolutional(Unfolded, ConvolutionalEmbedding):
    """With convolutions in place of the BLSTM."""


class UnfoldedDualPath(Unfolded, DualPathEmbedding):
    """With a dual-path network in place of the BLSTM."""


def _log(masks: Tensor) -> Tensor:
    """Their logarithm, cut where features are: beyond it there is no gradient to explode."""
    return masks.clamp_min(FLOOR).log()
