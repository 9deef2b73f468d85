"""Gated dilated convolutions over the frames, with all bins as channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpcl.networks.base import EmbeddingNetwork, Heads
from dpcl.networks.precision import input_dtype

TAPS = 3  # frames that a convolution sees
CYCLE = 6  # dilations 1, 2, 4, ..., 32, then again from 1

# Of each layer, the frames (1, back, C) that it still needs, and its kernel (2C, TAPS*C): to lay it
# out takes ten times as long as to use it on a frame.
State = tuple[tuple[Tensor, Tensor], ...]


class ConvolutionalEmbedding(EmbeddingNetwork):
    """Residual layers of one gated dilated convolution each.

    layers, width: convolutions and channels; dropout: in every layer and before the heads. Twelve
    layers see 126 frames to each side; if `causal`, twice as many back and none ahead. Norms are
    those of a frame, so that they look nowhere else.

    Source: Li and Kameoka 2018 (deep clustering with gated convolutions), dilations and residual
    layers as in van den Oord et al. 2016 (WaveNet) and Luo and Mesgarani 2019 (Conv-TasNet). Their
    sum of skips is the residual path itself, whose norm the heads read.
    """

    def __init__(
        self,
        bins: int,
        layers: int,
        width: int,
        heads: Heads,
        dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__(bins, width, heads, dropout)
        self.causal = causal
        self.enter = nn.Linear(bins, width)
        self.layers = nn.ModuleList(
            GatedConvolution(width, 2 ** (i % CYCLE), dropout, causal) for i in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def encode(self, features: Tensor) -> Tensor:
        """features (B, L, F) -> (B, L, width)."""
        return self._through(features, None)[0]

    def encode_next(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `encode` for the next frames of a stream: features (L, F) -> (L, width), new state."""
        encoded, state = self._through(features.unsqueeze(0), state)
        return encoded[0], state

    def _through(self, features: Tensor, state: State | None) -> tuple[Tensor, State]:
        x = ((features - self.mean) / self.std).to(input_dtype(self.enter))
        x = self.enter(x)
        states = []
        for layer, before in zip(self.layers, state or [None] * len(self.layers), strict=True):
            x, after = layer(x, before)
            states.append(after)
        return self.norm(x), tuple(states)


class GatedConvolution(nn.Module):
    """x (B, L, C) -> x + what a gated dilated convolution over its frames adds.

    The gate is linear times sigmoid (Dauphin et al. 2017), whose gradient does not vanish.
    """

    def __init__(self, width: int, dilation: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.dilation, self.dropout = dilation, dropout
        reach = (TAPS - 1) * dilation  # frames beside the one that is computed
        self.back = reach if causal else reach // 2
        self.ahead = reach - self.back
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, 2 * width, TAPS, dilation=dilation)
        self.leave = nn.Linear(width, width)

    def forward(
        self, x: Tensor, before: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The sum (B, L, C), and the state for the frames that follow (see `State`).

        Beyond the ends, and before the first frame of a stream, are zeros.
        """
        frames = functional.pad(self.norm(x), (0, 0, self.back, self.ahead))
        if before is None:
            kernel = self.convolution.weight.transpose(1, 2).flatten(1)
        else:
            frames[:, : self.back], kernel = before
        # As one matrix product: torch's convolution is far slower on the few frames that a stream
        # brings at a time, and no faster on many.
        taps = [frames[:, i * self.dilation :][:, : x.shape[1]] for i in range(TAPS)]
        both = functional.linear(torch.cat(taps, -1), kernel, self.convolution.bias)  # (B, L, 2C)
        inner = functional.dropout(functional.glu(both, -1), self.dropout, self.training)
        return x + self.leave(inner), (frames[:, -self.back :], kernel)
