"""Gated dilated convolutions over the frames, with all bins as channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpcl.networks.base import EmbeddingNetwork, Heads, input_dtype

TAPS = 3  # kernel size of a convolution, in frames
CYCLE = 6  # layers after which the dilations 1, 2, 4, ..., 32 start again at 1

# State of a stream: for each layer the past frames (1, back, C) that it needs, and its kernel as a
# matrix (2C, TAPS*C). Rearranging the kernel takes ten times the time of applying it to a frame.
State = tuple[tuple[Tensor, Tensor], ...]


class ConvolutionalEmbedding(EmbeddingNetwork):
    """Trunk of residual layers with one gated dilated convolution each.

    Twelve layers see 126 frames on each side; if `causal`, twice that number back and none ahead.
    Norms are computed per frame, so that they see no other frame.

    Args:
        bins: number of frequency bins F.
        layers: number of convolutions.
        width: number of channels.
        heads: heads and the sizes of their outputs.
        dropout: probability, in every layer and before the heads.
        causal: past and current frames only, for streams.

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
        """Encode features (B, L, F) as frames (B, L, width)."""
        return self._through(features, None)[0]

    def encode_next(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Encode the next frames (L, F) of a stream: frames (L, width) and the new state."""
        encoded, state = self._through(features.unsqueeze(0), state)
        return encoded[0], state

    def _through(self, features: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Run features (B, L, F) through all layers: encoded frames and the new state."""
        x = self.normalise(features).to(input_dtype(self.enter))
        x = self.enter(x)
        states = []
        for layer, before in zip(self.layers, state or [None] * len(self.layers), strict=True):
            x, after = layer(x, before)
            states.append(after)
        return self.norm(x), tuple(states)


class GatedConvolution(nn.Module):
    """Residual layer: adds a gated dilated convolution along the frames to its input.

    The gate is linear times sigmoid (Dauphin et al. 2017), whose gradient does not vanish.
    """

    def __init__(self, width: int, dilation: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.dilation, self.dropout = dilation, dropout
        reach = (TAPS - 1) * dilation  # frames of the kernel beside the current one
        self.back = reach if causal else reach // 2
        self.ahead = reach - self.back
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, 2 * width, TAPS, dilation=dilation)
        self.leave = nn.Linear(width, width)

    def forward(
        self, x: Tensor, before: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Apply the layer. Frames before the start and after the end count as zeros.

        Args:
            x: (B, L, C).
            before: state after the previous frames of a stream (see `State`); None at the start.

        Returns:
            Sum (B, L, C) of input and convolution, and the state for the next frames.
        """
        frames = functional.pad(self.norm(x), (0, 0, self.back, self.ahead))
        if before is None:
            kernel = self.convolution.weight.transpose(1, 2).flatten(1)
        else:
            frames[:, : self.back], kernel = before
        # The convolution is one matrix product: torch's own is far slower on the few frames that a
        # stream delivers at a time, and no faster on many.
        taps = [frames[:, i * self.dilation :][:, : x.shape[1]] for i in range(TAPS)]
        gated = functional.linear(torch.cat(taps, -1), kernel, self.convolution.bias)  # (B, L, 2C)
        inner = functional.dropout(functional.glu(gated, -1), self.dropout, self.training)
        return x + self.leave(inner), (frames[:, -self.back :], kernel)
