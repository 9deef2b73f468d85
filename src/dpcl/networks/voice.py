"""Network that maps frames to voice vectors: who speaks, whatever is said."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

VOICE_STRIDE = 2  # frames from one encoded frame to the next
HOP = 16  # encoded frames from one voice vector to the next: about half a second
REACH = 55  # encoded frames pooled on each side of the middle of a vector's HOP frames
# Bands above the lowest quarter of the bins. Each bin of that quarter is a band of its own, because
# it resolves the harmonics of a voice.
BANDS = 33
DEEPEST_DB = -60.0  # lowest level of a band, relative to the loudest band of the window
WIDTH, SIZE = 160, 48  # channels of the convolutions; values D of a voice vector
LAYERS = (5, 1), (5, 2), (3, 3), (1, 1)  # kernel size and dilation of each convolution


@dataclass(frozen=True)
class Voices:
    """Voice vectors of the sources of a window, followed by the vectors of the mixture.

    Attributes:
        vectors: (C + 1, n, D), of unit length.
        loudness: (C + 1, n), root of the energy of the HOP encoded frames of each vector.
    """

    vectors: Tensor
    loudness: Tensor


class VoiceNetwork(nn.Module):
    """Convolutional network from band levels to voice vectors.

    Convolutions run along time. Mean and deviation around a frame, weighted by attention, then give
    one vector. Fitted by the phase `fit: voice` of a recipe; the one of the activity network by
    `fit: activity`, on the bins of clusters.

    Args:
        bins: number of bins F of the spectrum.
        width: channels of the convolutions.
        size: values D of a vector.

    Sources: x-vectors, Snyder et al. 2018; attentive statistics, Okabe et al. 2018.
    """

    pool: Tensor

    def __init__(self, bins: int, width: int = WIDTH, size: int = SIZE) -> None:
        super().__init__()
        pool = voice_bands(bins)
        self.register_buffer("pool", pool)
        sizes = [len(pool), *[width] * (len(LAYERS) - 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(channels, width, taps, dilation=dilation, padding="same")
            for channels, (taps, dilation) in zip(sizes, LAYERS, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in LAYERS)
        self.attention = nn.Conv1d(width, 1, 1)
        self.out = nn.Linear(2 * width, size)
        self.last = nn.BatchNorm1d(size)

    def levels(self, masks: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the band levels of the sources of a window and of the mixture.

        Args:
            masks: (C, l, F), of every VOICE_STRIDE-th frame.
            magnitude: (l, F), of the same frames.

        Returns:
            Levels (C + 1, l, bands), about -1 to 2, each row relative to its own loudest band; and
            the root of the energy in every HOP frames (C + 1, n).
        """
        energies = torch.cat([masks * magnitude, magnitude[None]]).square()
        level = 10 * (energies @ self.pool.mT + 1e-9).log10()
        relative = (level - level.amax((1, 2), keepdim=True)).clamp_min(DEEPEST_DB)
        energy = energies.sum(-1)  # (C + 1, l)
        blocks = functional.pad(energy, (0, -energy.shape[-1] % HOP)).view(len(energy), -1, HOP)
        return (relative + 40) / 20, blocks.sum(-1).sqrt()

    def forward(self, levels: Tensor) -> Tensor:
        """Encode levels as voice vectors.

        Args:
            levels: (N, l, bands), from `levels`.

        Returns:
            Vectors (N, n, D) of unit length, one for every HOP frames.
        """
        return self.finish(around(self.moments(levels)))

    def pooled(self, levels: Tensor, weights: Tensor) -> Tensor:
        """Encode levels (N, l, bands) as one vector for each weighting of the frames.

        Args:
            levels: (N, l, bands).
            weights: (N, l, n), weight of each frame in each of n vectors.

        Returns:
            Vectors (N, n, D) of unit length.
        """
        return self.finish(self.moments(levels) @ weights)

    def moments(self, levels: Tensor) -> Tensor:
        """Return attention, and first and second moments weighted by it, (N, 1 + 2*width, l)."""
        x = levels.mT
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.relu(norm(convolution(x)))  # (N, width, l)
        weight = self.attention(x)
        weight = (weight - weight.amax(-1, keepdim=True)).exp()
        return torch.cat([weight, weight * x, weight * x.square()], 1)

    def finish(self, moments: Tensor) -> Tensor:
        """Turn pooled moments (N, 1 + 2*width, n) into vectors (N, n, D) of unit length."""
        width = self.attention.in_channels
        total, first, second = torch.split(moments, [1, width, width], 1)
        total = total.clamp_min(1e-9)
        mean = first / total
        deviation = (second / total - mean.square()).clamp_min(1e-5).sqrt()
        vectors = self.out(torch.cat([mean, deviation], 1).mT)  # (N, n, D)
        return functional.normalize(self.last(vectors.mT).mT, dim=-1)


def around(x: Tensor) -> Tensor:
    """Average over the frames within REACH of the middle of every HOP frames.

    Frames beyond the ends count as zeros. Their number cancels in the ratio of two such averages.

    Args:
        x: (N, C, l).

    Returns:
        Averages (N, C, n).
    """
    frames = torch.arange(x.shape[-1], device=x.device)
    middles = frames[::HOP] + HOP // 2
    near = (frames.unsqueeze(-1) - middles).abs() <= REACH  # (l, n)
    return x @ (near.to(x.dtype) / (2 * REACH + 1))  # takes a fifth of the time of pooling


def voice_bands(bins: int) -> Tensor:
    """Return the weights that average the energy of bins into bands.

    Args:
        bins: number of bins F.

    Returns:
        Weights (bands, F); the first bin belongs to no band.
    """
    low = bins // 4
    high = np.geomspace(low, bins, BANDS + 1).round().astype(int)
    edges = np.concatenate([np.arange(1, low), np.unique(high)])
    pool = torch.zeros(len(edges) - 1, bins)
    for band, (first, end) in enumerate(pairwise(edges)):
        pool[band, first:end] = 1 / float(end - first)
    return pool
