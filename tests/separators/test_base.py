"""Separators of single windows: their sources keep their order over a whole recording."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dpcl.errors import InputError
from dpcl.recordings.cache import WindowCache, Workers
from dpcl.recordings.recording import InMemory
from dpcl.recordings.separate import RecordingSeparation
from dpcl.separators.base import Analysis, WindowSeparator, link_by_overlap
from dpcl.separators.registry import build
from dpcl.signal.stft import STFT, Windows

RATE = 8000
SOURCES = 3
SECONDS = 6


class Shuffled(WindowSeparator):
    """A separator that knows the owner of every bin, but mixes up the sources in every window."""

    sample_rate = RATE
    stft = STFT(64, 32)
    window_seconds = 0.5
    overlap_seconds = 0.1
    default_sources = SOURCES

    def __init__(self) -> None:
        frames = self.stft.frames(SECONDS * RATE)
        random = torch.Generator().manual_seed(0)
        owners = torch.randint(SOURCES, (frames, self.stft.bins), generator=random)
        hard = functional.one_hot(owners, SOURCES).permute(2, 0, 1)
        self.ideal = 0.7 * hard + 0.1  # (C, L, F), sums to one
        self.orders: dict[int, tuple[int, ...]] = {}

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        order = torch.randperm(num_sources, generator=torch.Generator().manual_seed(start))
        self.orders[start] = tuple(order.tolist())
        return self.ideal[order, start : start + len(spectrum)]


def noise() -> InMemory:
    samples = np.random.default_rng(0).standard_normal((1, SECONDS * RATE))
    return InMemory(samples.astype(np.float32), RATE)


def test_sources_that_are_shuffled_in_every_window_come_out_in_one_order() -> None:
    separator = Shuffled()
    with RecordingSeparation(noise(), separator, SOURCES) as separation:
        assert separation.windows.count > 10
        masks = torch.cat([piece.masks for piece in separation.pieces()], 1)
    assert len(separator.orders) == separation.windows.count
    assert len(set(separator.orders.values())) > 3
    order = list(separator.orders[0])  # of the first window
    torch.testing.assert_close(masks, separator.ideal[order], atol=1e-3, rtol=0)
    torch.testing.assert_close(masks.sum(0), torch.ones_like(masks[0]), atol=1e-5, rtol=0)


def test_one_window_keeps_its_order_and_its_precision() -> None:
    separator = Shuffled()
    separator.window_seconds = 10.0
    with RecordingSeparation(noise(), separator, SOURCES) as separation:
        assert separation.windows.count == 1
        masks = torch.cat([piece.masks for piece in separation.pieces()], 1)
    torch.testing.assert_close(masks, separator.ideal[list(separator.orders[0])])


@pytest.mark.parametrize(("most", "expected"), [(10, SOURCES), (2, 2)])
def test_without_a_number_the_default_counts_up_to_the_limit(most: int, expected: int) -> None:
    class Equal(Shuffled):
        def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
            return torch.full((num_sources, *spectrum.shape), 1 / num_sources)

    with RecordingSeparation(noise(), Equal(), most=most) as separation:
        assert separation.link().num_sources == expected


WINDOWS = Windows(frames=500, longest=60, overlap=20)


@pytest.fixture
def analyses() -> Iterator[WindowCache]:
    """Random magnitudes (L, F) of many windows."""
    workers = Workers(2)
    cache = WindowCache(WINDOWS, workers)
    generator = torch.Generator().manual_seed(0)
    cache.keep((torch.rand(WINDOWS.count, WINDOWS.length, 5, generator=generator),))
    yield cache
    cache.close()
    workers.close()


@pytest.mark.parametrize("kind", ["equal", "two equal", "random", "silent"])
def test_the_order_is_always_a_permutation(kind: str, analyses: WindowCache) -> None:
    def estimate(window: int, analysis: Analysis) -> tuple[Tensor, Tensor]:
        (magnitude,) = analysis
        logits = torch.randn(4, *magnitude.shape, generator=torch.Generator().manual_seed(window))
        if kind == "equal":
            logits = torch.zeros_like(logits)
        if kind == "two equal":
            logits[1] = logits[3]
        return logits.softmax(0), 0 * magnitude if kind == "silent" else magnitude

    orders = link_by_overlap(analyses, estimate)
    assert len(orders) == WINDOWS.count > 10
    for order in orders:
        assert sorted(order.tolist()) == [0, 1, 2, 3]
    assert orders[0].tolist() == [0, 1, 2, 3]
    kept = list(analyses.map(lambda window, analysis: analysis[0].shape))
    assert kept == [(4, WINDOWS.length, 5)] * WINDOWS.count  # the masks took their place


def test_loud_bins_decide_the_order(analyses: WindowCache) -> None:
    """In nine of ten bins, all quiet, the sources of every other window seem to change places."""

    def estimate(window: int, analysis: Analysis) -> tuple[Tensor, Tensor]:
        magnitude = torch.full((WINDOWS.length, 10), 0.01)
        magnitude[:, 0] = 1
        masks = torch.tensor([0.9, 0.1]).view(2, 1, 1).repeat(1, WINDOWS.length, 10)
        if window % 2:
            masks[:, :, 1:] = masks[:, :, 1:].flip(0)
        return masks, magnitude

    assert [order.tolist() for order in link_by_overlap(analyses, estimate)] == [
        [0, 1]
    ] * WINDOWS.count


@pytest.mark.parametrize("name", ["nmf", "fhmm"])
def test_a_method_without_talkers_is_one_sentence(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: needs other speech of the talkers") as caught:
        build(name)
    assert "\n" not in str(caught.value)
