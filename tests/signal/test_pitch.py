"""Two tracks: the best path against all paths, and two pulse trains at once."""

from __future__ import annotations

import itertools

import torch

from dpcl.signal.correlogram import correlogram
from dpcl.signal.gammatone import GammatoneFilterbank
from dpcl.signal.pitch import JUMP, at_lags, best_tracks, explained, lag_grid

GLIDE, START, STOP = 0.3, 0.7, 0.4


def _moving(before: int, after: int, grid: int) -> float:
    if before == grid:
        return 0 if after == grid else START
    if after == grid:
        return STOP
    return GLIDE * abs(before - after) if abs(before - after) <= JUMP else 1e6


def test_the_best_tracks_are_the_best_of_all() -> None:
    grid, frames = 2, 4
    for seed in range(5):
        scores = torch.randn(
            frames, grid + 1, grid + 1, generator=torch.Generator().manual_seed(seed)
        )

        def value(path: tuple[tuple[int, int], ...], scores: torch.Tensor = scores) -> float:
            total = sum(float(scores[m, a, b]) for m, (a, b) in enumerate(path))
            for (a, b), (c, d) in itertools.pairwise(path):
                total -= _moving(a, c, grid) + _moving(b, d, grid)
            return total

        states = list(itertools.product(range(grid + 1), repeat=2))
        best = max(itertools.product(states, repeat=frames), key=value)
        found = best_tracks(scores, GLIDE, START, STOP)
        assert found.tolist() == [list(pair) for pair in best]


def test_a_track_does_not_leap() -> None:
    scores = torch.zeros(2, 21, 21)
    scores[0, 0, 20] = scores[1, 19, 20] = 5.0
    tracks = best_tracks(scores, 0.0, 10.0, 10.0)
    assert abs(int(tracks[1, 0]) - int(tracks[0, 0])) <= JUMP or 20 in tracks[:, 0]


def test_two_pulse_trains_are_two_pitches() -> None:
    trains = torch.zeros(8000)
    trains[::80] += 1  # 100 Hz
    trains[::47] += 1  # 170 Hz
    responses = GammatoneFilterbank(8000)(trains)
    lags = lag_grid(70, 440, 8000)
    periodicity = at_lags(correlogram(responses.real, 256, 128, int(lags[-1]) + 2), lags)
    weights = torch.full(periodicity.shape[:2], 15 / 64)
    octaves = 0.03 * (lags / lags[0]).log2()
    tracks = best_tracks(explained(periodicity - octaves, weights, 0.4, 0.2), 0.1, 0.3, 0.1)
    middle = tracks[10:-10]
    assert (middle < len(lags)).all()
    found = lags[middle].sort(1).values.median(0).values
    torch.testing.assert_close(found, torch.tensor([47.0, 80.0]), rtol=0.03, atol=0)


def test_silence_has_no_pitch() -> None:
    scores = explained(torch.zeros(8, 5, 10), torch.ones(8, 5), 0.4, 0.2)
    assert torch.equal(scores, scores.transpose(1, 2))
    assert (best_tracks(scores, 0.1, 0.3, 0.1) == 10).all()
