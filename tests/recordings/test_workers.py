"""Threads that work alone: order, how far ahead they are, errors, torch's own threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from dpcl.networks.precision import single_thread
from dpcl.recordings.cache import Workers


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(2)
    yield made
    made.close()


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_order(workers: Workers, count: int) -> None:
    assert list(workers.map(lambda item: item * 2, range(count))) == [2 * i for i in range(count)]


def test_each_works_alone_beside_the_other(workers: Workers) -> None:
    barrier = threading.Barrier(2, timeout=10)  # both are in the function at once

    def function(item: int) -> int:
        barrier.wait()
        return torch.get_num_threads()

    assert list(workers.map(function, range(4))) == [1] * 4


def test_they_run_ahead_by_their_number(workers: Workers) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = workers.map(lambda item: item, items())
    assert [next(results) for _ in range(5)] == list(range(5))
    assert len(taken) == 5 + workers.number


def test_an_error_is_raised_where_its_result_is_taken(workers: Workers) -> None:
    def function(item: int) -> int:
        if item == 1:
            raise ValueError("no")
        return item

    results = workers.map(function, range(3))
    assert next(results) == 0
    with pytest.raises(ValueError, match="no"):
        next(results)


def test_torchs_own_threads_stay_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        workers = Workers()
        assert workers.number == 3
        list(workers.map(lambda item: item, range(4)))
        workers.close()
        with single_thread() as had:
            assert (had, torch.get_num_threads()) == (3, 1)
        later = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (torch.get_num_threads(), later) == (3, [3])
    finally:
        torch.set_num_threads(before)
