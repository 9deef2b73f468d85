"""The voice encoder that ships: frames, pooling, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import save

from dpcl.networks import voice
from dpcl.networks.voice import (
    CONTEXT,
    SIZE,
    VoiceEncoder,
    around,
    from_bytes,
    in_bytes,
    mel_bands,
    moments,
    shipped_voices,
    waves,
)
from dpcl.signal.audio import resample

RATE = voice.RATE
EXAMPLE = Path(__file__).parents[2] / "examples" / "two_talkers.flac"


def sound(seconds: float) -> torch.Tensor:
    """A buzz of 120 Hz in noise."""
    generator = torch.Generator().manual_seed(1)
    times = torch.arange(round(seconds * RATE)) / RATE
    buzz = sum(torch.sin(2 * torch.pi * 120 * k * times) / k for k in range(1, 30))
    return 0.1 * (buzz + 0.1 * torch.randn(len(times), generator=generator))


def vector(samples: torch.Tensor) -> torch.Tensor:
    encoded = shipped_voices().encode(samples[None])
    return shipped_voices().vectors(moments(encoded, torch.ones(1, encoded.shape[-1], 1)))[0, 0]


def test_one_vector_of_unit_length_whatever_the_level() -> None:
    loud, soft = vector(sound(2)), vector(0.01 * sound(2))
    assert loud.shape == (SIZE,) and float(loud.norm()) == pytest.approx(1)
    assert float(loud @ soft) > 0.99
    assert float(loud @ vector(torch.randn(2 * RATE))) < 0.9


def test_frames_are_20_ms_apart_from_sample_0_on() -> None:
    assert shipped_voices().levels(torch.zeros(2, RATE)).shape == (2, 101, 80)
    assert shipped_voices().encode(torch.zeros(1, RATE)).shape == (1, 512, 51)
    silent = torch.zeros(1, RATE)
    click = silent.clone()
    click[0, 160 * 40] = 1
    change = (shipped_voices().levels(click) - shipped_voices().levels(silent)).sum(-1)[0]
    assert int(change.argmax()) == 40 and (change > 0).nonzero().flatten().tolist() == [39, 40, 41]


def test_what_is_far_away_changes_nothing() -> None:
    """The mean of the levels apart, a frame depends on some seconds around it."""
    torch.manual_seed(0)
    levels = torch.randn(1, 3000, 80)
    other = levels.clone()
    other[:, 2000:] += 1
    change = (shipped_voices()(levels) - shipped_voices()(other)).abs().amax(1)[0]
    assert float(change[:100].max()) < 0.1 * float(change[1010:].min())  # bfloat16 rounds


@pytest.mark.parametrize("length", [1, CONTEXT, 3 * CONTEXT + 4])
def test_context_is_the_mean_of_a_block_and_its_neighbours(length: int) -> None:
    x = torch.randn(1, 2, length)
    means = around(x)
    assert means.shape == (1, 2, -(-length // CONTEXT))
    torch.testing.assert_close(means[..., 0], x[..., : 2 * CONTEXT].mean(-1))
    first = CONTEXT * (means.shape[-1] - 2)
    torch.testing.assert_close(means[..., -1], x[..., max(0, first) :].mean(-1))


def test_bands_are_those_of_kaldi() -> None:
    bands = mel_bands()
    assert bands.shape == (80, 257) and bands.min() == 0 and bands.max() <= 1
    centres = bands.argmax(1) * RATE / 512
    assert centres[0] < 60 and centres[-1] > 7700 and (centres.diff() >= 0).all()
    tone = torch.cos(2 * torch.pi * 1000 * torch.arange(400) / RATE)
    real, imaginary = (waves()[:, 0] @ tone).chunk(2)
    assert int((real.square() + imaginary.square()).argmax()) == 32  # 1000 Hz of 512 bins


def test_a_file_holds_the_weights_in_8_bits() -> None:
    torch.manual_seed(0)
    encoder = VoiceEncoder().eval()
    data = in_bytes(encoder)
    weights = sum(value.numel() for value in encoder.state_dict().values())
    assert weights < len(data) < 1.1 * weights
    detector = save(dict(encoder.detect.state_dict()))
    again = from_bytes(data, detector)
    for name, value in encoder.state_dict().items():
        limit = float(value.abs().max()) / 127 if name.endswith("weight") else 1e-9
        assert float((again.state_dict()[name] - value).abs().max()) <= limit
    assert in_bytes(again) == data


def test_speech_is_found_and_noise_is_not() -> None:
    samples, rate = soundfile.read(EXAMPLE, dtype="float32")
    speech = torch.from_numpy(resample(samples, rate, RATE))
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(4 * RATE, generator=generator)
    clicks = torch.where(torch.rand(4 * RATE, generator=generator) < 2e-4, 1.0, 0.0)
    found = []
    for sound in (speech, noise, clicks):
        encoded = shipped_voices().encode(sound[None])
        odds = shipped_voices().speech(encoded)
        assert odds.shape == (1, -(-encoded.shape[-1] // 5))
        found.append(float((odds > 0).float().mean()))
    assert found[0] > 0.9 and max(found[1:]) < 0.1
