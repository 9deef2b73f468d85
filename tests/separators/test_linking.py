"""A long recording's sample: how many points, of which frames, and how much each weighs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpcl.separators import masks as linking
from dpcl.separators.masks import Sample, Sampling, join_samples
from dpcl.signal.stft import Windows

WINDOWS = Windows(frames=6000, longest=600, overlap=50)
BINS, STRETCH = 33, 30


def whole(heard: Tensor) -> Tensor:
    """Embeddings that say which frame and bin they are of: (1, l, H) -> (1, l*F, 2)."""
    bins = torch.arange(BINS, dtype=heard.dtype)
    pairs = torch.cartesian_prod(heard[0, :, 0], bins)
    return pairs.unsqueeze(0)


def of_window(number: int = 2, silent: int = 0) -> tuple[Tensor, Sample]:
    """Weights of a window whose first `silent` bins of every frame have none, and its sample."""
    heard = torch.arange(WINDOWS.length, dtype=torch.float32).unsqueeze(1)
    weights = torch.rand(WINDOWS.length, BINS, generator=torch.Generator().manual_seed(0)) + 0.1
    weights[:, :silent] = 0
    sampling = Sampling(WINDOWS, BINS, STRETCH)
    return weights, sampling.sample(number, heard, weights / 2, weights, whole)


def test_a_short_recording_is_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "POINTS", 1_000_000)
    weights, sample = of_window()
    points, taken, frames = sample.points, sample.weights, sample.frames
    assert sample.loudest == pytest.approx(float(weights.max()) / 2)
    assert len(points) == weights.numel()
    assert torch.equal(taken, weights.flatten())
    assert torch.equal(points[BINS + 3], torch.tensor([1.0, 3.0]))
    assert torch.equal(frames.unique() - 2 * WINDOWS.length, torch.arange(WINDOWS.length))


def test_points_stand_for_all_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "POINTS", 20_000)
    weights, sample = of_window(silent=5)
    points, taken = sample.points, sample.weights
    assert len(points) == 20_000 // WINDOWS.count
    assert taken.sum() == pytest.approx(float(weights.sum()), rel=1e-4)
    assert points[:, 1].min() >= 5  # no bin without weight
    places = points.long()
    ratio = taken / weights[places[:, 0], places[:, 1]]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_a_silent_window_has_no_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "POINTS", 20_000)
    _, sample = of_window(silent=BINS)
    assert (len(sample.points), len(sample.weights), len(sample.frames)) == (0, 0, 0)
    points, weights, frames = join_samples([sample, sample], 2)  # nor has a silent recording
    assert points.shape == (1, 2)
    assert weights.tolist() == [0.0]
    assert frames.tolist() == [0]


def test_a_window_far_quieter_than_the_recording_has_no_weight() -> None:
    loud, quiet, silent = (
        Sample(torch.full((2, 3), value), torch.ones(2), torch.arange(2), value)
        for value in (1.0, 1e-2, 1e-3)
    )
    points, weights, _ = join_samples([loud, quiet, silent], 3)
    assert torch.equal(points[:, 0], torch.tensor([1.0, 1.0, 1e-2, 1e-2, 1e-3, 1e-3]))
    assert weights.tolist() == [1, 1, 1, 1, 0, 0]


def test_points_know_their_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "POINTS", 20_000)
    _, sample = of_window(2)
    assert torch.equal(sample.frames, 2 * WINDOWS.length + sample.points[:, 0].long())


def test_no_stretch_is_of_two_windows() -> None:
    """Neighbours overlap, so numbers that ran on would join what is seconds apart."""
    frames = torch.arange(3 * WINDOWS.length)
    stretches = Sampling(WINDOWS, BINS, STRETCH).stretches(frames)
    for number in stretches.unique():
        members = frames[stretches == number]
        assert len(members) <= STRETCH
        assert members[-1] - members[0] == len(members) - 1
        assert len((members // WINDOWS.length).unique()) == 1
    assert len(stretches.unique()) == 3 * -(-WINDOWS.length // STRETCH)


@pytest.mark.parametrize(("points", "every"), [(60_000, 1), (8_000, 6), (3_000, 16), (10, 20)])
def test_how_many_frames_are_sampled(
    monkeypatch: pytest.MonkeyPatch, points: int, every: int
) -> None:
    """Of a stretch as many frames as it takes to tell whether one source is alone in it."""
    monkeypatch.setattr(linking, "POINTS", points)
    frames = Sampling(WINDOWS, BINS, STRETCH)._frames(torch.Generator().manual_seed(0))
    assert len(frames) == pytest.approx(WINDOWS.length / every, rel=0.15)
    assert frames.unique().numel() == len(frames)
    _, of_each = (frames // STRETCH).unique(return_counts=True)
    assert of_each[:-1].min() >= STRETCH // min(every, linking.THINNEST)
