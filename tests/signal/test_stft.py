"""The STFT and its inverse: whatever goes in comes out, at any length."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpcl.errors import InputError
from dpcl.signal.stft import STFT, BlockISTFT, BlockSTFT


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@given(samples=st.integers(1, 1500), seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=60)
def test_perfect_reconstruction_at_any_length(samples: int, seed: int) -> None:
    x, stft = noise(samples, seed=seed), STFT()
    assert (stft.inverse(stft(x), samples) - x).abs().max() < 1e-5


@pytest.mark.parametrize(
    "window, hop", [(256, 64), (512, 128), (256, 128), (4096, 2048), (192, 64), (15, 5), (16, 1)]
)
@pytest.mark.parametrize("extra", [-1, 0, 1, 5])
def test_perfect_reconstruction_with_other_windows(window: int, hop: int, extra: int) -> None:
    """Odd windows lost a frame; half-overlapping ones were wrong by 1e-4 in their last samples."""
    stft = STFT(window, hop)
    for samples in {1, 3 * hop + extra, 2 * window + extra}:
        if samples > 0:
            x = noise(samples)
            spectrum = stft(x)
            assert spectrum.shape == (stft.frames(samples), stft.bins)
            assert (stft.inverse(spectrum, samples) - x).abs().max() < 1e-5


def test_a_masked_last_sample_is_not_scaled_up() -> None:
    """Where only the foot of one window saw it, a mask's error there came back a thousandfold."""
    for hop in (64, 128):
        stft = STFT(256, hop)
        for samples in range(1000, 1000 + hop):
            x = noise(samples)
            mask = (noise(stft.frames(samples), stft.bins, seed=1) > 0).float()
            assert stft.inverse(mask * stft(x), samples).abs().max() < 3


def test_double_precision() -> None:
    x = noise(1001).double()
    spectrum = STFT()(x)
    assert spectrum.dtype == torch.complex128
    torch.testing.assert_close(STFT().inverse(spectrum, 1001), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 3), (2, 1, 2)])
def test_any_leading_dimensions(lead: tuple[int, ...]) -> None:
    x, stft = noise(*lead, 500), STFT()
    spectrum = stft(x)
    assert spectrum.shape == (*lead, stft.frames(500), 129)
    back = stft.inverse(spectrum, 500)
    assert back.shape == x.shape
    for one, its_spectrum, its_back in zip(
        x.view(-1, 500), spectrum.view(-1, *spectrum.shape[-2:]), back.view(-1, 500), strict=True
    ):
        torch.testing.assert_close(stft(one), its_spectrum)
        torch.testing.assert_close(its_back, one, rtol=0, atol=1e-5)


def test_non_contiguous_samples() -> None:
    x, stft = noise(500, 2).T, STFT()
    torch.testing.assert_close(stft(x), stft(x.contiguous()))
    spectrum = stft(x).transpose(-1, -2).contiguous().transpose(-1, -2)
    torch.testing.assert_close(stft.inverse(spectrum, 500), x, rtol=0, atol=1e-5)


def test_is_linear() -> None:
    """The mixture's spectrum is the sum of the sources', which training relies on."""
    x, stft = noise(3, 700), STFT()
    torch.testing.assert_close(stft(x).sum(0), stft(x.sum(0)), rtol=0, atol=1e-4)


def test_frame_centres_and_bins() -> None:
    """Frame l is centred on sample l*hop, bin f lies at f/window of the sample rate."""
    stft = STFT(256, 64)
    click = torch.zeros(1024)
    click[8 * 64] = 1
    energy = stft(click).abs().square().sum(-1)  # (L,)
    assert energy.argmax() == 8
    torch.testing.assert_close(energy[8 - 1], energy[8 + 1])
    tone = torch.cos(2 * torch.pi * 20 / 256 * torch.arange(1024))
    assert stft(tone)[4:12].abs().argmax(-1).eq(20).all()


def test_whole_hops_give_one_frame_more() -> None:
    """Training segments of L frames are (L - 1) hops long."""
    assert STFT().frames(99 * 64) == 100
    assert STFT()(noise(99 * 64)).shape == (100, 129)
    assert STFT().frames(1) == 2


@pytest.mark.parametrize("window, hop", [(256, 0), (256, -1), (256, 256), (256, 100), (64, 128)])
def test_a_window_and_hop_without_inverse(window: int, hop: int) -> None:
    with pytest.raises(InputError, match=rf"window {window} and hop {hop}.*choose"):
        STFT(window, hop)


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
