"""The correlogram against its definition, and the pitch of a pulse train."""

from __future__ import annotations

import pytest
import torch

from dpcl.signal.correlogram import correlogram, cross_channel_correlation
from dpcl.signal.gammatone import GammatoneFilterbank


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
