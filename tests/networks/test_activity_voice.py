"""Vectors of voices: one of each half second, whatever the level, of each source for itself."""

from __future__ import annotations

import pytest
import torch

from dpcl.networks.activity import (
    DEEPEST_DB,
    HOP,
    LAYERS,
    REACH,
    SIZE,
    VoiceNetwork,
    around,
    voice_bands,
)

BINS = 129


@pytest.fixture
def network() -> VoiceNetwork:
    torch.manual_seed(0)
    return VoiceNetwork(BINS).eval()


@pytest.mark.parametrize("bins", [33, 129, 257, 513])
def test_every_bin_but_the_first_is_in_one_band(bins: int) -> None:
    pool = voice_bands(bins)
    assert (pool > 0).sum(0).tolist() == [0, *[1] * (bins - 1)]
    torch.testing.assert_close(pool.sum(1), torch.ones(len(pool)))
    assert pool[: bins // 4 - 1].amax(1).eq(1).all()  # below a quarter each bin is its own


def test_levels_are_relative_to_the_loudest_and_bounded(network: VoiceNetwork) -> None:
    magnitude = torch.rand(100, BINS) ** 8
    masks = torch.rand(2, 100, BINS)
    levels, loudness = network.levels(masks, magnitude)
    assert levels.shape == (3, 100, len(network.pool))
    assert levels.amax((1, 2)).tolist() == pytest.approx([2, 2, 2])
    assert levels.min() >= (DEEPEST_DB + 40) / 20
    assert loudness.shape == (3, -(-100 // HOP))
    first = (masks[0] * magnitude)[:HOP].square().sum().sqrt()
    torch.testing.assert_close(loudness[0, 0], first)
    louder, _ = network.levels(masks, 10 * magnitude)
    torch.testing.assert_close(louder, levels, rtol=0, atol=1e-3)


@pytest.mark.parametrize("frames", [1, HOP, 305])
def test_one_unit_vector_of_each_hop(network: VoiceNetwork, frames: int) -> None:
    vectors = network(torch.randn(2, frames, len(network.pool)))
    assert vectors.shape == (2, -(-frames // HOP), SIZE)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:2]))


def test_a_vector_hears_what_is_around_it(network: VoiceNetwork) -> None:
    levels = torch.randn(1, 400, len(network.pool))
    before = network(levels)
    changed = levels.clone()
    changed[:, 300:] += 1
    moved = (network(changed) - before).abs().amax((0, 2))
    convolved = sum(taps // 2 * dilation for taps, dilation in LAYERS)
    beyond = (300 - REACH - convolved) // HOP - 1
    assert moved[:beyond].max() < 1e-6
    assert moved[300 // HOP :].min() > 1e-4


def test_means_are_of_what_there_is() -> None:
    weights = torch.ones(1, 1, 100)
    values = torch.arange(100.0).view(1, 1, -1)
    mean = around(weights * values) / around(weights)
    assert mean.shape == (1, 1, 7)
    assert mean[0, 0, 0] == pytest.approx(torch.arange(HOP // 2 + REACH + 1.0).mean())
    assert mean[0, 0, -1] == pytest.approx(torch.arange(6 * HOP + HOP // 2 - REACH, 100.0).mean())
