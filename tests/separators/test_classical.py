"""CASA and spectral clustering: what holds for any separator, and voices told apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.evaluation.metrics import best_permutation, si_sdr
from dpcl.recordings.separate import load_separator
from dpcl.separators.classical import auditory, spectral
from dpcl.separators.classical.auditory import auditory_scene, unit_masks_to_bins

NAMES = ["casa", "spectral"]


def _voice(pitch: float, seed: int, samples: int = 8000) -> Tensor:
    """Harmonics of a pitch that sways, in syllables."""
    generator = torch.Generator().manual_seed(seed)
    seconds = torch.arange(samples) / 8000
    phase = 2 * math.pi * pitch * (seconds + 0.004 * torch.sin(2 * math.pi * 2 * seconds + seed))
    voice = torch.zeros(samples)
    for k in range(1, int(3500 / pitch)):
        voice += torch.cos(k * phase + 6 * torch.rand(1, generator=generator)) / k**0.5
    gates = (torch.rand(samples // 1600 + 1, generator=generator) > 0.25).float()
    return voice * gates.repeat_interleave(1600)[:samples]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sources", [1, 3])
@pytest.mark.parametrize("samples", [1, 2500])
def test_masks_add_up_to_one_and_sources_to_the_mixture(
    name: str, sources: int, samples: int
) -> None:
    mixture = torch.randn(samples, generator=torch.Generator().manual_seed(samples))
    separation = load_separator(name)(mixture, sources)
    assert separation.masks is not None
    assert separation.sources.shape == (sources, samples)
    torch.testing.assert_close(separation.sources.sum(0), mixture, atol=1e-5, rtol=0)
    torch.testing.assert_close(separation.masks.sum(0), torch.ones(separation.masks.shape[1:]))
    assert float(separation.masks.min()) >= 0


@pytest.mark.parametrize("name", NAMES)
def test_silence_is_silent(name: str) -> None:
    separation = load_separator(name)(torch.zeros(3000))
    assert separation.sources.shape == (2, 3000)
    assert torch.all(separation.sources == 0)


@pytest.mark.parametrize("name", NAMES)
def test_level_changes_nothing_but_the_level(name: str) -> None:
    mixture = _voice(110, 0, 6000) + _voice(170, 1, 6000)
    separator = load_separator(name)
    soft, loud = separator(mixture).sources, separator(128 * mixture).sources
    torch.testing.assert_close(loud, 128 * soft, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_two_pitches_are_told_apart(name: str) -> None:
    references = torch.stack([_voice(110, 0), _voice(170, 1)])
    mixture = references.sum(0)
    estimates = load_separator(name)(mixture, 2).sources
    estimates = estimates[best_permutation(estimates, references)]
    improvement = si_sdr(estimates, references) - si_sdr(mixture, references)
    assert float(improvement.mean()) > 2


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_separated_item_by_item(name: str) -> None:
    mixtures = torch.stack([_voice(120, 3, 4000) + _voice(200, 4, 4000), _voice(150, 5, 4000)])
    separator = load_separator(name)
    torch.testing.assert_close(separator(mixtures).sources[1], separator(mixtures[1]).sources)


@pytest.mark.parametrize("mixture", [torch.zeros(0), torch.tensor([1.0, math.nan])])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_hear_is_refused(name: str, mixture: Tensor) -> None:
    with pytest.raises(InputError, match="empty or holds NaN"):
        load_separator(name)(mixture)


def test_blocks_hear_what_the_whole_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = _voice(130, 7, 9000)
    whole = auditory_scene(mixture)
    monkeypatch.setattr(auditory, "BLOCK", 16 * auditory.HOP)
    blocks = auditory_scene(mixture)
    torch.testing.assert_close(blocks.power, whole.power, atol=1e-4, rtol=0)
    loud = whole.power > 1e-3
    difference = (blocks.periodicity - whole.periodicity).abs()[loud]
    assert float(difference.mean()) < 0.02


def test_masks_of_units_are_laid_where_they_belong() -> None:
    masks = torch.zeros(1, 64, 5)
    masks[0, 32:] = 1
    bins = unit_masks_to_bins(masks, 9)
    border = float(auditory.FILTERS.centres[32])
    frequencies = torch.arange(129) * 31.25
    assert torch.all(bins[0, :, frequencies >= border] == 1)
    assert torch.all(bins[0, :, frequencies <= border - 80] == 0)


def test_segments_are_linked_to_the_same_talkers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense and in short segments, the talkers do not change places on the way."""
    references = torch.stack([_voice(110, 0), _voice(170, 1)])
    monkeypatch.setattr(spectral, "SEGMENT", 20)
    monkeypatch.setattr(spectral, "OVERLAP", 5)
    monkeypatch.setattr(spectral, "MOST_DENSE", 10_000)
    estimates = load_separator("spectral")(references.sum(0), 2).sources
    estimates = estimates[best_permutation(estimates, references)]
    assert float((si_sdr(estimates, references) - si_sdr(references.sum(0), references)).mean()) > 1
