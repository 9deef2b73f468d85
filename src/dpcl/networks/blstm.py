"""The network of the paper: (bidirectional) LSTMs and a unit-length embedding per STFT bin."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpcl.networks.bf16_lstm import bf16_lstm
from dpcl.networks.embedding_network import EmbeddingNetwork, Heads
from dpcl.networks.lstm_frames import LSTMState, lstm_frames
from dpcl.networks.precision import lstm_input

PAPER = Heads(40, activation="tanh")  # Hershey et al. 2016


class BLSTMEmbedding(EmbeddingNetwork):
    """(Bidirectional) LSTMs over the frames.

    layers, width: LSTM layers and units per direction; dropout: after every layer; bidirectional:
    without, frames see only what came before them, for streams. Under autocast on a CPU the
    recurrence runs in bfloat16 (dpcl.networks.bf16_lstm), with the same parameters.
    Source: Hershey et al. 2016, section 3.2.
    """

    def __init__(
        self,
        bins: int = 129,
        layers: int = 2,
        width: int = 600,
        heads: Heads = PAPER,
        dropout: float = 0.0,
        bidirectional: bool = True,
    ) -> None:
        super().__init__(bins, (1 + bidirectional) * width, heads, dropout)
        self.causal = not bidirectional
        self.lstm = nn.LSTM(
            bins,
            width,
            layers,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
        )

    def hear(self, features: Tensor) -> Tensor:
        """The recurrent part: features (B, L, F) -> (B, L, D*width), few numbers for a frame."""
        x = ((features - self.mean) / self.std).transpose(0, 1)  # (L, B, F)
        return lstm_layers(self.lstm, x, self.dropout, self.training).transpose(0, 1)

    def hear_on(self, features: Tensor, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """As `hear` for the next frames of a stream: features (L, F) -> (L, width), new state."""
        return lstm_frames(self.lstm, (features - self.mean) / self.std, state)


def lstm_layers(lstm: nn.LSTM, inputs: Tensor, dropout: float, training: bool) -> Tensor:
    """All layers: inputs (L, B, I) -> outputs of the last (L, B, D*H).

    Under autocast on a CPU in bfloat16, with dropout between layers in `training`, as nn.LSTM has.
    """
    if inputs.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        outputs: Tensor = lstm(lstm_input(inputs, lstm))[0]
        return outputs
    for layer in range(lstm.num_layers):
        if layer:
            inputs = functional.dropout(inputs, dropout, training)
        inputs = bf16_lstm(inputs, lstm, layer)
    return inputs
