"""Dual-path trunk: LSTMs alternate across overlapping frequency bands and along time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpcl.networks.base import EmbeddingNetwork, Heads, random_vectors
from dpcl.networks.lstm import LSTMState, lstm_layers


def band_count(bins: int, stride: int) -> int:
    """Return the number of bands N that `overlapping_bands` makes.

    Args:
        bins: number of bins F.
        stride: bins from one band to the next.

    Example:
        >>> band_count(129, 8)
        18
    """
    return (bins + stride - 1) // stride + 1


def overlapping_bands(values: Tensor, stride: int) -> Tensor:
    """Cut bins into overlapping bands.

    Every bin is in two bands. Below the first bin there are `stride` zeros; zeros above the last
    bin fill the last band.

    Args:
        values: (..., F).
        stride: bins from one band to the next.

    Returns:
        Bands (..., N, 2*stride).
    """
    bins = values.shape[-1]
    above = band_count(bins, stride) * stride - bins
    padded = functional.pad(values, (stride, above))
    halves = padded.reshape(*values.shape[:-1], -1, stride)  # (..., N + 1, stride)
    return torch.cat([halves[..., :-1, :], halves[..., 1:, :]], dim=-1)


STRIDE = 8  # bins from one band to the next; a band covers twice this number
PER_BIN = 24  # values of a bin that the heads read
NEIGHBOURS = 5  # bins whose features reach the values of a bin directly, not through bands

States = tuple[LSTMState, ...]  # for each block, the state (1, N, width) of its LSTM along time


class DualPathEmbedding(EmbeddingNetwork):
    """Trunk with LSTMs across bands and along time in turn, and features per bin at its end.

    All bands share the weights; a learned vector identifies each band. Across bands the LSTMs run
    in both directions, also if `causal`.

    Args:
        bins: number of frequency bins F.
        layers: number of blocks with one LSTM across bands and one along time.
        width: channels of a band, and units of an LSTM per direction.
        heads: heads and the sizes of their outputs.
        dropout: probability, after every LSTM and before the heads.
        causal: along time forward only, for streams.

    Source: the paths of dual-path RNN (Luo, Chen, Yoshioka 2020) on the axes of time and frequency,
    as in band-split RNN (Luo and Yu 2023) and TF-GridNet (Wang et al. 2023). Overlapping bands and
    the transposed convolution back to bins are those of TF-GridNet.
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
        """Encode features (B, L, F) as frames (B, L, F*PER_BIN)."""
        return self._through(features, None)[0]

    def encode_next(self, features: Tensor, state: States | None = None) -> tuple[Tensor, States]:
        """Encode the next frames (L, F) of a stream: frames (L, F*PER_BIN) and the new state."""
        if state is None:
            zeros = features.new_zeros(1, *self.place.shape)
            state = ((zeros, zeros),) * len(self.blocks)
        encoded, state = self._through(features.unsqueeze(0), state)
        return encoded[0], state

    def _through(self, features: Tensor, state: States | None) -> tuple[Tensor, States]:
        """Run features (B, L, F) through all blocks: encoded frames and the new state."""
        x = self.normalise(features).to(self.place.dtype)
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
    """Residual block for (B, L, N, C): an LSTM across the bands N, then one along the frames L."""

    def __init__(self, width: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.dropout = dropout
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.across = nn.LSTM(width, width, bidirectional=True)
        self.along = nn.LSTM(width, width, bidirectional=not causal)
        self.leave_across = nn.Linear(2 * width, width)
        self.leave_along = nn.Linear((2 - causal) * width, width)

    def forward(self, x: Tensor, state: LSTMState | None) -> tuple[Tensor, LSTMState | None]:
        """Apply the block.

        Args:
            x: (B, L, N, C).
            state: state of the LSTM along time after the previous frames, for each band; None at
                the start.

        Returns:
            The result (B, L, N, C), and the new state.
        """
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
        """Apply dropout and the output layer `leave`."""
        result: Tensor = leave(functional.dropout(y, self.dropout, self.training))
        return result
