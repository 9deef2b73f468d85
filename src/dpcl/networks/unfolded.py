"""Unfolded clustering: masks by steps of soft k-means, then by an enhancement network."""

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
    """Settings of unfolded clustering: steps of soft k-means, then an enhancement network."""

    steps: int = Field(default=3, ge=1, le=20)
    alpha: float = Field(default=5.0, gt=0, allow_inf_nan=False)  # initial sharpness of k-means
    learn_alpha: bool = True
    # Frames of a block. Each block takes its centroids from the frames before it, as in a stream;
    # null: one block of all frames.
    block: int | None = Field(default=None, ge=1)
    # weights of the bins that pull the centroids, as in MaskSettings
    weighting: Weighting = "threshold"
    floor_db: float = Field(default=-40.0, lt=0)
    enhancement: Literal["blstm", "dual_path"] = "blstm"
    layers: int = Field(default=1, ge=0, le=20)  # LSTM layers or blocks of the enhancement; 0: none
    width: int = Field(default=200, ge=1)  # units per direction; dual_path: channels, such as 64
    dropout: float = Field(default=0.0, ge=0, lt=1)  # after every layer of the enhancement


class Unfolded(EmbeddingNetwork):
    """Trunk with the clustering inside: masks of any number of sources.

    Hard k-means gives the first centroids, without a gradient. Steps of soft k-means move them; the
    responsibilities are the masks. Known centroids are used without a step. An enhancement network
    then gets the mixture and the masked mixture of each source, and its masks replace those of the
    clustering. In a stream an `Unfolded` works like its trunk.
    Among the base classes the trunk comes after this one. Call `unfold` after the constructor.

    Source: Isik et al. 2016, sections 2.4 and 2.5.
    """

    def unfold(self, settings: UnfoldedSettings) -> None:
        """Add the parameters of the clustering, and the enhancement network."""
        self.unfolding = settings
        log_alpha = torch.tensor(math.log(settings.alpha))  # the logarithm keeps alpha positive
        if settings.learn_alpha:
            self.log_alpha = nn.Parameter(log_alpha)
        else:
            self.register_buffer("log_alpha", log_alpha)
        if settings.layers:
            kind = BLSTMEnhancement if settings.enhancement == "blstm" else DualPathEnhancement
            bins = len(self.mean)
            self.enhance = kind(bins, settings.layers, settings.width, settings.dropout)

    def encode(self, features: Tensor) -> Tensor:
        """Encode features (B, L, F): features and encoded frames of the trunk (B, L, F + H)."""
        return torch.cat([features, super().encode(features)], dim=-1)

    def encode_next(self, features: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Encode the next frames (L, F) of a stream: frames (L, F + H) and the new state."""
        encoded, state = super().encode_next(features, state)
        return torch.cat([features, encoded], dim=-1), state

    def embed(self, encoded: Tensor) -> Tensor:
        """Embed the bins of encoded frames (B, L, F + H): float32 rows (B, L*F, K)."""
        return super().embed(encoded[..., len(self.mean) :])

    def gives_masks(self, num_sources: int) -> bool:
        """Return True for any positive number: the clustering gives the masks."""
        return num_sources > 0

    def infer_masks(
        self,
        encoded: Tensor,
        num_sources: int,
        embeddings: Tensor | None = None,
        centroids: Tensor | None = None,
    ) -> Tensor:
        """Cluster the embeddings of encoded frames into masks, and enhance these.

        Args:
            encoded: (B, L, F + H), from `encode`.
            num_sources: number of sources C.
            embeddings: (B, L*F, K), if computed already.
            centroids: (B, C, K), if known; the masks follow their order. No step moves them: they
                may be those of a long recording, and steps in a window with a silent source would
                divide up the other sources.

        Returns:
            Masks (B, C, L, F), summing to one.
        """
        features = encoded[..., : len(self.mean)].float()
        if embeddings is None:
            embeddings = self.embed(encoded)
        # exp(features) are magnitudes relative to the loudest bin
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
        # Scores are added to the log masks, so that untrained ones, all zero, change nothing.
        return (_log(masks) + scores).softmax(1)

    def _masked(self, features: Tensor, masks: Tensor) -> Tensor:
        """Return the features (B, C, L, F) of the masked mixtures."""
        masked = features.unsqueeze(1) + _log(masks)
        return self._scaled(masked.clamp_min(math.log(FLOOR)))

    def _scaled(self, features: Tensor) -> Tensor:
        """Normalise features by the mean and the deviation of the training features."""
        return (features - self.mean) / self.std


class UnfoldedBLSTM(Unfolded, BLSTMEmbedding):
    """Unfolded clustering on the BLSTM of Isik et al. 2016."""


class UnfoldedConvolutional(Unfolded, ConvolutionalEmbedding):
    """Unfolded clustering on convolutions."""


class UnfoldedDualPath(Unfolded, DualPathEmbedding):
    """Unfolded clustering on a dual-path network."""


def _log(masks: Tensor) -> Tensor:
    """Return the log of masks, cut at the floor of features so that no gradient explodes."""
    return masks.clamp_min(FLOOR).log()
