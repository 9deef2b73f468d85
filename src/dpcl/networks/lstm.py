"""LSTM trunk, and LSTMs that run in bfloat16 or frame by frame."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import is_tracing  # type: ignore[attr-defined]
from torch.nn import functional

from dpcl.networks.base import EmbeddingNetwork, Heads, lstm_input

LSTMState = tuple[Tensor, Tensor]  # hidden and cell (layers, H)

# Number of frames from which nn.LSTM is faster: on a CPU it repacks all weights in every call.
MANY = 32


def lstm_frames(
    lstm: nn.LSTM, inputs: Tensor, state: LSTMState | None = None
) -> tuple[Tensor, LSTMState]:
    """Run an LSTM forward in time over the next frames of a sequence, without dropout.

    A sequence in pieces gives the same result as the whole, up to rounding.

    Args:
        lstm: LSTM of one direction.
        inputs: (L, I), L > 0.
        state: state after the previous frames; None at the start.

    Returns:
        Outputs (L, H), and the state after the last frame.

    Source: Hochreiter and Schmidhuber 1997; gates as in nn.LSTM.
    """
    if state is None:
        zeros = inputs.new_zeros(lstm.num_layers, lstm.hidden_size)
        state = zeros, zeros
    tracing: bool = is_tracing()  # type: ignore[no-untyped-call]
    if len(inputs) >= MANY or tracing:  # ONNX has an operator for a whole LSTM
        outputs, (h, c) = lstm(inputs.unsqueeze(1), (state[0].unsqueeze(1), state[1].unsqueeze(1)))
        return outputs.squeeze(1), (h.squeeze(1), c.squeeze(1))
    hidden, cells = [], []
    for layer, (h, c) in enumerate(zip(*state, strict=True)):
        inside, across = (getattr(lstm, f"weight_{way}_l{layer}") for way in ("ih", "hh"))
        bias = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
        outputs = []
        for gates in functional.linear(inputs, inside, bias):  # (4H,) of each frame
            i, f, g, o = torch.addmv(gates, across, h).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        inputs = torch.stack(outputs)  # (L, H)
        hidden.append(h)
        cells.append(c)
    return inputs, (torch.stack(hidden), torch.stack(cells))


def bf16_lstm(inputs: Tensor, lstm: nn.LSTM, layer: int) -> Tensor:
    """Run one layer of an LSTM in bfloat16, from zero states, in all its directions.

    Args:
        inputs: (L, B, I), any float type.
        lstm: LSTM of one direction or two.
        layer: number of the layer, from 0.

    Returns:
        Outputs (L, B, D*H) in bfloat16, in the order of nn.LSTM.
    """
    ways = [f"l{layer}", f"l{layer}_reverse"][: 1 + lstm.bidirectional]
    hidden = lstm.hidden_size
    # One sigmoid serves all gates: tanh(x) = 2 sigmoid(2x) - 1, and the rows of the cell gate are
    # doubled. torch's sigmoid is ten times faster than its tanh.
    double = torch.ones(4 * hidden, device=inputs.device)
    double[2 * hidden : 3 * hidden] = 2
    half = torch.bfloat16
    inputs = inputs.to(half)
    gates = torch.stack(
        [
            functional.linear(
                # the backward direction reads the frames from last to first
                inputs.flip(0) if way.endswith("reverse") else inputs,
                (getattr(lstm, f"weight_ih_{way}") * double[:, None]).to(half),
                ((getattr(lstm, f"bias_ih_{way}") + getattr(lstm, f"bias_hh_{way}")) * double).to(
                    half
                ),
            )
            for way in ways
        ],
        dim=1,
    )  # (L, D, B, 4H)
    recurrent = torch.stack([getattr(lstm, f"weight_hh_{way}") for way in ways])  # (D, 4H, H)
    outputs = _Recurrence.apply(gates, (recurrent * double[:, None]).mT)  # type: ignore[no-untyped-call]
    return torch.cat([outputs[:, 0], *(o.flip(0) for o in outputs.unbind(1)[1:])], dim=-1)


def lstm_layers(
    lstm: nn.LSTM, inputs: Tensor, state: LSTMState | None = None
) -> tuple[Tensor, LSTMState | None]:
    """Run all layers of an LSTM.

    Under autocast on a CPU in bfloat16 without a given state, the layers run by `bf16_lstm`, with
    the dropout of the LSTM between them.

    Args:
        lstm: LSTM of one direction or two.
        inputs: (L, B, I).
        state: state before the first frame; None for zeros.

    Returns:
        Outputs of the last layer (L, B, D*H), and the state after the last frame; None from
        `bf16_lstm`.
    """
    autocast = inputs.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if not autocast or state is not None:
        outputs, state = lstm(lstm_input(inputs, lstm), state)
        return outputs, state
    for layer in range(lstm.num_layers):
        if layer:
            inputs = functional.dropout(inputs, lstm.dropout, lstm.training)
        inputs = bf16_lstm(inputs, lstm, layer)
    return inputs, None


class _Recurrence(torch.autograd.Function):
    """Autograd function from gates and recurrent weights (D, H, 4H) to outputs (L, D, B, H).

    The gates (L, D, B, 4H) hold the part of the inputs, in the order i, f, g, o of nn.LSTM
    (Hochreiter and Schmidhuber 1997; Gers et al. 1999).
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, recurrent: Tensor) -> Tensor:
        frames, ways, batch, width = gates.shape
        hidden = width // 4
        weight = recurrent.to(gates.dtype).contiguous()  # (D, H, 4H)
        h = gates.new_zeros(frames + 1, ways, batch, hidden)
        c = gates.new_zeros(frames + 1, ways, batch, hidden, dtype=torch.float32)
        active = torch.empty_like(gates)  # the gates after their activation
        squashed = torch.empty_like(h[1:])  # tanh of the cell state
        for t in range(frames):
            gate = torch.baddbmm(gates[t], h[t], weight).float().sigmoid_()  # (D, B, 4H)
            i, f, g, o = gate.chunk(4, dim=-1)
            g.mul_(2).sub_(1)
            torch.mul(f, c[t], out=c[t + 1]).addcmul_(i, g)
            tanh_c = c[t + 1].mul(2).sigmoid_().mul_(2).sub_(1)
            active[t] = gate
            squashed[t] = tanh_c
            h[t + 1] = o.mul_(tanh_c)
        ctx.save_for_backward(weight, h, c, active, squashed)
        return h[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        weight, h, c, active, squashed = ctx.saved_tensors
        frames, ways, batch, width = active.shape
        hidden = width // 4
        d_gates = torch.empty_like(active)
        back = weight.transpose(1, 2).contiguous()  # (D, 4H, H)
        d_h = h.new_zeros(ways, batch, hidden)
        d_c = c.new_zeros(ways, batch, hidden)
        d = c.new_empty(ways, batch, width)
        for t in range(frames - 1, -1, -1):
            d_out = (grads[0][t] + d_h).float()  # (D, B, H)
            gate, tanh_c = active[t].float(), squashed[t].float()
            i, f, g, o = gate.chunk(4, dim=-1)
            d_c = torch.addcmul(d_c, d_out * o, 1 - tanh_c * tanh_c)
            torch.mul(d_c, g, out=d[..., :hidden])
            torch.mul(d_c, c[t], out=d[..., hidden : 2 * hidden])
            torch.mul(d_c, i, out=d[..., 2 * hidden : 3 * hidden])
            torch.mul(d_out, tanh_c, out=d[..., 3 * hidden :])
            d_c.mul_(f)
            # slope of the sigmoid; for g = 2 sigmoid - 1 it is (1 - g²) / 2
            slope = gate - gate * gate
            slope[..., 2 * hidden : 3 * hidden] = (1 - g * g) / 2
            d_gates[t] = d.mul_(slope)
            torch.bmm(d_gates[t], back, out=d_h)
        before = h[:-1].transpose(0, 1).reshape(ways, frames * batch, hidden)
        d_weight = torch.bmm(
            before.transpose(1, 2), d_gates.transpose(0, 1).reshape(ways, frames * batch, width)
        )
        return d_gates, d_weight.float()


PAPER = Heads(40, activation="tanh")  # Hershey et al. 2016


class BLSTMEmbedding(EmbeddingNetwork):
    """Trunk of (bidirectional) LSTMs over the frames.

    Under autocast on a CPU the recurrence runs in bfloat16 (`bf16_lstm`), with the same parameters.

    Args:
        bins: number of frequency bins F.
        layers: number of LSTM layers.
        width: units per direction.
        heads: heads and the sizes of their outputs.
        dropout: probability, after every layer.
        causal: forward in time only, for streams: a frame depends on itself and past frames.

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

    def encode(self, features: Tensor) -> Tensor:
        """Encode features (B, L, F) by the recurrent layers: few values a frame (B, L, D*width)."""
        x = self.normalise(features).transpose(0, 1)  # (L, B, F)
        return lstm_layers(self.lstm, x)[0].transpose(0, 1)

    def encode_next(
        self, features: Tensor, state: LSTMState | None = None
    ) -> tuple[Tensor, LSTMState]:
        """Encode the next frames (L, F) of a stream: frames (L, width) and the new state."""
        return lstm_frames(self.lstm, self.normalise(features), state)
