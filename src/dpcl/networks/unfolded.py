"""Head of unfolded clustering: masks by steps of soft k-means, then by an enhancement network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dpcl.clustering.kmeans import following_kmeans, hard_start, soft_kmeans
from dpcl.networks.enhancement import BLSTMEnhancement, DualPathEnhancement
from dpcl.settings import Settings
from dpcl.signal.features import FLOOR, Weighting, bin_weights


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


class UnfoldedClustering(nn.Module):
    """Head that clusters the embeddings of any trunk: masks of any number of sources.

    Hard k-means gives the first centroids, without a gradient. Steps of soft k-means move them; the
    responsibilities are the masks. Known centroids are used without a step. An enhancement network
    then gets the mixture and the masked mixture of each source, and its masks replace those of the
    clustering. A stream has masks of its own: it does not use this head.

    Args:
        bins: number of frequency bins F.
        settings: settings of the clustering and of the enhancement network.

    Source: Isik et al. 2016, sections 2.4 and 2.5.
    """

    def __init__(self, bins: int, settings: UnfoldedSettings) -> None:
        super().__init__()
        self.settings = settings
        log_alpha = torch.tensor(math.log(settings.alpha))  # the logarithm keeps alpha positive
        if settings.learn_alpha:
            self.log_alpha = nn.Parameter(log_alpha)
        else:
            self.register_buffer("log_alpha", log_alpha)
        if settings.layers:
            kind = BLSTMEnhancement if settings.enhancement == "blstm" else DualPathEnhancement
            self.enhance = kind(bins, settings.layers, settings.width, settings.dropout)

    def forward(
        self,
        features: Tensor,
        embeddings: Tensor,
        num_sources: int,
        centroids: Tensor | None,
        normalise: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Cluster embeddings into masks, and enhance these.

        Args:
            features: (B, L, F), log magnitudes relative to the loudest bin.
            embeddings: (B, L*F, K).
            num_sources: number of sources C.
            centroids: (B, C, K), if known; the masks follow their order. No step moves them: they
                may be those of a long recording, and steps in a window with a silent source would
                divide up the other sources.
            normalise: function that normalises features (..., F) for the enhancement network.

        Returns:
            Masks (B, C, L, F), summing to one.
        """
        settings, features = self.settings, features.float()
        weights = bin_weights(features.exp(), settings.weighting, settings.floor_db)
        alpha = self.log_alpha.float().exp()
        if centroids is not None:
            _, masks = soft_kmeans(embeddings, centroids, weights, alpha, 0)
        elif settings.block is None:
            start = hard_start(embeddings, num_sources, weights)
            _, masks = soft_kmeans(embeddings, start, weights, alpha, settings.steps)
        else:
            block = settings.block * features.shape[-1]  # in bins
            masks = following_kmeans(embeddings, num_sources, weights, alpha, settings.steps, block)
        masks = masks.view(*masks.shape[:2], *features.shape[1:])
        if not settings.layers:
            return masks
        masked = (features.unsqueeze(1) + _log(masks)).clamp_min(math.log(FLOOR))  # (B, C, L, F)
        scores: Tensor = self.enhance(normalise(features), normalise(masked))
        # Scores are added to the log masks, so that untrained ones, all zero, change nothing.
        return (_log(masks) + scores).softmax(1)


def _log(masks: Tensor) -> Tensor:
    """Return the log of masks, cut at the floor of features so that no gradient explodes."""
    return masks.clamp_min(FLOOR).log()
