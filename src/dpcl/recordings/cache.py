"""Cache for the analyses of all windows of a recording between the passes, in memory or on disk."""

from __future__ import annotations

import math
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.networks.precision import expect_forks
from dpcl.separators.base import Analysis
from dpcl.signal.stft import Windows

IN_MEMORY = 1 << 26  # largest number of bytes in memory; beyond it, a temporary file holds them

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
        expect_forks()
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


class WindowCache:
    """Analyses of one window after another, of the same shapes each time (see `Analyses`).

    The tensors of several windows are stored in half precision, a single window at full precision.

    Args:
        windows: windows of the recording.
        workers: threads that `map` and `replace` use.
    """

    def __init__(self, windows: Windows, workers: Workers) -> None:
        self.windows, self._workers = windows, workers
        self._one: Analysis | None = None
        self._spool = _Spool()

    def __len__(self) -> int:
        return self._spool.count if self._one is None else 1

    def keep(self, analysed: Analysis) -> None:
        """Add the analyses of the next windows.

        Args:
            analysed: tensors whose first dimension is the window.

        Raises:
            InputError: There is no space for them.
        """
        if self.windows.count == 1:
            self._one = tuple(tensor[0] for tensor in analysed)
            return
        for window in zip(*_stored(analysed), strict=True):
            self._spool.write(window)

    def packed(self, analysed: Analysis) -> Analysis:
        """Convert analyses to the precision of the cache, which `keep` then need not do.

        The conversion belongs to the threads: the thread that calls `keep` makes them wait.
        """
        return analysed if self.windows.count == 1 else _stored(analysed)

    def map(self, function: Callable[[int, Analysis], Result]) -> Iterator[Result]:
        """Call `function` with number and analysis of each window, in threads; yield in order."""
        if self._one is not None:
            return self._workers.map(lambda one: function(0, one), [self._one])
        return self._workers.map(
            lambda pair: function(pair[0], _loaded(pair[1])), enumerate(self._spool.read())
        )

    def replace(
        self, function: Callable[[int, Analysis], tuple[Analysis, Result]]
    ) -> Iterator[Result]:
        """Work like `map`; the analysis that `function` returns replaces the one that it got."""
        if self.windows.count == 1:
            ((self._one, result),) = self.map(function)
            yield result
            return
        old, self._spool = self._spool, _Spool()

        def replaced(pair: tuple[int, Analysis]) -> tuple[Analysis, Result]:
            analysis, result = function(pair[0], _loaded(pair[1]))
            return _stored(analysis), result

        try:
            for analysis, result in self._workers.map(replaced, enumerate(old.read())):
                self._spool.write(analysis)
                yield result
        finally:
            old.close()

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Call `function` with each of `items`, in the same threads; yield in order."""
        return self._workers.map(function, items)

    def close(self) -> None:
        """Remove all analyses and the temporary file."""
        self._one = None
        self._spool.close()

    @property
    def closed(self) -> bool:
        """True if everything was removed."""
        return self._spool.closed


def _stored(analysis: Analysis) -> Analysis:
    """Convert tensors to the precision of a file."""
    return tuple(tensor.to(torch.float16) for tensor in analysis)


def _loaded(analysis: Analysis) -> Analysis:
    """Convert tensors of a file to float32."""
    return tuple(tensor.float() for tensor in analysis)


class _Spool:
    """Tensors of the same shapes each time, in half precision, in one temporary file."""

    def __init__(self) -> None:
        self._file: Any = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self._shapes: list[torch.Size] = []
        self.count = 0

    def write(self, tensors: tuple[Tensor, ...]) -> None:
        """Append the tensors of one window, in half precision."""
        self._shapes = [tensor.shape for tensor in tensors]
        try:
            for tensor in tensors:
                self._file.write(tensor.contiguous().numpy().data)
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()}: no space for temporary data ({error.strerror}); free"
                " some space, or set TMPDIR to another folder"
            ) from error
        self.count += 1

    def read(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield the tensors of all windows, from the first."""
        self._file.seek(0)
        for _ in range(self.count):
            yield tuple(self._tensor(shape) for shape in self._shapes)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """True if the file was removed."""
        closed: bool = self._file.closed
        return closed

    def _tensor(self, shape: torch.Size) -> Tensor:
        """Read the next tensor."""
        values = bytearray(self._file.read(2 * math.prod(shape)))
        return torch.frombuffer(values, dtype=torch.float16).view(shape)
