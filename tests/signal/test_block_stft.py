"""Block by block the STFT and its inverse are what they are for the whole signal."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpcl.signal.block_stft import BlockISTFT, BlockSTFT
from dpcl.signal.stft import STFT

settings_of_stft = st.sampled_from([STFT(256, 64), STFT(64, 32), STFT(60, 20), STFT(63, 21)])


@given(
    stft=settings_of_stft,
    blocks=st.lists(st.integers(0, 400), min_size=1, max_size=5).filter(lambda b: sum(b) > 0),
    channels=st.integers(1, 2),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=60)
def test_there_and_back(stft: STFT, blocks: list[int], channels: int, seed: int) -> None:
    x = torch.randn(channels, sum(blocks), generator=torch.Generator().manual_seed(seed))
    analysis, synthesis = BlockSTFT(stft), BlockISTFT(stft, x.shape[-1])
    frames = [analysis.push(block) for block in x.split(blocks, dim=-1)] + [analysis.finish()]
    whole = stft(x)
    torch.testing.assert_close(torch.cat(frames, -2), whole, rtol=0, atol=2e-5)
    # changed in every frame, so that an envelope that is wrong cannot cancel
    gains = torch.rand(whole.shape[-2], 1, generator=torch.Generator().manual_seed(seed + 1))
    pieces, done = [], 0
    for block in frames:
        pieces.append(synthesis.push(block * gains[done : done + block.shape[-2]]))
        done += block.shape[-2]
    pieces.append(synthesis.finish())
    expected = stft.inverse(whole * gains, x.shape[-1])
    torch.testing.assert_close(torch.cat(pieces, -1), expected, rtol=0, atol=2e-4)


def test_samples_are_given_out_as_soon_as_no_frame_reaches_them() -> None:
    """The delay of the pair is one window: what a stream has to wait for."""
    stft = STFT(320, 160)
    analysis, synthesis = BlockSTFT(stft), BlockISTFT(stft)
    given, out = 0, 0
    for _ in range(50):
        given += 160
        out += synthesis.push(analysis.push(torch.zeros(160))).shape[-1]
        assert given - out <= stft.window
    assert out > 0


@pytest.mark.parametrize("end", [BlockSTFT(STFT()).finish, BlockISTFT(STFT(), 1).finish])
def test_nothing_to_finish(end: object) -> None:
    with pytest.raises(ValueError, match="nothing was pushed"):
        end()  # type: ignore[operator]
