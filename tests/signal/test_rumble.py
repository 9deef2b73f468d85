"""What lies below 70 Hz is found, and split off without delay and without loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import firwin, kaiserord, oaconvolve
from torch import Tensor

from dpcl.recordings.recording import InMemory, scan
from dpcl.recordings.separate import RecordingSeparation
from dpcl.separators.registry import build
from dpcl.signal.band import DEPTH, LowSTFT, SteadyLines, bins_below, low_power, split_low
from dpcl.signal.stft import STFT, BlockSTFT


def tone(hertz: float, rate: int, seconds: float = 2.0) -> Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * rate)) / rate)[None]


@pytest.mark.parametrize("rate", [8000, 44100])
@pytest.mark.parametrize(
    ("hertz", "below"), [(0.0, 1), (50.0, 1), (60.0, 1), (85.0, 0), (300.0, 0)]
)
def test_the_parts_hold_what_is_below_and_above(rate: int, hertz: float, below: int) -> None:
    x = torch.ones(1, 2 * rate) if hertz == 0 else tone(hertz, rate)
    blocks = iter(x.split(rate // 3, 1))
    high, low = (torch.cat(parts, 1) for parts in zip(*split_low(blocks, rate), strict=True))
    torch.testing.assert_close(high + low, x, rtol=0, atol=1e-6)
    middle = slice(rate // 2, -rate // 2)
    assert (high if below else low)[:, middle].abs().max() < 2e-3


@pytest.mark.parametrize("length", [1, 7, 500, 1800, 5000])
def test_any_length_and_any_blocks(length: int) -> None:
    x = torch.randn(2, length, generator=torch.Generator().manual_seed(length))
    whole, pieces = (list(split_low(iter(x.split(n, 1)), 8000)) for n in (length, 333))
    for part in range(2):
        one, other = (torch.cat([pair[part] for pair in pairs], 1) for pairs in (whole, pieces))
        assert one.shape == other.shape == x.shape
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1000, 9000])
def test_loud_hum_is_split_off_up_to_both_ends(length: int) -> None:
    """A reflection of the recording would have a corner there."""
    hum = 100 * torch.sin(2 * torch.pi * 58 * torch.arange(length) / 8000 + 1)[None]
    high, low = (torch.cat(parts, 1) for parts in zip(*split_low(iter([hum]), 8000), strict=True))
    assert high.abs().max() < 0.3 and low.shape == hum.shape


def test_power_below_70_hz() -> None:
    assert low_power(tone(50, 8000), 8000) == pytest.approx(0.5, rel=0.05)
    assert low_power(torch.full((1, 9000), 0.1), 8000) == pytest.approx(0.01, rel=0.05)
    assert low_power(tone(300, 48000), 48000) < 1e-4
    assert low_power(torch.ones(1, 2), 8000) == 0  # too short to say


def test_a_recording_with_rumble_is_found() -> None:
    speech = tone(300, 8000).numpy()
    assert not scan(InMemory(speech, 8000)).rumble
    assert scan(InMemory(speech + 0.3, 8000)).rumble
    assert scan(InMemory(speech + tone(50, 8000).numpy(), 8000)).rumble
    assert not scan(InMemory(np.zeros((1, 8000), np.float32), 8000)).rumble


@pytest.mark.parametrize(
    ("name", "apart"), [("default", True), ("clean", True), ("general", False)]
)
def test_sounds_of_any_kind_keep_what_is_below(name: str, apart: bool) -> None:
    humming = InMemory((tone(300, 8000) + tone(50, 8000)).numpy(), 8000)
    with RecordingSeparation(humming, build(name), 2) as separation:
        assert separation.scan.rumble is apart


def low_of_stream(x: Tensor, rate: int, size: int) -> tuple[Tensor, Tensor]:
    """Spectra (l, F) of a stream in blocks of some size: of the part below 70 Hz, and of all."""
    stft = STFT(rate // 25, rate // 50)
    below, whole = LowSTFT(rate, stft), BlockSTFT(stft)
    parts = [(below.push(block), whole.push(block)) for block in x.split(size)]
    parts.append((below.finish(), whole.finish()))
    first, second = zip(*parts, strict=True)
    return torch.cat(first), torch.cat(second)


@pytest.mark.parametrize("rate", [8000, 11000])
@pytest.mark.parametrize("hertz", [0.0, 20.0, 50.0, 60.0])
def test_the_part_below_70_hz_of_every_frame_of_a_stream(rate: int, hertz: float) -> None:
    """Without delay: from the first frame to the last, which hold half a window each."""
    x = torch.ones(rate // 3) if hertz == 0 else tone(hertz, rate, 0.333)[0]
    low, whole = low_of_stream(x, rate, 37)
    rest = (whole - low).abs().square().sum(-1).sqrt()
    assert rest.max() < 10 ** (-50 / 20) * whole.abs().square().sum(-1).sqrt().max()


@pytest.mark.parametrize(("hertz", "most"), [(100.0, -13), (150.0, -20), (400.0, -30)])
def test_voices_stay_above_the_low_part_of_a_stream(hertz: float, most: float) -> None:
    low, whole = low_of_stream(tone(hertz, 8000)[0], 8000, 8000)
    share = low[10:-2].abs().square().mean() / whole[10:-2].abs().square().mean()
    assert 10 * share.log10() < most  # dB


@pytest.mark.parametrize("length", [0, 1, 100, 161, 2000])
def test_the_low_part_of_a_stream_depends_on_no_blocks(length: int) -> None:
    x = torch.randn(length, generator=torch.Generator().manual_seed(length))
    low, whole = low_of_stream(x, 8000, 33)
    assert low.shape == whole.shape
    torch.testing.assert_close(low, low_of_stream(x, 8000, 2000)[0])


def lines_of(x: Tensor, size: int = 50) -> tuple[Tensor, Tensor]:
    """The steady lines in the frames (L, F) of samples at 8 kHz, and the frames."""
    stft = STFT(320, 160)
    frames, lines = stft(x), SteadyLines(8000, stft)
    return torch.cat([lines.push(part) for part in frames.split(size)]), frames


def share(part: Tensor, whole: Tensor) -> float:
    """Energy of one spectrum relative to another one, in dB."""
    return float(10 * (part.abs().square().sum() / whole.abs().square().sum()).log10())


def test_harmonics_of_hum_are_steady_lines_from_a_sixth_of_a_second_on() -> None:
    noise = 0.03 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    hum = (0.3 * tone(119.9, 8000) + tone(179.85, 8000) + 0.2 * tone(299.75, 8000))[0]
    lines, frames = lines_of(hum + noise)
    assert lines[:7].abs().max() == 0
    assert share((frames - lines)[12:-2], frames[12:-2]) < -15  # two lines in one bin
    assert share((frames - lines)[50:-2], frames[50:-2]) < -22
    torch.testing.assert_close(lines, lines_of(hum + noise, 1)[0], rtol=0, atol=1e-3)


def test_gliding_voices_and_noise_are_no_steady_lines() -> None:
    time = torch.arange(24000) / 8000
    pitch = 130 + 15 * torch.sin(2 * torch.pi * 0.7 * time)
    voice = torch.sin(2 * torch.pi * (pitch.cumsum(0) / 8000))
    noise = torch.randn(24000, generator=torch.Generator().manual_seed(0))
    for sound in (voice, noise):
        lines, frames = lines_of(sound)
        assert share(lines[10:], frames[10:]) < -10


def test_hum_that_ends_leaves_no_line_behind() -> None:
    hum = tone(150, 8000)[0]
    hum[8000:] = 0
    assert lines_of(hum)[0][56:].abs().max() == 0


def test_bins_below() -> None:
    assert [bins_below(8000, window) for window in (512, 320, 64)] == [5, 3, 1]


def test_the_filter_is_that_of_scipy() -> None:
    samples = np.random.default_rng(0).standard_normal((2, 9000)).astype(np.float32)
    count, beta = kaiserord(DEPTH, 25 / 4000)
    wanted = firwin(count | 1, 72.5, window=("kaiser", beta), fs=8000)
    below = np.concatenate(
        [low for _, low in split_low(iter([torch.from_numpy(samples)]), 8000)], 1
    )
    inner = slice(len(wanted), -len(wanted))  # the ends are mirrored
    same = oaconvolve(samples, wanted[None], mode="same", axes=1)
    np.testing.assert_allclose(below[:, inner], same[:, inner], atol=1e-6)
