"""Gated dilated convolutions over the frames, with all bins as channels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dpcl.networks.embedding_network import EmbeddingNetwork, Heads

TAPS = 3  # frames that a convolution sees
CYCLE = 6  # dilations 1, 2, 4, ..., 32, then again from 1

Past = tuple[Tensor, ...]  # of each layer, the frames (1, back, width) that it still needs


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

    def hear(self, features: Tensor) -> Tensor:
        """features (B, L, F) -> (B, L, width)."""
        return self._through(features, None)[0]

    def hear_on(self, features: Tensor, state: Past | None = None) -> tuple[Tensor, Past]:
        """As `hear` for the next frames of a stream: features (L, F) -> (L, width), new state."""
        heard, state = self._through(features.unsqueeze(0), state)
        return heard[0], state

    def _through(self, features: Tensor, state: Past | None) -> tuple[Tensor, Past]:
        x = ((features - self.mean) / self.std).to(self.enter.weight.dtype)
        x = self.enter(x)
        pasts = []
        for layer, past in zip(self.layers, state or [None] * len(self.layers), strict=True):
            x, past = layer(x, past)
            pasts.append(past)
        return self.norm(x), tuple(pasts)


class GatedConvolution(nn.Module):
    """x (B, L, C) -> x + what a gated dilated convolution over its frames adds.

    The gate is linear times sigmoid (Dauphin et al. 2017), whose gradient does not vanish.
    """

    def __init__(self, width: int, dilation: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.dropout = dropout
        reach = (TAPS - 1) * dilation  # frames beside the one that is computed
        self.back = reach if causal else reach // 2
        self.ahead = reach - self.back
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, 2 * width, TAPS, dilation=dilation)
        self.leave = nn.Linear(width, width)

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """The sum (B, L, C), and the last `back` normed frames, the `past` of those that follow.

        Beyond the ends, and where there is no past, are zeros.
        """
        frames = functional.pad(self.norm(x), (0, 0, self.back, self.ahead))
        if past is not None:
            frames[:, : self.back] = past
        both = self.convolution(frames.mT).mT  # (B, L, 2C)
        inner = functional.dropout(functional.glu(both, -1), self.dropout, self.training)
        return x + self.leave(inner), frames[:, -self.back :]
