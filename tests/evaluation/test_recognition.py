"""Word error rate: words of an estimate against those of its reference, by one recogniser."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.evaluation import metrics
from dpcl.evaluation.metrics import check_measures, perceptual_score
from dpcl.evaluation.summary import METRICS, SourceResult, means, weights
from dpcl.recordings.recogniser import RATE, Word

SAID = {0.0: "", 0.1: " Good, bad", 0.2: " good day", 0.3: " GOOD  bad."}  # by the first sample


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A recogniser that reads the words off the first sample; the lengths it was given."""
    lengths: list[int] = []

    def recognise(
        samples: NDArray[np.float32], language: str | None
    ) -> tuple[list[list[Word]], str]:
        lengths.append(len(samples))
        text = SAID[round(float(samples[0]), 1)]
        return [[Word(0.0, 1.0, text, 1.0)]] if text else [], "en"

    recognise.language = None  # type: ignore[attr-defined]
    monkeypatch.setattr(metrics, "load_recogniser", lambda name: recognise)
    metrics._words.cache_clear()
    yield lengths
    metrics._words.cache_clear()


def level(value: float, rate: int = RATE) -> NDArray[np.float64]:
    return np.full(rate, value)


def test_words_are_compared_without_case_and_punctuation(
    calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(metrics, "error_rate", lambda *texts: asked.append(texts) or 50.0)
    assert metrics.word_error_rate(level(0.2), level(0.1), RATE) == 50.0
    assert metrics.word_error_rate(level(0.3), level(0.1), RATE) == 50.0
    assert asked == [("good bad", "good day"), ("good bad", "good bad")]
    assert calls == [RATE] * 3  # the reference was recognised once
    assert np.isnan(metrics.word_error_rate(level(0.1), level(0.0), RATE))  # says nothing


def test_signals_reach_the_recogniser_at_its_rate(calls: list[int]) -> None:
    loud, silent = torch.full((1, 8000), 0.1), torch.zeros(1, 8000)
    assert perceptual_score("wer", silent, loud, 8000).isnan().all()
    assert calls == []
    metrics._words(np.zeros(8000, np.float32).tobytes(), 8000)
    assert calls == [RATE]


def test_rates_are_percent_and_may_exceed_a_hundred() -> None:
    pytest.importorskip("jiwer")
    assert metrics.error_rate("a b", "a b") == 0
    assert metrics.error_rate("a b", "") == 100
    assert metrics.error_rate("a", "a b c") == 200


def test_a_missing_model_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise InputError(f"no {name}")

    monkeypatch.setattr("dpcl.errors.find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr(metrics, "load_recogniser", load)
    monkeypatch.setenv(metrics.WHISPER, "mine")
    with pytest.raises(InputError, match="no mine"):
        check_measures(("wer",), 8000)
    monkeypatch.delenv(metrics.WHISPER)
    with pytest.raises(InputError, match="no base"):
        check_measures(("wer",), 8000)
    monkeypatch.setattr("dpcl.errors.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"WER needs jiwer.*dpcl\[asr\]"):
        check_measures(("wer",), 8000)


def test_the_mean_rate_is_that_of_all_words() -> None:
    """Three errors in one word and none in nine: 30 %, whatever the mean of both rates is."""

    def source(number: int, rate: float, words: float) -> SourceResult:
        more = {"wer": rate, "weri": rate - 100.0, "wer_weight": words}
        scores = dict.fromkeys(METRICS, 1.0)
        return SourceResult(str(number), "within", "same", 1, "a", silent=False, more=more, **scores)

    averaged = means([source(1, 300.0, 1.0), source(2, 0.0, 9.0)], ("si_sdr", "wer", "weri"))
    assert averaged.more == {"wer": 30.0, "weri": -70.0}
    assert averaged.si_sdr == 1.0
    assert averaged.intervals["wer"] == (0.0, 300.0)
    assert weights(["stoi", "wer"]) == ("wer_weight",)


def test_words_of_a_reference_are_counted(calls: list[int]) -> None:
    assert [metrics.number_of_words(level(loud), RATE) for loud in (0.0, 0.1)] == [0, 2]
    assert metrics.MEASURES["wer"].weight is metrics.number_of_words
