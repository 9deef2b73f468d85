"""An LSTM with carried state gives what nn.LSTM gives for the whole sequence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dpcl.networks.base import Heads
from dpcl.networks.lstm import MANY, BLSTMEmbedding, lstm_frames


@given(
    pieces=st.lists(st.sampled_from([1, 2, 5, MANY - 1, MANY, 40]), min_size=1, max_size=5),
    layers=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=30)
def test_pieces_are_the_whole(pieces: list[int], layers: int, seed: int) -> None:
    torch.manual_seed(seed)
    lstm, x = nn.LSTM(4, 6, layers), torch.randn(sum(pieces), 4)
    outputs, state = [], None
    with torch.no_grad():
        for piece in x.split(pieces):
            y, state = lstm_frames(lstm, piece, state)
            outputs.append(y)
        whole, (h, c) = lstm(x)
    torch.testing.assert_close(torch.cat(outputs), whole)
    assert state is not None
    torch.testing.assert_close(state[0], h)
    torch.testing.assert_close(state[1], c)


@pytest.mark.parametrize("frames", [3, MANY])
def test_a_network_hears_on_as_it_hears(frames: int) -> None:
    torch.manual_seed(0)
    network = BLSTMEmbedding(5, 2, 7, Heads(3), dropout=0.5, causal=True).eval()
    network.mean.normal_()
    network.std.uniform_(0.5, 2)
    features = torch.randn(frames, 5)
    with torch.no_grad():
        torch.testing.assert_close(
            network.encode_next(features)[0], network.encode(features[None])[0]
        )
