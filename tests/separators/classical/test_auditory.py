"""Gammatone filters against published bandwidths and scipy's impulse response."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.signal import gammatone

from dpcl.separators.classical.auditory import (
    GammatoneFilterbank,
    at_lags,
    centre_frequencies,
    correlogram,
    cross_channel_correlation,
    erb,
    erb_rate,
    fast_length,
    lag_grid,
)
from dpcl.separators.classical.voices import JUMP, best_tracks, explained


def test_bandwidths_are_those_of_glasberg_and_moore() -> None:
    """ERB in Hz by 24.7 (4.37 f + 1), f in kHz: 35.5 at 100 Hz, 132.6 at 1 kHz, 456.5 at 4 kHz."""
    frequencies = torch.tensor([100.0, 1000.0, 4000.0])
    torch.testing.assert_close(erb(frequencies), torch.tensor([35.4939, 132.639, 456.456]))
    # The rate is the integral of 1 / ERB, up to the rounding of its published constant, 21.4.
    between = torch.linspace(100, 1000, 10_001, dtype=torch.float64)
    steps = erb_rate(between[-1]) - erb_rate(between[0])
    assert float(torch.trapezoid(1 / erb(between), between)) == pytest.approx(
        float(steps), rel=5e-3
    )


def test_centres_are_at_equal_steps_of_the_erb_rate() -> None:
    centres = centre_frequencies(64, 50, 3600)
    assert float(centres[0]) == pytest.approx(50)
    assert float(centres[-1]) == pytest.approx(3600)
    steps = erb_rate(centres).diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps))


@pytest.mark.parametrize("channel", [4, 20, 50])
def test_response_is_that_of_scipy_brought_forward(channel: int) -> None:
    bank = GammatoneFilterbank(8000)
    click = torch.zeros(4000, dtype=torch.float64)
    click[1000] = 1
    ours = bank(click)[channel].real.numpy()
    centre = float(bank.centres[channel])
    theirs = gammatone(centre, "fir", order=4, numtaps=1500, fs=8000)[0]
    # Compared without their phases: ours is aligned, theirs starts at the click.
    ours, theirs = (np.abs(np.fft.rfft(x, 8192)) for x in (ours, theirs))
    near = np.abs(np.arange(4097) * 8000 / 8192 - centre) < 2 * float(erb(torch.tensor(centre)))
    np.testing.assert_allclose(ours[near] / ours.max(), theirs[near] / theirs.max(), atol=0.02)


def test_a_click_is_one_vertical_line() -> None:
    click = torch.zeros(4000)
    click[2000] = 1
    peaks = GammatoneFilterbank(8000)(click).abs().argmax(1)
    assert (peaks - 2000).abs().max() <= 4


def test_gain_is_one_at_the_centre() -> None:
    bank = GammatoneFilterbank(8000, channels=8)
    tone = torch.cos(2 * torch.pi * bank.centres[5] * torch.arange(8000) / 8000)
    assert float(bank(tone)[5, 4000].abs()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("samples", [1, 5, 371, 49_024])
def test_fast_lengths_hold_the_signal_and_are_near(samples: int) -> None:
    length = fast_length(samples)
    assert samples <= length <= 1.34 * samples + 2


def test_it_is_its_definition() -> None:
    signals = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    window, hop, lags = 64, 50, 30
    found = correlogram(signals, window, hop, lags)
    assert found.shape == (3, 21, lags)
    for frame in (0, 7, 20):
        start = frame * hop - (window + lags) // 2
        x = torch.zeros(3, window + lags)
        for n in range(window + lags):
            if 0 <= start + n < 1000:
                x[:, n] = signals[:, start + n]
        still = x[:, :window]
        for lag in (0, 1, 29):
            moved = x[:, lag : lag + window]
            expected = (still * moved).sum(1) / (still.norm(dim=1) * moved.norm(dim=1))
            torch.testing.assert_close(found[:, frame, lag], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("period", [20, 40, 80, 100])
def test_the_summary_of_a_pulse_train_peaks_at_its_period(period: int) -> None:
    train = torch.zeros(4000)
    train[::period] = 1
    summary = correlogram(GammatoneFilterbank(8000)(train).real, 256, 128, 116).mean(0)
    middle = summary[8:-8, 10:]  # the first period only: twice the period fits as well
    assert int(middle.mean(0)[: period + 5].argmax()) + 10 == period
    assert float(middle[:, period - 10].min()) > 0.95


def test_level_and_silence() -> None:
    signals = torch.randn(2, 800, generator=torch.Generator().manual_seed(1))
    signals[1] = 0
    found = correlogram(signals, 64, 32, 20)
    torch.testing.assert_close(correlogram(100 * signals, 64, 32, 20), found)
    assert torch.all(found[1] == 0)
    assert found.isfinite().all()
    assert correlogram(torch.ones(1, 1), 64, 32, 20).shape == (1, 2, 20)


def test_neighbours_on_one_harmonic_are_alike() -> None:
    seconds = torch.arange(4000) / 8000
    tone = torch.cos(2 * torch.pi * 500 * seconds)
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(2))
    bank = GammatoneFilterbank(8000)
    near = int((bank.centres - 500).abs().argmin())
    alike = [
        cross_channel_correlation(correlogram(bank(x).real, 256, 128, 100))[near, 5:-5].mean()
        for x in (tone, noise)
    ]
    assert float(alike[0]) > 0.99
    assert float(alike[0]) > float(alike[1])


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
