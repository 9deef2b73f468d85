"""The band of the network out of the recording's own spectrum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpcl.signal.audio import resample
from dpcl.signal.band import Band
from dpcl.signal.stft import STFT

NETWORK = STFT(512, 128)


def noise(rate: int, seconds: float = 1.0) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(round(rate * seconds)).astype(np.float32)


@pytest.mark.parametrize("rate", [16000, 24000, 32000, 48000])
def test_the_network_hears_what_resampling_would_give_it(rate: int) -> None:
    recording = noise(rate)
    band = Band(rate, 8000, NETWORK)
    heard = band.crop(band.stft(torch.from_numpy(recording)).abs())
    resampled = NETWORK(torch.from_numpy(resample(recording, rate, 8000))).abs()
    scale = rate / 8000  # of a transform that is longer
    inner = slice(4, -4)  # at the ends resampling sees silence beyond
    difference = (heard[inner] / scale - resampled[inner]).abs().mean()
    assert difference < 0.02 * resampled.mean()
    assert heard.shape == resampled.shape


@pytest.mark.parametrize("rate", [11025, 22050, 44100, 7919, 1000, 192000])
def test_frames_last_as_long_as_the_networks(rate: int) -> None:
    stft = Band(rate, 8000, NETWORK).stft
    assert stft.hop / rate == pytest.approx(128 / 8000, rel=0.5 / stft.hop)
    assert stft.window == 4 * stft.hop


def test_of_a_low_rate_the_network_hears_silence_above() -> None:
    band = Band(4000, 8000, NETWORK)
    heard = band.crop(torch.ones(3, band.stft.bins))
    assert heard.shape == (3, 257)
    assert heard[:, : band.stft.bins].min() == 1
    assert not heard[:, band.stft.bins :].any()
    masks = torch.rand(2, 3, 257)
    assert torch.equal(band.extend(masks, torch.ones(3, band.stft.bins)), masks[..., :129])


def test_bins_above_the_network_are_not_damped() -> None:
    band = Band(16000, 8000, NETWORK)
    wide = band.crop(torch.ones(3, band.stft.bins), 513)
    assert torch.equal(wide[:, :257], band.crop(torch.ones(3, band.stft.bins)))
    assert wide.shape == (3, 513) and wide[:, 257:].min() == 1 > float(wide[0, 256])


def test_masks_stay_in_place_within_reach_and_follow_the_loud_bins_above() -> None:
    band = Band(16000, 8000, NETWORK)
    masks = torch.rand(2, 5, 257).softmax(0)
    magnitude = torch.zeros(5, band.stft.bins)
    magnitude[:, 210] = 1  # only this bin of the upper eighth sounds
    spread = band.extend(masks, magnitude)
    assert spread.shape == (2, 5, 513)
    torch.testing.assert_close(spread.sum(0), torch.ones(5, 513))
    assert torch.equal(spread[..., :230], masks[..., :230])
    roots = masks[..., 210:211].sqrt()  # in doubt, more equal
    torch.testing.assert_close(spread[..., 230:], (roots / roots.sum(0)).expand(2, 5, 283))
