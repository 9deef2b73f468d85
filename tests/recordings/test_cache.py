"""Analyses of windows between the passes: kept, read again, replaced and removed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dpcl.recordings import cache
from dpcl.recordings.cache import WindowCache, Workers
from dpcl.separators.base import Analysis
from dpcl.signal.stft import Windows

MANY = Windows(frames=100, longest=20, overlap=4)
ONE = Windows(frames=15, longest=20, overlap=4)


@pytest.fixture(params=[MANY, ONE], ids=["many", "one"])
def windows(request: pytest.FixtureRequest) -> Windows:
    chosen: Windows = request.param
    return chosen


@pytest.fixture
def kept(windows: Windows) -> Iterator[tuple[WindowCache, Tensor]]:
    """A cache of values (W, L, 3), which half precision holds, and their numbers (W, 1)."""
    workers = Workers(2)
    values = torch.arange(windows.count * windows.length * 3).view(windows.count, -1, 3) / 8
    numbers = torch.arange(windows.count)[:, None].float()
    filled = WindowCache(windows, workers)
    for some in torch.arange(windows.count).split(3):  # as batches come
        filled.keep((values[some], numbers[some]))
    yield filled, values
    filled.close()
    workers.close()
    assert filled.closed


def test_windows_come_in_order_as_often_as_one_likes(
    windows: Windows, kept: tuple[WindowCache, Tensor]
) -> None:
    filled, values = kept
    assert len(filled) == windows.count
    for _ in range(2):
        found = list(filled.map(lambda window, analysis: (window, *analysis)))
        assert [window for window, *_ in found] == list(range(windows.count))
        assert [number.tolist() for *_, number in found] == [[w] for w in range(windows.count)]
        assert torch.equal(torch.stack([value for _, value, _ in found]), values)
    assert list(filled.each(lambda item: 2 * item, [1, 2, 3])) == [2, 4, 6]


def test_analyses_are_replaced_by_others_of_any_number_and_shape(
    windows: Windows, kept: tuple[WindowCache, Tensor]
) -> None:
    filled, values = kept

    def first(window: int, analysis: Analysis) -> tuple[Analysis, float]:
        value, number = analysis
        return (number.expand(7) + 1,), float(value.sum())

    def second(window: int, analysis: Analysis) -> tuple[Analysis, int]:
        (numbers,) = analysis
        return (numbers[:2], numbers, torch.ones(2, 2)), window

    assert list(filled.replace(first)) == values.sum((1, 2)).tolist()
    assert list(filled.replace(second)) == list(range(windows.count))
    assert len(filled) == windows.count
    for window, analysis in enumerate(filled.map(lambda _, analysis: analysis)):
        short, long, ones = analysis
        assert short.tolist() == [window + 1] * 2
        assert long.tolist() == [window + 1] * 7
        assert torch.equal(ones, torch.ones(2, 2))


def test_a_file_on_disk_holds_the_same(
    windows: Windows, kept: tuple[WindowCache, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled, values = kept
    monkeypatch.setattr(cache, "IN_MEMORY", 10)
    list(filled.replace(lambda _, analysis: (analysis, None)))
    found = list(filled.map(lambda _, analysis: analysis[0]))
    assert torch.equal(torch.stack(found), values)


def test_one_window_is_kept_exactly_and_many_in_half_precision(windows: Windows) -> None:
    workers = Workers(1)
    value = torch.full((windows.count, 1), 1 / 3)
    filled = WindowCache(windows, workers)
    filled.keep((value,))
    found = torch.stack(list(filled.map(lambda _, analysis: analysis[0])))
    assert torch.equal(found, value if windows.count == 1 else value.half().float())
    filled.close()
    workers.close()


def test_threads_may_convert_to_the_precision_of_the_cache(
    windows: Windows, kept: tuple[WindowCache, Tensor]
) -> None:
    filled, _ = kept
    value = torch.full((windows.count, windows.length, 3), 1 / 3)
    packed, other = filled.packed((value,)), WindowCache(windows, filled._workers)
    other.keep(packed)
    (found,) = next(other.map(lambda _, analysis: analysis))
    other.close()
    assert packed[0].dtype is (torch.float32 if windows is ONE else torch.float16)
    assert torch.equal(found, value[0] if windows is ONE else value[0].half().float())
