"""Enhancement networks: from the mixture and the masked mixture of a source to scores of its bins.

All scores are zero before training. In Isik et al. 2016 the scores alone make the masks; here they
are added to the logarithm of the masks of the clustering.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpcl.networks.base import random_vectors
from dpcl.networks.dual_path import band_count, overlapping_bands
from dpcl.networks.lstm import lstm_layers
from dpcl.networks.precision import input_dtype

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
