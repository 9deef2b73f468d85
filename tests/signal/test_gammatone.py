"""Gammatone filters against published bandwidths and scipy's impulse response."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import gammatone

from dpcl.signal.gammatone import (
    GammatoneFilterbank,
    centre_frequencies,
    erb,
    erb_rate,
    fast_length,
)


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
