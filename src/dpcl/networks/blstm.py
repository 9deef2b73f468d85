"""The network of the paper: (bidirectional) LSTMs and a unit-length embedding per STFT bin."""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpcl.networks.bf16_lstm import bf16_lstm
from dpcl.networks.lstm_frames import LSTMState, lstm_frames
from dpcl.networks.unit_length import unit_length

Activation = Literal["none", "tanh", "logistic"]


class BLSTMEmbedding(nn.Module):
    """Log-magnitude features of a mixture to one embedding per bin.

    bins: frequency bins F; layers, width: BLSTM layers and units per direction; embedding: K;
    dropout: after every BLSTM layer; activation: on the embeddings before they get unit length
    (the paper has tanh); bidirectional: without, frames see only what came before them, for
    streams. Under autocast on a CPU the recurrence runs in bfloat16
    (dpcl.networks.bf16_lstm), with the same parameters. Source: Hershey et al. 2016, section 3.2.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        bins: int = 129,
        layers: int = 2,
        width: int = 600,
        embedding: int = 40,
        dropout: float = 0.0,
        activation: Activation = "tanh",
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        self.embedding, self.dropout, self.activation = embedding, dropout, activation
        self.lstm = nn.LSTM(
            bins,
            width,
            layers,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.project = nn.Linear((1 + bidirectional) * width, bins * embedding)
        # Statistics of the training features, one per bin; they travel with the weights.
        self.register_buffer("mean", torch.zeros(bins))
        self.register_buffer("std", torch.ones(bins))

    def forward(self, features: Tensor) -> Tensor:
        """features (B, L, F) -> embeddings (B, L*F, K), float32 rows of unit length."""
        return self.embed(self.hear(features))

    def hear(self, features: Tensor) -> Tensor:
        """The recurrent part: features (B, L, F) -> (B, L, D*width), few numbers for a frame."""
        x = ((features - self.mean) / self.std).transpose(0, 1)  # (L, B, F)
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            for layer in range(self.lstm.num_layers):
                if layer:
                    x = functional.dropout(x, self.dropout, self.training)
                x = bf16_lstm(x, self.lstm, layer)  # (L, B, D*width)
        else:
            x, _ = self.lstm(x.to(self.project.weight.dtype))
        return x.transpose(0, 1)

    def hear_on(self, features: Tensor, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """As `hear` for the next frames of a stream: features (L, F) -> (L, width), new state."""
        return lstm_frames(self.lstm, (features - self.mean) / self.std, state)

    def embed(self, heard: Tensor) -> Tensor:
        """What was heard of each frame (B, L, D*width) -> embeddings (B, L*F, K)."""
        heard = functional.dropout(heard, self.dropout, self.training)
        if not torch.is_autocast_enabled(heard.device.type):
            heard = heard.to(self.project.weight.dtype)
        v = self.project(heard).view(len(heard), -1, self.embedding)
        if self.activation == "tanh":
            v = v.tanh()
        elif self.activation == "logistic":
            v = v.sigmoid()
        return unit_length(v)

    def in_bfloat16(self) -> BLSTMEmbedding:
        """A copy with weights of half the size, for processors that multiply them faster."""
        copy = deepcopy(self).bfloat16().eval()
        copy.mean, copy.std = self.mean.clone(), self.std.clone()  # features stay exact
        return copy
