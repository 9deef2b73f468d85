"""Head of unfolded clustering: masks by steps of soft k-means, then by an enhancement network.

An enhancement network maps the mixture and the masked mixture of a source to scores of its bins.
All scores are zero before training. In Isik et al. 2016 the scores alone make the masks; here they
are added to the logarithm of the masks of the clustering.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dpcl.clustering.kmeans import following_kmeans, hard_start, soft_kmeans
from dpcl.networks.base import input_dtype, random_vectors
from dpcl.networks.dual_path import band_count, overlapping_bands
from dpcl.networks.lstm import lstm_layers
from dpcl.settings import Settings
from dpcl.signal.features import FLOOR, Weighting, bin_weights

STRIDE = 16  # bins from one band to the next; a band covers twice this number
SHARE = 24  # values of a band that reach the other bands of its frame


class BLSTMEnhancement(nn.Module):
    """BLSTM for one source, shared by all sources.

    Source: Isik et al. 2016, section 2.5.
    """

    def __init__(self, bins: int, layers: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.lstm = nn.LSTM(
            2 * bins, width, layers, bidirectional=True, dropout=dropout if layers > 1 else 0.0
        )
        self.out = _zeroed(nn.Linear(2 * width, bins))

    def forward(self, mixture: Tensor, masked: Tensor) -> Tensor:
        """Score the bins of each source.

        Args:
            mixture: features of the mixture (B, L, F).
            masked: features of the masked mixtures (B, C, L, F), one for each source.

        Returns:
            Scores (B, C, L, F).
        """
        pairs = torch.cat([mixture.unsqueeze(1).expand_as(masked), masked], dim=-1)
        pairs = pairs.flatten(0, 1).transpose(0, 1)  # (L, B*C, 2F)
        encoded = lstm_layers(self.lstm, pairs)[0]  # (L, B*C, 2*width)
        encoded = functional.dropout(encoded, self.dropout, self.training)
        if not torch.is_autocast_enabled(encoded.device.type):
            encoded = encoded.to(input_dtype(self.out))
        scores: Tensor = self.out(encoded)
        return scores.float().transpose(0, 1).reshape(masked.shape)


class DualPathEnhancement(nn.Module):
    """Network along time and across bands in turn, with an average over the sources.

    Args:
        bins: number of frequency bins F.
        layers: number of blocks.
        width: channels of a band, and units of an LSTM per direction.
        dropout: probability, in every block.

    Sources: the axes are those of dpcl.networks.dual_path. In place of an LSTM across bands, a
    perceptron over all bands follows a squeeze to few channels, as in the full-band linear module
    of SpatialNet (Quan and Li 2024): a training step takes 0.6 of the time. Of
    transform-average-concatenate (Luo, Chen, Mesgarani, Yoshioka 2020) only the average is used,
    and added to all.
    """

    def __init__(self, bins: int, layers: int, width: int, dropout: float) -> None:
        super().__init__()
        bands = band_count(bins, STRIDE)
        self.split = nn.Linear(4 * STRIDE, width)
        self.place = random_vectors(bands, width, 0.1)
        self.blocks = nn.ModuleList(Block(bands, width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = _zeroed(nn.Linear(width, 2 * STRIDE))

    def forward(self, mixture: Tensor, masked: Tensor) -> Tensor:
        """Score the bins of each source.

        Args:
            mixture: features of the mixture (B, L, F).
            masked: features of the masked mixtures (B, C, L, F), one for each source.

        Returns:
            Scores (B, C, L, F).
        """
        pairs = torch.stack([mixture.unsqueeze(1).expand_as(masked), masked], dim=-2)
        bands = overlapping_bands(pairs.to(self.place.dtype), STRIDE)
        x = self.split(bands.transpose(-2, -3).flatten(-2)) + self.place  # (B, C, L, N, width)
        for block in self.blocks:
            x = block(x)
        scores = self.out(self.norm(x)).float().unflatten(-1, (2, STRIDE))  # (B, C, L, N, 2, S)
        scores = scores[..., 1:, 0, :] + scores[..., :-1, 1, :]  # sum of both bands of a bin
        result: Tensor = scores.flatten(-2)[..., : masked.shape[-1]]
        return result


class Block(nn.Module):
    """Residual block for (B, C, L, N, width): exchange between sources, bands and frames."""

    def __init__(self, bands: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.others = nn.Linear(width, width)
        self.enter = nn.Linear(width, SHARE)
        self.across = nn.Sequential(
            nn.Linear(bands * SHARE, 2 * bands * SHARE),
            nn.GELU(),
            nn.Linear(2 * bands * SHARE, bands * SHARE),
        )
        self.leave_across = nn.Linear(SHARE, width)
        self.along = nn.LSTM(width, width, bidirectional=True)
        self.leave_along = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x (B, C, L, N, width)."""
        batch, sources, _, bands, _ = x.shape
        y = self.norms[0](x)
        average = self.others(y.mean(1, keepdim=True))  # over the sources
        y = self.across(self.enter(y).flatten(-2)).unflatten(-1, (bands, SHARE))
        x = x + average + self.leave_across(self._drop(y))
        y = self.norms[1](x).movedim(2, 0).flatten(1, 3)  # (L, B*C*N, width)
        y = self.leave_along(self._drop(lstm_layers(self.along, y)[0]))
        result: Tensor = x + y.unflatten(1, (batch, sources, bands)).movedim(0, 2)
        return result

    def _drop(self, y: Tensor) -> Tensor:
        """Apply dropout."""
        return functional.dropout(y, self.dropout, self.training)


def _zeroed(layer: nn.Linear) -> nn.Linear:
    """Return the layer with all weights zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


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
