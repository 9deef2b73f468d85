"""The spatial stage: directions refine masks where they tell the sources apart, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dpcl.evaluation.metrics import si_sdr
from dpcl.recordings import cache
from dpcl.recordings.recording import InMemory
from dpcl.recordings.separate import RecordingSeparation, separate, separate_recording
from dpcl.separators.base import Analyses, Analysis, Link, Separator, WindowSeparator
from dpcl.separators.registry import build
from dpcl.separators.spatial import Spatial, refine
from dpcl.signal.stft import STFT

RATE, FRAMES, BINS = 8000, 200, 24
PAUSE = 30  # frames at the beginning


def scene(sources: int = 2, microphones: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Spectra (M, L, F) of talkers at known places, owners (L, F) and weak masks (C, L, F)."""
    generator = torch.Generator().manual_seed(1)
    owners = torch.randint(sources, (FRAMES, BINS), generator=generator)
    delays = torch.linspace(-0.9, 0.9, sources).unsqueeze(-1) * torch.arange(microphones)  # (C, M)
    phases = delays.T[..., None, None] * torch.arange(1, BINS + 1) / 8  # (M, C, 1, F)
    steering = torch.polar(torch.ones(()), phases).expand(-1, -1, FRAMES, -1)
    values = torch.randn(FRAMES, BINS, dtype=torch.complex64, generator=generator)
    values[:PAUSE] *= 1e-3
    spectra = values * steering.gather(1, owners.expand(microphones, 1, -1, -1))[:, 0]
    spectra = spectra + 0.01 * torch.randn(
        spectra.shape, dtype=torch.complex64, generator=generator
    )
    wrong = torch.rand(FRAMES, BINS, generator=generator) < 0.25
    guessed = torch.where(wrong, (owners + 1) % sources, owners)
    masks = torch.nn.functional.one_hot(guessed, sources).permute(2, 0, 1) + 0.5
    return spectra, owners, masks / masks.sum(0)


@pytest.mark.parametrize(("sources", "microphones"), [(2, 2), (2, 4), (3, 3)])
def test_known_places_correct_weak_masks(sources: int, microphones: int) -> None:
    spectra, owners, masks = scene(sources, microphones)
    refined = refine(masks, spectra)
    torch.testing.assert_close(refined.sum(0), torch.ones(FRAMES, BINS))
    before, after = ((x.argmax(0) == owners)[PAUSE:, 4:].float().mean() for x in (masks, refined))
    assert before < 0.78 and after > 0.95


class Noisy(Separator):
    """Weak masks of two talkers, and a background of half of every bin."""

    def __init__(self, masks: Tensor) -> None:
        self.given = torch.cat([masks / 2, torch.full_like(masks[:1], 0.5)])

    sample_rate, stft = RATE, STFT(46, 23)

    def analyse(self, spectra: Tensor) -> Analysis:
        return (spectra.abs()[:, 0],)

    def link(self, analyses: Analyses, num_sources: int | None, most: int) -> Link:
        return Link(2, background=True)

    def masks(self, window: int, analysis: Analysis, link: Link) -> Tensor:
        return self.given


def test_a_background_keeps_its_mask() -> None:
    spectra, owners, masks = scene()
    spatial = Spatial(Noisy(masks))
    analysis = tuple(x[0] for x in spatial.analyse(spectra[None]))
    refined = spatial.masks(0, analysis, Link(2, background=True))
    assert torch.equal(refined[2], torch.full((FRAMES, BINS), 0.5))
    torch.testing.assert_close(refined.sum(0), torch.ones(FRAMES, BINS))
    assert (refined[:2].argmax(0) == owners)[PAUSE:, 4:].float().mean() > 0.95


def test_channels_that_tell_nothing_change_no_mask() -> None:
    spectra, _, masks = scene()
    one = spectra[:1]
    noise = torch.randn(2, FRAMES, BINS, dtype=torch.complex64)
    everywhere = torch.polar(torch.ones(()), 20 * torch.rand(FRAMES, BINS))
    silent = torch.zeros_like(spectra)
    for channels, error in (
        (one, 0),
        (torch.cat([one, one]), 1e-4),
        (torch.cat([one, 0.3 * one]), 1e-4),
        (torch.cat([one, 0 * one]), 1e-4),
        (silent, 1e-4),
        (one.expand(2, -1, -1) + 0.1 * noise, 0.04),
        (torch.cat([one, one * everywhere]), 0.03),
    ):
        assert float((refine(masks, channels) - masks).abs().mean()) <= error
    alone = torch.ones(1, FRAMES, BINS)
    assert torch.equal(refine(alone, spectra), alone)


def test_noise_of_one_microphone_changes_few_masks() -> None:
    """Its bins have a direction of their own, which names no talker."""
    spectra, _, masks = scene()
    generator = torch.Generator().manual_seed(0)
    noise = 0.5 * torch.randn(FRAMES, BINS, dtype=torch.complex64, generator=generator)
    one = spectra[:1]
    refined = refine(masks, torch.cat([one, one + noise]))
    in_noise = noise.abs() > one[0].abs()
    assert float((refined - masks).abs()[:, in_noise].mean()) < 0.02  # 0.032 if all bins vote


@pytest.mark.parametrize("copies", [1, 3])
def test_copies_with_noise_in_one_channel_change_no_mask(copies: int) -> None:
    """The copies differ from the noisy channel, but not by the places of talkers."""
    spectra, _, masks = scene()
    noise = torch.randn(FRAMES, BINS, dtype=torch.complex64, generator=torch.manual_seed(0))
    for gain in (0.05, 0.2, 0.4):
        channels = torch.cat([*[spectra[:1]] * copies, spectra[:1] + gain * noise])
        torch.testing.assert_close(refine(masks, channels), masks, atol=1e-3, rtol=0)


def test_all_talkers_that_move_alike_change_no_mask() -> None:
    """Directions then separate the left of the room from the right, at any moment."""
    spectra, _, masks = scene()
    pan = (0.5 + 0.4 * torch.sin(torch.arange(FRAMES) / 9)).unsqueeze(-1)
    moving = torch.stack([pan * spectra[0], (1 - pan) * spectra[0]])
    torch.testing.assert_close(refine(masks, moving), masks, atol=1e-4, rtol=0)


class Louder(WindowSeparator):
    """The first source is louder: weak masks of every bin by its level."""

    sample_rate, stft, window_seconds = RATE, STFT(256, 64), 2.0

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        level = spectrum.abs()
        first = torch.where(level > level.median(), 0.7, 0.3)
        return torch.stack([first, 1 - first])


def talkers(seconds: float) -> np.ndarray:
    """Two noises (2, T) in turns of a third of a second with pauses, the first one louder."""
    noise = np.random.default_rng(0).standard_normal((2, round(seconds * RATE)))
    first = np.sin(9 * np.arange(noise.shape[1]) / RATE) > 0
    noise *= np.arange(noise.shape[1]) % RATE > RATE // 5
    return (noise * np.stack([first, 0.5 * ~first]) / 9).astype(np.float32)


def array(seconds: float, delay: int = 3) -> np.ndarray:
    """The talkers at two microphones (2, T): one from the left, one from the right."""
    left, right = talkers(seconds)
    return np.stack([left + np.roll(right, delay), np.roll(left, delay) + right])


def run(
    recording: np.ndarray, separator: Separator, spatial: bool = True
) -> tuple[Tensor, RecordingSeparation]:
    with RecordingSeparation(
        InMemory(recording, RATE), separator, 2, spatial=spatial
    ) as separation:
        pieces = list(separation.pieces())
    return torch.cat([piece.sources for piece in pieces], -1), separation


def test_a_long_array_passes_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    recording, first = array(12), torch.from_numpy(talkers(12)[0])
    plain, _ = run(recording, Louder(), spatial=False)
    found, separation = run(recording, Louder())
    assert separation.windows.count > 5 and isinstance(separation.separator, Spatial)
    torch.testing.assert_close(found.sum(0), torch.from_numpy(recording), atol=1e-5, rtol=0)
    assert si_sdr(found[0, 0], first) > si_sdr(plain[0, 0], first) + 5  # dB
    monkeypatch.setattr(cache, "IN_MEMORY", 100)  # so memory does not grow with the recording
    on_disk, _ = run(recording, Louder())
    assert torch.equal(found, on_disk)


def test_equal_channels_are_separated_as_one() -> None:
    one = array(5)[0]
    for gain in (1.0, 0.25):
        stereo = np.stack([one, gain * one])
        found, separation = run(stereo, Louder())
        assert isinstance(separation.separator, Louder)
        assert torch.equal(found, run(stereo, Louder(), spatial=False)[0])


@pytest.mark.parametrize("rate", [8000, 44100])
def test_sources_of_an_array_sum_to_it(rate: int, tiny_model: Path) -> None:
    recording = array(2)
    found = separate_recording(recording, rate, build(str(tiny_model)), 2).sources
    torch.testing.assert_close(found.sum(0), torch.from_numpy(recording), atol=1e-5, rtol=0)
    plain = separate(recording, rate, 2, str(tiny_model), spatial=False).sources
    assert not torch.equal(found, plain)


def test_many_channels_share_the_masks_of_some(tiny_model: Path) -> None:
    recording = np.concatenate([array(1, delay) for delay in range(1, 8)])
    found, separation = run(recording, build(str(tiny_model)))
    assert len(separation._array) <= 8 < len(recording) == found.shape[1]
    torch.testing.assert_close(found.sum(0), torch.from_numpy(recording), atol=1e-5, rtol=0)
