"""Channels with speech, channels that cancel, and calls with one party in each channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from dpcl.evaluation.metrics import si_sdr
from dpcl.recordings.recording import InMemory, scan
from dpcl.recordings.separate import separate_recording
from dpcl.separators.registry import build
from dpcl.signal.channels import Channels, ChannelStatistics

Samples = NDArray[np.float32]
RATE = 8000


def talkers(seconds: float = 6) -> Samples:
    """(2, T): harmonics that come and go independently."""
    rng, t = np.random.default_rng(0), np.arange(round(seconds * RATE)) / RATE
    voices = []
    for pitch in (110, 190):
        level = np.interp(t, np.arange(0, seconds + 1, 0.25), rng.random(int(4 * seconds) + 4) ** 3)
        glide = pitch * (1 + 0.1 * np.sin(2 * np.pi * rng.random() * t))
        phase = 2 * np.pi * np.cumsum(glide) / RATE
        voices.append(level * sum(np.sin(k * phase) / k for k in range(2, 16)))
    return np.asarray(voices, np.float32) / 4


def facts(samples: Samples) -> Channels:
    found = scan(InMemory(samples.astype(np.float32), RATE)).channels
    assert found is not None
    return found


def test_a_call_has_one_party_in_each_channel() -> None:
    one, other = talkers()
    for gain in (1, 0.1):
        found = facts(np.stack([one, gain * other]))
        assert found.apart and found.speech == (0, 1)
    assert not facts(np.stack([one + other, one + other])).apart
    assert not facts(np.stack([one + 0.6 * other, 0.7 * one + other])).apart
    assert not facts(np.stack([one, 0 * one])).apart  # one silent channel


def test_the_leak_of_a_party_is_measured() -> None:
    one, other = talkers()
    for gain in (0.1, -0.2):
        found = facts(np.stack([one + gain * other, other]))
        assert found.leaks[0, 1] == pytest.approx(gain, abs=0.03)
        assert abs(found.leaks[1, 0]) < 0.05
    assert not facts(np.stack([one, other])).leaks.any()
    assert not facts(np.stack([one, 0 * other])).leaks.any()


def test_channels_of_modulated_noise_clicks_and_beeps_hold_no_speech() -> None:
    one, other = talkers()
    rng, mixture = np.random.default_rng(1), one + other
    seconds = np.arange(len(one)) / RATE
    swelling = 1 + 0.9 * np.sin(3 * seconds)
    beeps = np.sin(5000 * seconds) * (np.sin(6 * seconds) > 0)
    clicks = 1.0 * (rng.random(len(one)) < 5e-4)
    for disturbance in (swelling * rng.standard_normal(len(one)), beeps, clicks):
        found = facts(np.stack([disturbance, mixture]))
        assert found.speech == (1,) and not found.apart


def test_copies_of_a_channel_count_once() -> None:
    one, other = talkers()
    noisy = one + other + 0.03 * np.random.default_rng(0).standard_normal(len(one))
    found = facts(np.stack([one + other, 0.5 * (one + other), -one - other, noisy]))
    assert found.speech in ((0, 3), (2, 3)) and found.equal[1] == found.speech[0]


def test_two_channels_for_each_party_of_a_call() -> None:
    one, other = talkers()
    channels = np.stack([one, 0.5 * one, 0.1 * other, 0.1 * other]).astype(np.float32)
    sources = separate_recording(channels, RATE, build("default")).sources
    expected = torch.from_numpy(channels)
    for source, own in zip(sources, ((0, 1), (2, 3)), strict=True):
        rest = [channel for channel in range(4) if channel not in own]
        torch.testing.assert_close(source[list(own)], expected[list(own)], rtol=0, atol=1e-5)
        assert float(source[rest].abs().max()) < 1e-5


@pytest.mark.parametrize("delay", [0, 30])
def test_crosstalk_of_a_call_is_removed(delay: int) -> None:
    one, other = talkers()
    channels = np.stack([one + 0.01 * other, 0.1 * other + 0.03 * np.roll(one, delay)])
    sources = separate_recording(channels.astype(np.float32), RATE, build("default")).sources
    assert si_sdr(sources[0, 0], torch.from_numpy(one)) > 30  # dB
    assert si_sdr(sources[1, 1], torch.from_numpy(other)) > 20  # dB; 9 with the crosstalk


def test_channels_of_noise_rumble_and_silence_hold_no_speech() -> None:
    one, other = talkers()
    rng, mixture = np.random.default_rng(1), one + other
    noise = mixture.std() * rng.standard_normal(len(one))
    low = 10 * mixture.std() * np.sin(2 * np.pi * 40 * np.arange(len(one)) / RATE)
    found = facts(np.stack([noise, mixture, 0 * one, low, 0.5 * mixture]))
    assert found.speech == (1,) and found.equal[4] == 1 and not found.cancels


def test_inverted_channels_cancel() -> None:
    one, other = talkers()
    assert facts(np.stack([one + other, one - other])).cancels
    assert not facts(np.stack([one, -one])).cancels  # one channel, twice
    assert not facts(np.stack([one, 0.3 * one])).cancels


def test_nothing_but_silence_or_too_short() -> None:
    for samples in (np.zeros((2, 9000)), np.ones((2, 3))):
        assert facts(samples).speech[0] == 0 and not facts(samples).apart


def test_blocks_change_nothing_but_the_last_frame() -> None:
    x = torch.from_numpy(np.stack(talkers()))
    whole, cut = ChannelStatistics(RATE, 2), ChannelStatistics(RATE, 2)
    whole.push(x)
    for block in x.split(5120, 1):  # ten frames
        cut.push(block)
    torch.testing.assert_close(whole.result().leaks, cut.result().leaks)


@pytest.mark.parametrize("gain", [1.0, 0.1])
def test_the_sources_of_a_call_are_its_channels(gain: float) -> None:
    one, other = talkers()
    images = np.stack([np.stack([one, 0 * one]), np.stack([0 * other, gain * other])])
    sources = separate_recording(images.sum(0), RATE, build("default")).sources
    torch.testing.assert_close(sources.sum(0), torch.from_numpy(images.sum(0)), rtol=0, atol=1e-5)
    for channel in range(2):
        own = si_sdr(sources[channel, channel], torch.from_numpy(images[channel, channel]))
        assert own > 25  # dB


def test_inverted_stereo_keeps_both_talkers() -> None:
    samples, rate = soundfile.read(Path(__file__).parents[2] / "examples" / "two_talkers.flac")
    separator = build("default")
    mono = separate_recording(samples, rate, separator, 2).sources
    one, other = mono.numpy()
    stereo = separate_recording(np.stack([one + other, one - other]), rate, separator, 2).sources
    kept = [max(float(si_sdr(x, torch.from_numpy(y))) for x in stereo[:, 0]) for y in (one, other)]
    assert min(kept) > 10  # dB
