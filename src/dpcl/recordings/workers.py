"""Worker threads that run a few items ahead of the consumer of their results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Threads that each run torch's operations without helper threads.

    torch splits every small operation among threads that wait for each other at its end. On two
    idle cores an LSTM in int8 takes 1.5 times the time that way. Where other programs keep the
    cores busy, everything takes many times the time.

    Args:
        number: number of threads; None for the number that torch uses in the calling thread.
    """

    def __init__(self, number: int | None = None) -> None:
        self._before = torch.get_num_threads()
        self.number = number or self._before
        self._pool = ThreadPoolExecutor(self.number, initializer=_begin)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply a function to each item in threads; yield results in order.

        Args:
            function: function of one item.
            items: items; at most `number` + 1 of them are running or finished ahead.

        Yields:
            Result of each item.
        """
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(self._pool.submit(function, item))
            if len(waiting) > self.number:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def close(self) -> None:
        """Cancel items that are not running, and wait for the others."""
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._before)  # later threads start with this number


def _begin() -> None:
    """Initialise a thread: both settings belong to the thread."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
