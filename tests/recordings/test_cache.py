"""A long recording's sample: how many points, of which frames, and how much each weighs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpcl.recordings import cache
from dpcl.recordings.cache import Sampling
from dpcl.signal.windows import Windows

WINDOWS = Windows(frames=6000, longest=600, overlap=50)
BINS, STRETCH = 33, 30


def whole(heard: Tensor) -> Tensor:
    """Embeddings that say which frame and bin they are of: (1, l, H) -> (1, l*F, 2)."""
    bins = torch.arange(BINS, dtype=heard.dtype)
    pairs = torch.cartesian_prod(heard[0, :, 0], bins)
    return pairs.unsqueeze(0)


def of_window(number: int = 2, silent: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of a window whose first `silent` bins of every frame have none, and its sample."""
    heard = torch.arange(WINDOWS.length, dtype=torch.float32).unsqueeze(1)
    weights = torch.rand(WINDOWS.length, BINS, generator=torch.Generator().manual_seed(0)) + 0.1
    weights[:, :silent] = 0
    return weights, *Sampling(WINDOWS, BINS, STRETCH).sample(number, heard, weights, whole)


def test_a_short_recording_is_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "POINTS", 1_000_000)
    weights, points, taken, frames = of_window()
    assert len(points) == weights.numel()
    assert torch.equal(taken, weights.flatten())
    assert torch.equal(points[BINS + 3], torch.tensor([1.0, 3.0]))
    assert torch.equal(frames.unique() - 2 * WINDOWS.length, torch.arange(WINDOWS.length))


def test_points_stand_for_all_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "POINTS", 20_000)
    weights, points, taken, _ = of_window(silent=5)
    assert len(points) == 20_000 // WINDOWS.count
    assert taken.sum() == pytest.approx(float(weights.sum()), rel=1e-4)
    assert points[:, 1].min() >= 5  # no bin without weight
    places = points.long()
    ratio = taken / weights[places[:, 0], places[:, 1]]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_a_silent_window_has_no_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "POINTS", 20_000)
    _, points, taken, frames = of_window(silent=BINS)
    assert (len(points), len(taken), len(frames)) == (0, 0, 0)


def test_points_know_their_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "POINTS", 20_000)
    _, points, _, frames = of_window(2)
    assert torch.equal(frames, 2 * WINDOWS.length + points[:, 0].long())


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
    monkeypatch.setattr(cache, "POINTS", points)
    frames = Sampling(WINDOWS, BINS, STRETCH).frames(torch.Generator().manual_seed(0))
    assert len(frames) == pytest.approx(WINDOWS.length / every, rel=0.15)
    assert frames.unique().numel() == len(frames)
    _, of_each = (frames // STRETCH).unique(return_counts=True)
    assert of_each[:-1].min() >= STRETCH // min(every, cache.THINNEST)
