"""What a voice sounds like: a unit vector of the seconds around each half second of a source.

Embeddings tell talkers apart that are heard together, and drift; this network hears one source at a
time, as its mask leaves it, and was taught who of hundreds of talkers it is: vectors of one talker
are alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 2  # one frame of so many is heard
HOP = 16  # such frames from vector to vector, about half a second
REACH = 55  # such frames before and after the middle of one that it hears
BANDS = 33  # above a quarter of the band; below, every bin shows the harmonics of a voice
DEEPEST_DB = -60.0  # of a band, under the loudest of the window
WIDTH, SIZE = 160, 48  # channels; D of a vector
LAYERS = (5, 1), (5, 2), (3, 3), (1, 1)  # taps and dilation of each convolution


@dataclass(frozen=True)
class Voices:
    """Of the sources of a window, and after them of the mixture."""

    vectors: Tensor  # (C + 1, n, D), unit length
    loudness: Tensor  # (C + 1, n), the root of the energy behind each


class VoiceNetwork(nn.Module):
    """Convolutions along time, then mean and deviation around a frame, weighted by attention.

    bins: F of the spectrum. Fitted by benchmarks/talker_activity.py.
    Sources: x-vectors, Snyder et al. 2018; attentive statistics, Okabe et al. 2018.
    """

    pool: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        pool = voice_bands(bins)
        self.register_buffer("pool", pool)
        sizes = [len(pool), *[WIDTH] * (len(LAYERS) - 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, WIDTH, taps, dilation=dilation, padding="same")
            for size, (taps, dilation) in zip(sizes, LAYERS, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in LAYERS)
        self.attention = nn.Conv1d(WIDTH, 1, 1)
        self.out = nn.Linear(2 * WIDTH, SIZE)
        self.last = nn.BatchNorm1d(SIZE)

    def levels(self, masks: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (C, l, F) and magnitude (l, F) of every STRIDE-th frame of a window -> levels of
        bands (C + 1, l, bands) of its sources and of all together, each relative to its loudest,
        about -1 to 2; and the root of the energy in each HOP frames (C + 1, n).
        """
        energies = torch.cat([masks * magnitude, magnitude[None]]).square()
        level = 10 * (energies @ self.pool.mT + 1e-9).log10()
        relative = (level - level.amax((1, 2), keepdim=True)).clamp_min(DEEPEST_DB)
        energy = energies.sum(-1)  # (C + 1, l)
        blocks = functional.pad(energy, (0, -energy.shape[-1] % HOP)).view(len(energy), -1, HOP)
        return (relative + 40) / 20, blocks.sum(-1).sqrt()

    def forward(self, levels: Tensor) -> Tensor:
        """Levels (N, l, bands) -> vectors (N, n, D), one of each HOP frames."""
        x = levels.mT
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.relu(norm(convolution(x)))  # (N, WIDTH, l)
        weight = self.attention(x)
        weight = (weight - weight.amax(-1, keepdim=True)).exp()
        some = around(torch.cat([weight, weight * x, weight * x.square()], 1))  # (N, ..., n)
        whole, first, second = torch.split(some, [1, WIDTH, WIDTH], 1)
        whole = whole.clamp_min(1e-9)
        mean = first / whole
        deviation = (second / whole - mean.square()).clamp_min(1e-5).sqrt()
        vectors = self.out(torch.cat([mean, deviation], 1).mT)  # (N, n, D)
        return functional.normalize(self.last(vectors.mT).mT, dim=-1)


def around(x: Tensor) -> Tensor:
    """Means (N, C, n) of x (N, C, l) within REACH of the middle of each HOP frames.

    What is beyond the ends counts as zeros, which a ratio of two such means does without.
    """
    frames = torch.arange(x.shape[-1], device=x.device)
    middles = frames[::HOP] + HOP // 2
    near = (frames.unsqueeze(-1) - middles).abs() <= REACH  # (l, n)
    return x @ (near.to(x.dtype) / (2 * REACH + 1))  # a fifth of the time of a pooling


def voice_bands(bins: int) -> Tensor:
    """Weights (bands, F) that average the energy of bins."""
    low = bins // 4
    high = np.geomspace(low, bins, BANDS + 1).round().astype(int)
    edges = np.concatenate([np.arange(1, low), np.unique(high)])
    pool = torch.zeros(len(edges) - 1, bins)
    for band, (first, end) in enumerate(pairwise(edges)):
        pool[band, first:end] = 1 / float(end - first)
    return pool
