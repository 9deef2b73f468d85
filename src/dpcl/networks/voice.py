"""Voice head: vectors that identify talkers, pooled from the frames of a trunk.

The values of a trunk that learned to separate talkers in rooms and noise depend much on the voice,
and little on the noise. The head reduces the values of each frame, and attentive statistics over
any frames of one talker become one vector. Fitted by the phase `fit: voice` of a recipe.

Sources: attentive statistics, Okabe et al. 2018; x-vectors, Snyder et al. 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SQUEEZED = 16  # values that a group of a frame is reduced to
WIDTH, SIZE = 160, 96  # channels of the convolutions; values D of a voice vector
TAPS, DILATIONS = 3, (1, 2)  # kernel size and dilations of the convolutions
STEEPEST = 8.0  # largest size of the log of an attention


class VoiceHead(nn.Module):
    """Head from the frames of a trunk to voice vectors.

    Args:
        groups: groups of values G that a frame has, such as its bands.
        values: values of each group.
        width: channels of the convolutions.
        size: values D of a vector.

    Example:
        >>> head = VoiceHead(groups=34, values=64).eval()
        >>> frames = torch.randn(1, 100, 34, 64)
        >>> head.pooled(frames, torch.ones(1, 100, 1)).shape
        torch.Size([1, 1, 96])
    """

    def __init__(self, groups: int, values: int, width: int = WIDTH, size: int = SIZE) -> None:
        super().__init__()
        self.squeeze = nn.Linear(values, SQUEEZED)
        self.gather = nn.Linear(groups * SQUEEZED, width)
        self.first = nn.BatchNorm1d(width)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, TAPS, dilation=dilation, padding="same")
            for dilation in DILATIONS
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in DILATIONS)
        self.attention = nn.Conv1d(width, 1, 1)
        self.out = nn.Linear(2 * width, size)
        self.last = nn.BatchNorm1d(size)

    def pooled(self, frames: Tensor, weights: Tensor) -> Tensor:
        """Encode frames as one vector for each weighting of them.

        Args:
            frames: (B, L, G, values), of EmbeddingNetwork.frame_values.
            weights: (B, L, n), weight of each frame in each of n vectors.

        Returns:
            Vectors (B, n, D) of unit length.
        """
        return self.finish(self.moments(frames) @ weights)

    def moments(self, frames: Tensor) -> Tensor:
        """Return attention, and first and second moments weighted by it, (B, 1 + 2*width, L)."""
        squeezed = functional.silu(self.squeeze(frames)).flatten(-2)
        x = functional.relu(self.first(self.gather(squeezed).mT))  # (B, width, L)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = x + functional.relu(norm(convolution(x)))
        weight = self.attention(x).clamp(-STEEPEST, STEEPEST).exp()
        return torch.cat([weight, weight * x, weight * x.square()], 1)

    def finish(self, moments: Tensor) -> Tensor:
        """Turn pooled moments (B, 1 + 2*width, n) into vectors (B, n, D) of unit length."""
        width = self.attention.in_channels
        total, first, second = torch.split(moments, [1, width, width], 1)
        total = total.clamp_min(1e-9)
        mean = first / total
        deviation = (second / total - mean.square()).clamp_min(1e-4).sqrt()
        vectors = self.out(torch.cat([mean, deviation], 1).mT)  # (B, n, D)
        return functional.normalize(self.last(vectors.mT).mT, dim=-1)
