"""Masks that follow a timeline, and timelines from voices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dpcl.errors import FLOOR_DB, InputError
from dpcl.model import Model, load_model
from dpcl.networks.voice import VoiceEncoder
from dpcl.recordings.recording import InMemory
from dpcl.recordings.separate import RecordingSeparation, separate_recording
from dpcl.separators import guided, registry
from dpcl.separators import talkers as talkers_module
from dpcl.separators.base import Context, Segment, Timeline
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.guided import GuidedClustering
from dpcl.separators.talkers import (
    STRIDE,
    Summary,
    Talkers,
    find_talkers,
    local_seeds,
    window_seeds,
)
from dpcl.signal.audio import resample
from dpcl.signal.stft import Windows, own_multiples, owned

HOP = 0.032
RATE = 8000


def noise(seconds: float) -> Tensor:
    return 0.1 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(2))


TURNS = Timeline((Segment(0.0, 11.0, "ann"), Segment(10.0, 21.0, "bob")), 21.0, ("ann", "bob"))


def test_masks_follow_the_timeline(model: Model) -> None:
    mixture = noise(21)
    separation = separate_recording(mixture, RATE, GuidedClustering(model, TURNS))
    sources, background = separation.sources, separation.background
    assert background is not None and separation.timeline is not None
    torch.testing.assert_close(sources.sum(0) + background, mixture, atol=1e-5, rtol=0)
    power = sources.square()
    first, second = slice(8000, 76000), slice(92000, 160000)  # one talker each
    least = 1.1 * 10 ** (FLOOR_DB / 10)
    assert power[1, first].sum() < least * power[0, first].sum()
    assert power[0, second].sum() < least * power[1, second].sum()
    both = power[:, 82000:86000].sum(-1)
    assert both.min() > 1e-3 * both.max()
    assert [(x.talker, round(x.start), round(x.end)) for x in separation.timeline.segments] == [
        ("s1", 0, 11),
        ("s2", 10, 21),
    ]


def test_a_timeline_guides_one_window_too(model: Model) -> None:
    short = Timeline((Segment(0.0, 1.0, "a"), Segment(1.0, 2.0, "b")), 2.0)
    sources = separate_recording(noise(2), RATE, GuidedClustering(model, short)).sources
    assert sources[1, :7000].abs().max() < 0.05 * sources[0, :7000].abs().max()


@pytest.mark.parametrize("floor", [-12.0, -60.0])
def test_inactive_talkers_are_attenuated_to_the_floor(floor: float, model: Model) -> None:
    separator = GuidedClustering(model, TURNS)
    sources = separate_recording(noise(21), RATE, separator, floor=floor).sources
    power = sources[:, 8000:76000].square().sum(-1)  # the first talker alone
    assert 10 * float((power[1] / power[0]).log10()) == pytest.approx(floor, abs=1.5)


def test_a_model_that_counts_no_talkers_is_clustered(background_model: Path) -> None:
    assert type(registry.separator_of(load_model(background_model))) is DeepClustering


def test_a_short_recording_is_clustered(model: Model, plain: DeepClustering) -> None:
    voices = registry.separator_of(model)
    assert isinstance(voices, GuidedClustering)
    mixture = noise(3)
    torch.testing.assert_close(
        separate_recording(mixture, RATE, voices, 2).sources,
        separate_recording(mixture, RATE, plain, 2).sources,
    )


@pytest.mark.parametrize("sources", [1, 3, None])
def test_talkers_are_estimated_from_voices(model: Model, sources: int | None) -> None:
    recording = InMemory(noise(23)[None].numpy(), RATE)
    with RecordingSeparation(recording, GuidedClustering(model), sources, timeline=True) as run:
        parts = [piece.sources for piece in run.pieces()]
        link, timeline = run.link(), run.timeline()
    assert sources is None or link.num_sources == sources
    assert sum(part.shape[-1] for part in parts) == 23 * RATE
    assert link.activity is not None and link.activity.shape == (link.num_sources, 720)
    assert timeline.seconds == 23.0


def test_voices_are_of_the_bins_above_the_separation_too(model: Model) -> None:
    wide = GuidedClustering(model).with_voices({})
    assert (wide.bins, wide.prepared(1).bins) == (513, 513)
    assert [GuidedClustering(model).prepared(n).bins for n in (1, 2)] == [257, 513]
    whole = noise(44)  # two rates: 22 s at 16 kHz
    low = torch.from_numpy(resample(resample(whole.numpy(), 16000, 8000), 8000, 16000))
    vectors = []
    for samples, rate in ((whole, 16000), (low, 16000), (noise(22), RATE)):
        with RecordingSeparation(InMemory(samples[None].numpy(), rate), wide, 2) as run:
            vectors.append(run.voice()[0])
            assert next(iter(run.pieces())).sources.shape[0] == 2
    assert (vectors[0] - vectors[1]).abs().max() > 1e-4


def test_talkers_who_are_never_alone_are_clustered(
    model: Model, plain: DeepClustering, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = noise(13)
    monkeypatch.setattr(guided, "LEAST_ALONE", 1.0)
    torch.testing.assert_close(
        separate_recording(mixture, RATE, GuidedClustering(model), 2).sources,
        separate_recording(mixture, RATE, plain, 2).sources,
    )


def test_a_talker_who_only_talks_while_others_do_is_clustered(
    model: Model, plain: DeepClustering, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = noise(13)
    found = find_talkers

    def one_voice(summaries: list[Summary], number: int | None, most: int, hop: float) -> Talkers:
        return found(summaries, number or 1, most, hop)

    monkeypatch.setattr(guided, "find_talkers", one_voice)
    monkeypatch.setattr(guided, "LEAST_ALONE", 0.0)
    for least, clustered in ((0.0, True), (1.0, False)):
        monkeypatch.setattr(guided, "LEAST_OVERLAP", least)
        ours = separate_recording(mixture, RATE, GuidedClustering(model), 2).sources
        same = torch.allclose(ours, separate_recording(mixture, RATE, plain, 2).sources, atol=1e-5)
        assert same == clustered


def test_without_speech_all_is_background(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def speech(_: VoiceEncoder, encoded: Tensor) -> Tensor:
        """The first window of 13 s has some, the second one has none."""
        odds = torch.full((len(encoded), encoded.shape[-1]), -20.0)
        odds[0, :80] = 9.0
        return odds

    mixture = noise(13)
    with_some = GuidedClustering(model)
    monkeypatch.setattr(VoiceEncoder, "speech", speech)
    monkeypatch.setattr(guided, "LEAST_ALONE", 0.0)
    recording = InMemory(mixture[None].numpy(), RATE)
    with RecordingSeparation(recording, with_some, 2, threads=1) as run:  # both windows at once
        pieces = list(run.pieces())
    sources = torch.cat([piece.sources for piece in pieces], -1)[:, 0]
    background = torch.cat([p.background for p in pieces if p.background is not None], -1)[0]
    spoken, silent = slice(0, 5 * RATE), slice(11 * RATE, 13 * RATE)
    power, rest = sources.sum(0).square(), background.square()
    assert power[spoken].sum() > rest[spoken].sum()
    assert power[silent].sum() < 1e-3 * rest[silent].sum()
    monkeypatch.setattr(VoiceEncoder, "speech", lambda _, x: torch.full((len(x), 101), -20.0))
    nothing = separate_recording(mixture, RATE, GuidedClustering(model))
    assert len(nothing.sources) == 0


def test_silence_is_separated(model: Model) -> None:
    found = separate_recording(np.zeros(21 * RATE, np.float32), RATE, GuidedClustering(model))
    assert found.sources.shape == (0, 21 * RATE)
    assert found.timeline is not None and found.timeline.segments == ()


def test_the_true_timeline_as_a_method(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load_network", lambda name: model)
    method = registry.find_method("x.safetensors:guided")
    assert method.needs == "timeline"
    separator = method.build(Context(timeline=TURNS))
    assert isinstance(separator, GuidedClustering) and separator.given is TURNS
    with pytest.raises(InputError, match=r":guided: needs the timeline; use it with"):
        method.build(Context())


@pytest.mark.parametrize(("frames", "longest", "overlap"), [(50, 60, 4), (200, 60, 7), (97, 13, 3)])
def test_every_frame_belongs_to_one_window(frames: int, longest: int, overlap: int) -> None:
    windows = Windows(frames, longest, overlap)
    for step in (1, 2, 5):
        found = torch.cat(
            [own_multiples(windows, w, step) + s for w, s in enumerate(windows.starts)]
        )
        assert found.tolist() == list(range(0, frames, step))
    assert all(owned(windows, w).start >= 0 for w in range(windows.count))


def talk(turns: list[int], frames: int = 160) -> tuple[list[Summary], Tensor]:
    """Summaries of four windows of 40 frames, with turns of equal length."""
    generator = torch.Generator().manual_seed(3)
    owner = torch.tensor(turns).repeat_interleave(frames // len(turns))
    directions = functional.normalize(torch.randn(3, 16, generator=generator), dim=-1)
    colours = functional.normalize(torch.randn(3, 6, generator=generator), dim=-1)
    counts = torch.zeros(frames, 4)
    counts[:, 1] = 1
    step = round(0.5 / HOP)
    summaries = []
    for start in range(0, frames, 40):
        own = range(start, start + 40)
        places = [f for f in own if f % step == 0]
        summed = [f for f in own if f % STRIDE == 0]
        summaries.append(
            Summary(
                directions[owner[places]],
                torch.ones(len(places)),
                counts[start : start + 40],
                2 * colours[owner[summed]],
                torch.full((len(summed),), 2.0),
                torch.tensor(len(own)),
                torch.ones(len(own)),
            )
        )
    return summaries, owner


def test_noise_far_below_the_talkers_is_no_talker() -> None:
    """Its stretches have a voice of their own, and the head takes them for speech."""
    summaries, owner = talk([0, 2, 1, 0, 2, 1], 960)
    powers = torch.where(owner == 2, 1e-4, 1.0)
    quiet = [replace(x, powers=part) for x, part in zip(summaries, powers.split(40), strict=True)]
    found = find_talkers(quiet, 2, 4, HOP)
    active = found.activity > 0.5
    assert not active[:, 220:260].any() and not active[:, 700:740].any()
    names = found.priors.argmax(0)
    first, second = (names[owner == talker].float().mean() for talker in (0, 1))
    assert (first - second).abs() > 0.9
    assert (find_talkers(summaries, 3, 4, HOP).activity > 0.5)[:, 220:260].any()


def test_turns_are_found_and_end_where_the_embeddings_say() -> None:
    summaries, owner = talk([0, 1, 0, 1])
    found = find_talkers(summaries, 2, 4, HOP)
    names = found.priors.argmax(0)
    assert (names[:30] == names[0]).all()
    same = (names == names[0]) == (owner == owner[0])
    assert same.double().mean() > 0.95
    assert found.activity.shape == (2, 160)


@pytest.mark.parametrize(("number", "found"), [(None, 2), (3, 3)])
def test_a_cluster_that_never_speaks_is_no_talker_unless_the_number_is_given(
    number: int | None, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    summaries, _ = talk([0, 1, 0, 1])
    cluster = talkers_module.cluster_directions

    def one_more(vectors: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        directions, mass = cluster(vectors, arguments[0], 2, *arguments[2:])
        other = -functional.normalize(directions.sum(0, keepdim=True), dim=-1)
        return torch.cat([directions, other]), torch.cat([mass, torch.tensor([1.0])])

    monkeypatch.setattr(talkers_module, "cluster_directions", one_more)
    talkers = find_talkers(summaries, number, 4, HOP)
    assert len(talkers.priors) == len(talkers.directions) == found
    assert (talkers.activity > 0.5).any(1).sum() == 2


def test_overlapped_speech_is_shared_by_the_talkers_nearby() -> None:
    summaries, _ = talk([0, 1, 0, 1])
    summaries[1].counts[10:30] = torch.tensor([0, 0, 1.0, 0])
    priors = find_talkers(summaries, 2, 4, HOP).priors
    assert priors[:, 55:65].min() > 0.8
    assert priors[:, :20].min() < 0.1


def test_seeds_are_the_means_of_a_talker_alone() -> None:
    summaries, owner = talk([0, 1, 2, 0])
    priors = functional.one_hot(owner, 3).T.float()
    seeds = window_seeds(summaries, priors, HOP)
    mean = torch.cat([x.sums for x in summaries])[owner[::STRIDE] == 1].mean(0) / 2
    torch.testing.assert_close(seeds[1, 1], mean)
    torch.testing.assert_close(seeds[3, 1], mean)


def test_a_talker_far_away_gets_the_seed_of_the_whole_recording() -> None:
    sums = torch.zeros(9, 1, 2)
    sums[0, 0] = torch.tensor([4.0, 2.0])
    masses = torch.zeros(9, 1)
    masses[0] = 2
    seeds = local_seeds(sums, masses, 10 * masses, 5)
    assert seeds[8, 0].tolist() == [2.0, 1.0] == seeds[0, 0].tolist()
    assert local_seeds(torch.zeros(2, 1, 2), torch.zeros(2, 1), torch.zeros(2, 1), 5).sum() == 0
