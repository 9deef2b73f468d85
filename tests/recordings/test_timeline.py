"""Who speaks when, from levels of sources and frame-wise numbers of talkers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dpcl.recordings.recording import InMemory
from dpcl.recordings.separate import RecordingSeparation, separate_recording
from dpcl.recordings.timeline import (
    FRAME,
    LevelMeter,
    active_sources,
    at_frames,
    estimate_timeline,
    frame_count,
    timeline_of,
)
from dpcl.separators.base import Context, Link, Segment, Timeline
from dpcl.separators.oracle import ORACLES, Oracle

QUIET = -90.0


def levels_of(*talkers: list[tuple[float, float, float]], seconds: float = 6.0) -> Tensor:
    """Levels in dB from (start, end, level) of each talker."""
    levels = torch.full((len(talkers), frame_count(seconds)), QUIET)
    for row, spoken in zip(levels, talkers, strict=True):
        for start, end, level in spoken:
            row[round(start / FRAME) : round(end / FRAME)] = level
    return levels


def spans(timeline: Timeline) -> list[tuple[str, float, float]]:
    return [(x.talker, x.start, x.end) for x in timeline.segments]


def found(levels: Tensor, counts: Tensor | None = None, seconds: float = 6.0) -> Timeline:
    return timeline_of(active_sources(levels, counts), seconds)


def test_turns_and_an_overlap_are_found() -> None:
    timeline = found(levels_of([(0, 3, -20)], [(2, 5, -24)]))
    assert [(t, pytest.approx(a, abs=0.06), pytest.approx(b, abs=0.06)) for t, a, b in
            [("s1", 0, 3), ("s2", 2, 5)]] == spans(timeline)  # fmt: skip
    (overlap,) = timeline.overlaps()
    assert overlap.talker == "s1+s2"
    assert overlap.end - overlap.start == pytest.approx(1, abs=0.12)


def test_leakage_of_the_other_talker_is_no_speech() -> None:
    leaking = levels_of([(0, 3, -20), (3, 6, -44)], [(0, 3, -45), (3, 6, -20)])
    assert [x[0] for x in spans(found(leaking))] == ["s1", "s2"]


def test_a_source_that_is_never_the_loudest_does_not_speak() -> None:
    assert found(levels_of([(0, 6, -20)], [(0, 6, -26)])).talkers == ("s1", "s2")
    assert {x.talker for x in found(levels_of([(0, 6, -20)], [(0, 6, -26)])).segments} == {"s1"}


def test_a_steady_floor_is_no_speech() -> None:
    noise = levels_of([(0, 6, -40)], [(0, 6, -43)])
    noise[0, 100:200] = -20
    assert [(t, round(a), round(b)) for t, a, b in spans(found(noise))] == [("s1", 2, 4)]


def test_silence_has_no_segments() -> None:
    assert found(torch.full((2, 300), -120.0)).segments == ()


def test_frame_wise_numbers_limit_the_active_sources() -> None:
    levels = levels_of([(0, 6, -20)], [(0, 6, -20.5)])
    levels[1, 250:] = -14  # it is the loudest for a while, so it is a talker
    counts = torch.zeros(4, levels.shape[1])
    counts[1, :100], counts[2, 100:200], counts[0, 200:] = 1, 1, 1
    timeline = found(levels, counts)
    assert [(t, round(a), round(b)) for t, a, b in spans(timeline)] == [("s1", 0, 4), ("s2", 2, 4)]
    counts[0, 200:], counts[3, 200:] = 0, 1
    assert {(t, round(b)) for t, _, b in spans(found(levels, counts))} == {("s1", 6), ("s2", 6)}


def test_gaps_are_closed_before_short_segments_are_omitted() -> None:
    active = torch.zeros(1, 200, dtype=torch.bool)
    active[0, 10:14], active[0, 20:24] = True, True  # 80 ms, gap of 120 ms
    active[0, 100:104] = True
    assert spans(timeline_of(active, 4.0)) == [("s1", 0.2, 0.48)]


def test_segments_end_with_the_recording() -> None:
    assert spans(timeline_of(torch.ones(1, frame_count(0.99), dtype=torch.bool), 0.99)) == [
        ("s1", 0.0, 0.99)
    ]


def test_activity_of_the_link_decides() -> None:
    activity = torch.tensor([[1.0] * 100 + [0.0] * 100, [0.0] * 50 + [0.9] * 150])
    link = Link(2, activity=activity)
    timeline = estimate_timeline(torch.full((2, 200), -20.0), link, FRAME, 4.0)
    assert spans(timeline) == [("s1", 0.0, 2.0), ("s2", 1.0, 4.0)]


def test_frames_of_other_hops_are_matched() -> None:
    assert at_frames(torch.arange(5.0)[None], 0.04, 0.16).tolist() == [[0, 0, 1, 2, 2, 2, 3, 4][:8]]


def test_the_meter_measures_what_the_blocks_hold() -> None:
    torch.manual_seed(0)
    masks, spectrum = torch.rand(2, 37, 9), torch.randn(1, 37, 9, dtype=torch.complex64)
    whole, blocks = LevelMeter(0.008, 2), LevelMeter(0.008, 2)
    whole.keep(whole.measure(masks, spectrum))
    for part in (slice(0, 5), slice(5, 6), slice(6, 37)):
        blocks.keep(blocks.measure(masks[:, part], spectrum[:, part]))
    torch.testing.assert_close(whole.levels(0.28), blocks.levels(0.28))
    power = (masks[0, 0, 2:] * spectrum[0, 0, 2:].abs()).square().sum()
    assert float(whole.levels(0.28)[0, 0]) == pytest.approx(10 * math.log10(power), abs=1e-3)


def tones(seconds: float, rate: int) -> Tensor:
    """Two talkers (2, T) of different tones that take turns, with one second of both."""
    time = torch.arange(round(seconds * rate)) / rate
    first, second = torch.sin(2000 * time), torch.sin(9000 * time)
    return 0.3 * torch.stack([first * (time < 2), second * (time > 1)])


@pytest.mark.parametrize("rate", [8000, 44100])
def test_the_timeline_of_a_separation(rate: int) -> None:
    references = tones(3.0, 8000)
    separator = Oracle("ibm", ORACLES["ibm"], Context(references.sum(0), references))
    mixture = tones(3.0, rate).sum(0) + 0.4  # an offset is no speech
    timeline = separate_recording(mixture.numpy(), rate, separator, 2).timeline
    assert timeline is not None
    assert [(t, round(a, 1), round(b, 1)) for t, a, b in spans(timeline)] == [
        ("s1", 0.0, pytest.approx(2.0, abs=0.11)),
        ("s2", pytest.approx(1.0, abs=0.11), 3.0),
    ]
    assert timeline.seconds == pytest.approx(3.0, abs=1e-3)


def test_a_recording_of_one_sample() -> None:
    references = torch.ones(1, 1)
    separator = Oracle("ibm", ORACLES["ibm"], Context(references[0], references))
    recording = InMemory(np.ones((1, 1), np.float32), 8000)
    with RecordingSeparation(recording, separator, 1, timeline=True) as separation:
        list(separation.pieces())
        assert separation.timeline().seconds == pytest.approx(1 / 8000)


def test_a_timeline_as_frames() -> None:
    timeline = Timeline((Segment(0.0, 0.1, "a"), Segment(0.1, 0.2, "b")), names=("b", "c"))
    assert timeline.talkers == ("b", "c", "a")
    assert timeline.end == 0.2
    assert timeline.activity(0.05, 4).tolist() == [
        [False, False, True, True],
        [False] * 4,
        [True, True, False, False],
    ]
