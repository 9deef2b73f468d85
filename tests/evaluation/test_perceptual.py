"""PESQ and STOI: what they say of good and bad estimates, and where there is nothing to measure."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.evaluation.perceptual import MEASURES, check_measures, perceive

RATE = 8000


@pytest.fixture(scope="module")
def speech() -> Tensor:
    """Two noises (2, T) with the envelopes of syllables, 3 s."""
    rng = np.random.default_rng(0)
    time = np.arange(3 * RATE) / RATE
    envelopes = np.stack([np.sin(2 * np.pi * 3 * time), np.sin(2 * np.pi * 2 * time + 1)])
    noise = rng.standard_normal((2, len(time)))
    noise[:, 1:] += 0.9 * noise[:, :-1]
    return torch.from_numpy(0.1 * noise * envelopes.clip(0)).float()


def need(measure: str) -> None:
    pytest.importorskip({"pesq": "pesq", "stoi": "pystoi"}[measure])


@pytest.mark.parametrize(("measure", "best"), [("pesq", 4.5), ("stoi", 1.0)])
def test_cleaner_estimates_score_higher_up_to_the_best(
    measure: str, best: float, speech: Tensor
) -> None:
    need(measure)
    scores = [
        perceive(measure, speech + leak * speech.flip(0), speech, RATE) for leak in (0, 0.2, 1)
    ]
    assert scores[0].tolist() == pytest.approx([best, best], abs=0.06)
    assert (scores[0] > scores[1]).all()
    assert (scores[1] > scores[2]).all()


def test_stoi_is_the_mean_correlation_of_short_envelopes_which_noise_of_its_own_lacks(
    speech: Tensor,
) -> None:
    need("stoi")
    stranger = torch.from_numpy(np.random.default_rng(1).standard_normal(speech.shape))
    assert perceive("stoi", stranger, speech, RATE).abs().max() < 0.35


@pytest.mark.parametrize("measure", MEASURES)
def test_without_speech_there_is_no_score(measure: str, speech: Tensor) -> None:
    need(measure)
    silence = torch.zeros_like(speech)
    assert perceive(measure, speech, silence, RATE).isnan().all()
    assert perceive(measure, silence, speech, RATE).isnan().all()
    assert perceive(measure, speech[:, :1000], speech[:, :1000], RATE).isnan().all()
    mixed = perceive(measure, speech, torch.stack([speech[0], silence[0]]), RATE)
    assert mixed.isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("measure", "package", "extra"), [("pesq", "pesq", "pesq"), ("stoi", "pystoi", "eval")]
)
def test_missing_package_names_the_extra(
    measure: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(InputError, match=rf"{package}.*dpcl\[{extra}\]"):
        check_measures((measure,), RATE)


def test_unknown_measures_and_rates_are_refused() -> None:
    with pytest.raises(InputError, match="'visqol'"):
        check_measures(("visqol",), RATE)
    need("pesq")
    check_measures(("pesq",), 16000)
    with pytest.raises(InputError, match="44100 Hz"):
        check_measures(("pesq",), 44100)
