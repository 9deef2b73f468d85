"""Equal error rates of the voice encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dpcl.errors import InputError
from dpcl.evaluation.voices import equal_error_rate, score_voices, voices_markdown
from dpcl.mixtures.corpus import read_corpus


def test_rates_of_known_distributions() -> None:
    rng = np.random.default_rng(0)
    same, different = rng.normal(2, 1, 20000), rng.normal(0, 1, 20000)
    assert equal_error_rate(same, different) == pytest.approx(0.1587, abs=0.01)  # one deviation
    assert equal_error_rate(np.array([1.0, 0.9]), np.array([0.1])) == 0.0


def test_every_condition_has_a_line(noises: Path) -> None:
    conditions = {"clean": None, "room": (0.2, 20.0)}
    scores = score_voices(read_corpus(noises), 0.5, 4, conditions)
    assert [(s.condition, s.talkers) for s in scores] == [("clean", 4), ("room", 4)]
    assert all(0 <= s.equal_error_rate <= 1 and 0 <= s.rejected <= 1 for s in scores)
    text = voices_markdown(scores)
    assert text.startswith("4 talkers; the two stretches of a pair are in two rooms.")
    assert [line.split(" | ")[0] for line in text.splitlines()[4:]] == ["| clean", "| room"]


def test_talkers_differ(shared_audio: Path) -> None:
    corpus = read_corpus(shared_audio, "valid")
    names = sorted({u.speaker for u in corpus.utterances if u.corpus == "librispeech"})
    (score,) = score_voices(corpus.of_speakers(names[:6]), 1.5, 4, {"clean": None})
    assert score.equal_error_rate < 0.1


def test_one_talker_is_no_pair(noises: Path) -> None:
    corpus = read_corpus(noises)
    one = corpus.of_speakers([corpus.utterances[0].speaker])
    with pytest.raises(InputError, match="has one speaker; give a corpus of two or more"):
        score_voices(one, 0.5)
