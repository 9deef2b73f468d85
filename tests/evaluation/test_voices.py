"""Equal error rates of voice networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dpcl.errors import InputError
from dpcl.evaluation.voices import (
    equal_error_rate,
    rejected_at,
    score_voices,
    voice_notes,
    voices_markdown,
)
from dpcl.mixtures.corpus import read_corpus
from dpcl.model import load_model
from dpcl.networks.activity import VoiceNetwork


def test_rates_of_known_distributions() -> None:
    rng = np.random.default_rng(0)
    same, different = rng.normal(2, 1, 20000), rng.normal(0, 1, 20000)
    assert equal_error_rate(same, different) == pytest.approx(0.1587, abs=0.01)  # one deviation
    assert rejected_at(same, different, 0.01) == pytest.approx(0.628, abs=0.03)
    assert equal_error_rate(np.array([1.0, 0.9]), np.array([0.1])) == 0.0


def test_noises_of_other_bands_differ_for_any_network(noises: Path, tiny_model: Path) -> None:
    model = load_model(tiny_model)
    with pytest.raises(InputError, match="the model has no voice network; fit one"):
        score_voices(model, read_corpus(noises))
    torch.manual_seed(0)
    model = replace(model, voice=VoiceNetwork(129, 16, 8).eval())
    conditions = {"clean": None, "room": (0.2, 20.0)}
    scores = score_voices(model, read_corpus(noises), 0.5, 4, conditions)
    assert [(s.condition, s.talkers) for s in scores] == [("clean", 4), ("room", 4)]
    assert scores[0].equal_error_rate < 0.35
    assert all(0 <= s.equal_error_rate <= 1 and 0 <= s.rejected <= 1 for s in scores)


def test_scores_are_notes_and_a_table(noises: Path, tiny_model: Path) -> None:
    model = replace(load_model(tiny_model), voice=VoiceNetwork(129, 16, 8).eval())
    notes = voice_notes(model, read_corpus(noises))
    text = voices_markdown(notes)
    assert text.startswith("4 talkers who were not in the training, stretches of 1.5 s")
    assert [line.split(" | ")[0] for line in text.splitlines()[4:]] == [
        f"| {note['condition']}" for note in notes
    ]
