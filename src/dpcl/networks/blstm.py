"""The network of the paper: (bidirectional) LSTMs and a unit-length embedding per STFT bin."""

from __future__ import annotations

from torch import Tensor, nn

from dpcl.networks.bf16_lstm import lstm_layers
from dpcl.networks.embedding_network import EmbeddingNetwork, Heads
from dpcl.networks.lstm_frames import LSTMState, lstm_frames

PAPER = Heads(40, activation="tanh")  # Hershey et al. 2016


class BLSTMEmbedding(EmbeddingNetwork):
    """(Bidirectional) LSTMs over the frames.

    layers, width: LSTM layers and units per direction; dropout: after every layer; if `causal`,
    forward in time only, so that frames see what came before them alone, for streams. Under
    autocast on a CPU the recurrence runs in bfloat16 (dpcl.networks.bf16_lstm), with the same
    parameters.
    Source: Hershey et al. 2016, section 3.2.
    """

    def __init__(
        self,
        bins: int = 129,
        layers: int = 2,
        width: int = 600,
        heads: Heads = PAPER,
        dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__(bins, (2 - causal) * width, heads, dropout)
        self.causal = causal
        self.lstm = nn.LSTM(
            bins,
            width,
            layers,
            bidirectional=not causal,
            dropout=dropout if layers > 1 else 0.0,
        )

    def hear(self, features: Tensor) -> Tensor:
        """The recurrent part: features (B, L, F) -> (B, L, D*width), few numbers for a frame."""
        x = ((features - self.mean) / self.std).transpose(0, 1)  # (L, B, F)
        return lstm_layers(self.lstm, x)[0].transpose(0, 1)

    def hear_on(self, features: Tensor, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """As `hear` for the next frames of a stream: features (L, F) -> (L, width), new state."""
        return lstm_frames(self.lstm, (features - self.mean) / self.std, state)
