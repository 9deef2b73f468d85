"""What was found of each window of a recording, between passes: a few hundred numbers a frame."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator

import torch
from torch import Tensor

from dpcl.errors import InputError

IN_MEMORY = 1 << 26  # bytes that are kept there; what is more lies on disk


class Spool:
    """Tensors of one window after another, of the same shapes each time, in half precision.

    `keep` them all, then read them in the same order with `kept`, as often as needed.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self._shapes: list[torch.Size] = []
        self._windows = 0

    def keep(self, *tensors: Tensor) -> None:
        """The next window's. Raises InputError where there is no room for them."""
        self._shapes = [tensor.shape for tensor in tensors]
        try:
            for tensor in tensors:
                self._file.write(tensor.to(torch.float16).numpy().tobytes())
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()}: cannot keep what was heard there ({error.strerror});"
                " free some space, or name another folder in TMPDIR"
            ) from error
        self._windows += 1

    def kept(self) -> Iterator[tuple[Tensor, ...]]:
        """Of each window what was kept, in single precision."""
        self._file.seek(0)
        for _ in range(self._windows):
            yield tuple(self._read(shape) for shape in self._shapes)

    def close(self) -> None:
        """Forget it all."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether it was forgotten."""
        return self._file.closed

    def _read(self, shape: torch.Size) -> Tensor:
        values = bytearray(self._file.read(2 * math.prod(shape)))
        return torch.frombuffer(values, dtype=torch.float16).float().view(shape)
