"""Dual-path trunk: LSTMs across overlapping frequency bands and along time, in turn."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpcl.networks.base import EmbeddingNetwork, Heads, random_vectors
from dpcl.networks.lstm import LSTMState, lstm_layers


def band_count(bins: int, stride: int) -> int:
    """How many bands N `overlapping_bands` makes of so many bins."""
    return (bins + stride - 1) // stride + 1


def overlapping_bands(values: Tensor, stride: int) -> Tensor:
    """values (..., F) -> (..., N, 2*stride): bands of 2*stride bins, `stride` from one to the next.

    Every bin is in two of them: below the first bin there are `stride` zeros, above as many as fill
    the last band.
    """
    bins = values.shape[-1]
    above = band_count(bins, stride) * stride - bins
    padded = functional.pad(values, (stride, above))
    halves = padded.reshape(*values.shape[:-1], -1, stride)  # (..., N + 1, stride)
    return torch.cat([halves[..., :-1, :], halves[..., 1:, :]], dim=-1)


STRIDE = 8  # bins from band to band; a band reaches over twice as many
PER_BIN = 24  # values that the heads see of a bin
NEIGHBOURS = 5  # bins whose features they come from, beside the bands

States = tuple[LSTMState, ...]  # of each block's LSTM along time, for each band: (1, N, width)


class DualPathEmbedding(EmbeddingNetwork):
    """Bands of a few bins, LSTMs across them and along time in turn, and back to features per bin.

    layers: blocks of one LSTM each way; width: channels of a band, and units of an LSTM per
    direction; dropout: after every LSTM and before the heads. Weights are the same for all bands,
    which a learned vector each tells apart. Across bands it always hears both ways; if `causal`,
    along time forward only.

    Source: the paths of dual-path RNN (Luo, Chen, Yoshioka 2020) on the axes of time and frequency,
    as in band-split RNN (Luo and Yu 2023) and TF-GridNet (Wang et al. 2023), whose overlapping
    bands and transposed convolution back to bins these are.
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
        super().__init__(bins, PER_BIN, heads, dropout, per_bin=True)
        self.causal = causal
        bands = band_count(bins, STRIDE)
        self.split = nn.Linear(2 * STRIDE, width)
        self.place = random_vectors(bands, width, 0.1)
        self.blocks = nn.ModuleList(DualPath(width, dropout, causal) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.join = nn.ConvTranspose1d(width, PER_BIN, 2 * STRIDE, STRIDE)
        self.near = nn.Conv1d(1, PER_BIN, NEIGHBOURS, padding="same")

    def encode(self, features: Tensor) -> Tensor:
        """features (B, L, F) -> (B, L, F*PER_BIN)."""
        return self._through(features, None)[0]

    def encode_next(self, features: Tensor, state: States | None = None) -> tuple[Tensor, States]:
        """As `encode` for the next frames of a stream: (L, F) -> (L, F*PER_BIN), new state."""
        if state is None:
            zeros = features.new_zeros(1, *self.place.shape)
            state = ((zeros, zeros),) * len(self.blocks)
        encoded, state = self._through(features.unsqueeze(0), state)
        return encoded[0], state

    def _through(self, features: Tensor, state: States | None) -> tuple[Tensor, States]:
        x = ((features - self.mean) / self.std).to(self.place.dtype)
        bins = x.shape[-1]
        near = self.near(x.reshape(-1, 1, bins))  # (B*L, PER_BIN, F)
        bands = self.split(overlapping_bands(x, STRIDE)) + self.place  # (B, L, N, width)
        states = []
        for block, before in zip(self.blocks, state or [None] * len(self.blocks), strict=True):
            bands, after = block(bands, before)
            states.append(after)
        frames = self.norm(bands).flatten(0, 1).transpose(1, 2)  # (B*L, width, N)
        joined = self.join(frames)  # (B*L, PER_BIN, STRIDE + F or more)
        near = functional.leaky_relu(near + joined[..., STRIDE : STRIDE + bins], 0.1)
        return near.transpose(1, 2).reshape(*x.shape[:2], -1), tuple(states)


class DualPath(nn.Module):
    """x (B, L, N, C) -> x + what an LSTM across its bands N, then one along its frames L, adds."""

    def __init__(self, width: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.dropout = dropout
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.across = nn.LSTM(width, width, bidirectional=True)
        self.along = nn.LSTM(width, width, bidirectional=not causal)
        self.leave_across = nn.Linear(2 * width, width)
        self.leave_along = nn.Linear((2 - causal) * width, width)

    def forward(self, x: Tensor, state: LSTMState | None) -> tuple[Tensor, LSTMState | None]:
        """state: of the LSTM along time after the frames before, for each band."""
        batch, frames, bands, _ = x.shape
        y = self.norms[0](x).flatten(0, 1).transpose(0, 1)  # (N, B*L, C)
        y, _ = lstm_layers(self.across, y)
        y = self._out(self.leave_across, y.transpose(0, 1))
        x = x + y.view(batch, frames, bands, -1)
        y = self.norms[1](x).transpose(0, 1).flatten(1, 2)  # (L, B*N, C)
        y, state = lstm_layers(self.along, y, state)
        y = self._out(self.leave_along, y).view(frames, batch, bands, -1)
        return x + y.transpose(0, 1), state

    def _out(self, leave: nn.Linear, y: Tensor) -> Tensor:
        result: Tensor = leave(functional.dropout(y, self.dropout, self.training))
        return result
