"""Threads that each work alone, some steps ahead of who takes their results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Some threads, each of which runs torch's operations without helpers.

    torch shares every small operation among threads that wait for each other at its end: on two
    idle cores an LSTM in int8 takes 1.5 times as long that way, and where other programs keep the
    cores busy everything takes many times as long.
    number: of threads; None: as many as torch uses in the thread that asks.
    """

    def __init__(self, number: int | None = None) -> None:
        self._before = torch.get_num_threads()
        self.number = number or self._before
        self._pool = ThreadPoolExecutor(self.number, initializer=_begin)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """function of each item, in order; `number` + 1 of them at work or done ahead, at most."""
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(self._pool.submit(function, item))
            if len(waiting) > self.number:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def close(self) -> None:
        """Forget what has not begun, and wait for what has."""
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._before)  # what threads made later begin with


def _begin() -> None:
    """Set up a thread: both settings are a thread's own."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
