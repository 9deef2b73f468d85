"""DER and JER on cases counted by hand, and who is at which output where one talker speaks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dpcl.evaluation.diarisation import (
    reference_timeline,
    sample_levels,
    score_alone,
    score_timeline,
)
from dpcl.separators.base import Segment, Timeline


def timeline(*segments: tuple[str, float, float]) -> Timeline:
    return Timeline(tuple(sorted(Segment(start, end, name) for name, start, end in segments)))


def test_the_same_timeline_with_other_names_has_no_error() -> None:
    score = score_timeline(
        timeline(("a", 0, 2), ("b", 1, 3), ("a", 4, 5)),
        timeline(("y", 0, 2), ("x", 1, 3), ("y", 4, 5)),
    )
    assert (score.total, score.der, score.jer) == (5.0, 0.0, 0.0)


def test_missed_false_and_confused_time() -> None:
    reference = timeline(("a", 0, 4), ("b", 3, 8))  # 9 s, of which 3 to 4 s overlap
    estimate = timeline(("x", 0, 5), ("y", 6, 10))
    score = score_timeline(reference, estimate)
    # 3 to 4: b missed; 4 to 5: x for b; 5 to 6: b missed; 8 to 10: false alarm
    assert (score.missed, score.confusion, score.false_alarm) == (2.0, 1.0, 2.0)
    assert score.der == pytest.approx(5 / 9)
    # a and x share 4 of 5 s, b and y share 2 of 7 s
    assert score.jer == pytest.approx(1 - (4 / 5 + 2 / 7) / 2)


def test_a_collar_and_overlaps_may_be_omitted() -> None:
    reference, estimate = timeline(("a", 0, 4), ("b", 3, 8)), timeline(("x", 0, 3.2), ("y", 3.2, 8))
    with_collar = score_timeline(reference, estimate, collar=0.25)
    # scored: 0.25 to 2.75, 3.25 to 3.75 (both speak, one is missed), 4.25 to 7.75
    assert with_collar.total == pytest.approx(2.5 + 2 * 0.5 + 3.5)
    assert with_collar.missed == pytest.approx(0.5)
    assert score_timeline(reference, estimate, overlaps=False).der == 0.0


@pytest.mark.parametrize("others", [(), (("x", 0, 1),)])
def test_references_and_estimates_without_speech(others: tuple[tuple[str, float, float]]) -> None:
    score = score_timeline(timeline(), timeline(*others))
    assert math.isnan(score.der) and math.isnan(score.jer)
    assert score.false_alarm == len(others)
    silent = score_timeline(timeline(("a", 0, 2)), timeline())
    assert (silent.der, silent.jer) == (1.0, 1.0)


def drawn(rng: np.random.Generator, names: str) -> Timeline:
    segments = []
    for name in names:
        times = np.sort(rng.uniform(0, 20, 2 * rng.integers(1, 6))).round(2)
        segments += [(name, a, b) for a, b in zip(times[::2], times[1::2], strict=True) if a < b]
    return timeline(*segments)


def test_rates_equal_those_of_pyannote() -> None:
    diarization = pytest.importorskip("pyannote.metrics.diarization")
    core = pytest.importorskip("pyannote.core")

    def annotation(timeline: Timeline) -> object:
        found = core.Annotation()
        for number, x in enumerate(timeline.segments):
            found[core.Segment(x.start, x.end), number] = x.talker
        return found

    rng = np.random.default_rng(0)
    for collar, overlaps in ((0.0, True), (0.25, True), (0.25, False)):
        metric = diarization.DiarizationErrorRate(collar=2 * collar, skip_overlap=not overlaps)
        jaccard = diarization.JaccardErrorRate(collar=2 * collar, skip_overlap=not overlaps)
        for _ in range(10):
            pair = drawn(rng, "abc"), drawn(rng, "xyzw")
            uem = core.Timeline([core.Segment(0, 21)])
            own = score_timeline(*pair, collar, overlaps)
            args = [annotation(x) for x in pair]
            assert own.der == pytest.approx(metric(*args, uem=uem), abs=1e-6)
            # pyannote maps talkers by shared time, we (as DIHARD) by the index itself
            assert own.jer <= jaccard(*args, uem=uem) + 1e-6


def levels_of(owners: list[int], outputs: int = 2) -> torch.Tensor:
    """One frame of 20 ms each, with the loudest output at -20 dB and the others at -50."""
    levels = torch.full((outputs, len(owners)), -50.0)
    levels[owners, torch.arange(len(owners))] = -20.0
    return levels


def test_time_alone_at_the_wrong_output() -> None:
    reference = timeline(("a", 0, 2), ("b", 1.8, 4))  # one talker for 1.8 and 2 s
    score = score_alone(reference, levels_of([1] * 100 + [0] * 75 + [1] * 25))
    assert score.seconds == pytest.approx(3.8)
    assert score.wrong == pytest.approx(0.5)
    assert score.outputs == (1, 0)
    assert score.leak_db == pytest.approx(-30.0)
    assert score.changes == 0


def test_a_swap_between_turns_is_a_change_of_identity() -> None:
    reference = timeline(("a", 0, 1), ("b", 1, 2), ("a", 2, 3), ("a", 3.5, 3.7))
    score = score_alone(reference, levels_of([0] * 50 + [1] * 100 + [0] * 50))
    assert (score.changes, score.share) == (1, pytest.approx(1 / 3.2))


def test_fewer_outputs_than_talkers() -> None:
    score = score_alone(timeline(("a", 0, 1), ("b", 1, 3)), levels_of([0] * 150, outputs=1))
    assert score.outputs == (-1, 0)
    assert score.share == pytest.approx(1 / 3)


def test_the_timeline_of_references() -> None:
    time = torch.arange(8000 * 4) / 8000
    speech = 0.1 * torch.sin(2000 * time) * torch.stack([time < 2, time > 1.5])
    found = reference_timeline(sample_levels(speech, 8000), ("a", "b"), 4.0)
    assert [(x.talker, round(x.start, 1), round(x.end, 1)) for x in found.segments] == [
        ("a", 0.0, 2.0),
        ("b", 1.5, 4.0),
    ]
