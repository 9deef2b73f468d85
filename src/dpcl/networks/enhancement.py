"""Enhancement networks: they hear the mixture beside a source as it is so far, and score its bins.

They begin without a say: all scores are zero. In Isik et al. 2016 the scores alone make the masks;
here they are added to the logarithm of the masks that the clustering gave.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpcl.networks.base import random_vectors
from dpcl.networks.dual_path import band_count, overlapping_bands
from dpcl.networks.lstm import lstm_layers
from dpcl.networks.precision import input_dtype

STRIDE = 16  # bins from band to band; a band reaches over twice as many
SHARE = 24  # values of a band that the other bands of its frame hear


class BLSTMEnhancement(nn.Module):
    """A BLSTM for one source, the same for every source. Source: Isik et al. 2016, section 2.5."""

    def __init__(self, bins: int, layers: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.lstm = nn.LSTM(
            2 * bins, width, layers, bidirectional=True, dropout=dropout if layers > 1 else 0.0
        )
        self.out = _silent(nn.Linear(2 * width, bins))

    def forward(self, mixture: Tensor, masked: Tensor) -> Tensor:
        """Features of the mixture (B, L, F), of its masked forms (B, C, L, F) -> (B, C, L, F)."""
        pairs = torch.cat([mixture.unsqueeze(1).expand_as(masked), masked], dim=-1)
        pairs = pairs.flatten(0, 1).transpose(0, 1)  # (L, B*C, 2F)
        encoded = lstm_layers(self.lstm, pairs)[0]  # (L, B*C, 2*width)
        encoded = functional.dropout(encoded, self.dropout, self.training)
        if not torch.is_autocast_enabled(encoded.device.type):
            encoded = encoded.to(input_dtype(self.out))
        scores: Tensor = self.out(encoded)
        return scores.float().transpose(0, 1).reshape(masked.shape)


class DualPathEnhancement(nn.Module):
    """Bands of a few bins, along time and across each other in turn; sources hear one another.

    layers: blocks; width: channels of a band, and units of an LSTM per direction.
    Sources: the axes are those of dpcl.networks.dual_path. Across bands there is no LSTM but, after
    a squeeze to few channels as in the full-band linear module of SpatialNet (Quan and Li 2024), a
    perceptron over all of them at once: a training step takes 0.6 of the time. Of
    transform-average-concatenate (Luo, Chen, Mesgarani, Yoshioka 2020) the average, added to all.
    """

    def __init__(self, bins: int, layers: int, width: int, dropout: float) -> None:
        super().__init__()
        bands = band_count(bins, STRIDE)
        self.split = nn.Linear(4 * STRIDE, width)
        self.place = random_vectors(bands, width, 0.1)
        self.blocks = nn.ModuleList(Block(bands, width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = _silent(nn.Linear(width, 2 * STRIDE))

    def forward(self, mixture: Tensor, masked: Tensor) -> Tensor:
        """Features of the mixture (B, L, F), of its masked forms (B, C, L, F) -> (B, C, L, F)."""
        pairs = torch.stack([mixture.unsqueeze(1).expand_as(masked), masked], dim=-2)
        bands = overlapping_bands(pairs.to(self.place.dtype), STRIDE)
        x = self.split(bands.transpose(-2, -3).flatten(-2)) + self.place  # (B, C, L, N, width)
        for block in self.blocks:
            x = block(x)
        scores = self.out(self.norm(x)).float().unflatten(-1, (2, STRIDE))  # (B, C, L, N, 2, S)
        scores = scores[..., 1:, 0, :] + scores[..., :-1, 1, :]  # of both bands that hold a bin
        result: Tensor = scores.flatten(-2)[..., : masked.shape[-1]]
        return result


class Block(nn.Module):
    """x (B, C, L, N, width) -> x and what the sources, the bands and the frames tell of it."""

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
        """Shapes as above."""
        batch, sources, _, bands, _ = x.shape
        y = self.norms[0](x)
        told = self.others(y.mean(1, keepdim=True))
        y = self.across(self.enter(y).flatten(-2)).unflatten(-1, (bands, SHARE))
        x = x + told + self.leave_across(self._drop(y))
        y = self.norms[1](x).movedim(2, 0).flatten(1, 3)  # (L, B*C*N, width)
        y = self.leave_along(self._drop(lstm_layers(self.along, y)[0]))
        result: Tensor = x + y.unflatten(1, (batch, sources, bands)).movedim(0, 2)
        return result

    def _drop(self, y: Tensor) -> Tensor:
        return functional.dropout(y, self.dropout, self.training)


def _silent(layer: nn.Linear) -> nn.Linear:
    """The layer with all weights zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
