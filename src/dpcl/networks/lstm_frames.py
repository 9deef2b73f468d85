"""An LSTM over the next frames of a stream, with the state that it carries from call to call."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.jit import is_tracing  # type: ignore[attr-defined]
from torch.nn import functional

LSTMState = tuple[Tensor, Tensor]  # hidden and cell (layers, H)

# From so many frames on nn.LSTM is faster: on a CPU it repacks all weights in every call.
MANY = 32


def lstm_frames(
    lstm: nn.LSTM, inputs: Tensor, state: LSTMState | None = None
) -> tuple[Tensor, LSTMState]:
    """inputs (L, I), L > 0 -> outputs (L, H) and the state after the last; forward in time only.

    Without dropout, as in use. A sequence in pieces gives the same as the whole, to rounding.
    Source: Hochreiter and Schmidhuber 1997; gates as in nn.LSTM.
    """
    if state is None:
        zeros = inputs.new_zeros(lstm.num_layers, lstm.hidden_size)
        state = zeros, zeros
    tracing: bool = is_tracing()  # type: ignore[no-untyped-call]
    if len(inputs) >= MANY or tracing:  # onnx_graph: ONNX has an operator for all of it
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
