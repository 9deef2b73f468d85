"""Overlapping windows over a long recording, joined again by cross-fades."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Windows of equal length, evenly spread from the first frame of a recording to the last.

    A recording of up to `longest` frames is one window.

    Args:
        frames: number of frames of the recording.
        longest: number of frames of a window, at most.
        overlap: number of frames shared by neighbouring windows, at least.
    """

    frames: int
    longest: int
    overlap: int

    @property
    def count(self) -> int:
        """Return the number of windows."""
        return max(1, -(-(self.frames - self.overlap) // (self.longest - self.overlap)))

    @property
    def length(self) -> int:
        """Return the number of frames of a window, the least that `count` windows need."""
        return -(-(self.frames + (self.count - 1) * self.overlap) // self.count)

    @property
    def starts(self) -> list[int]:
        """Return the first frame of each window."""
        last, steps = self.frames - self.length, max(1, self.count - 1)
        return [i * last // steps for i in range(self.count)]

    def gather(self, frames: Iterator[Tensor], batch: int) -> Iterator[Tensor]:
        """Group consecutive blocks of frames into windows.

        Args:
            frames: blocks (l, F), in order.
            batch: number of windows in a group, at most.

        Yields:
            (up to batch, length, F).
        """
        starts = self.starts
        waiting: list[Tensor] = []
        first, have = 0, 0  # first frame in `waiting`, and number of frames in it
        for group in (starts[i : i + batch] for i in range(0, len(starts), batch)):
            while first + have < group[-1] + self.length:
                waiting.append(next(frames))
                have += len(waiting[-1])
            pending = torch.cat(waiting)[group[0] - first :]  # frames from the group's first on
            yield torch.stack([pending[s - group[0] : s - group[0] + self.length] for s in group])
            waiting, first, have = [pending], group[0], len(pending)

    def join(self, windows: Iterator[Tensor]) -> Iterator[Tensor]:
        """Join windows by cross-fades; the weights of overlapping windows sum to one.

        Args:
            windows: (C, length, F), in order.

        Yields:
            Blocks (C, l, F) that cover all frames.
        """
        starts = self.starts
        fading: Tensor | None = None  # end of the previous window, faded out
        for start, following, window in zip(
            starts, [*starts[1:], self.frames], windows, strict=True
        ):
            if fading is not None:
                shared = fading.shape[1]
                rise = _rise(shared, window)
                head = fading + window[:, :shared] * rise
                window = torch.cat([head, window[:, shared:]], dim=1)
            own = following - start
            yield window[:, :own]
            fading = window[:, own:] * (1 - _rise(self.length - own, window))


def _rise(frames: int, like: Tensor) -> Tensor:
    """Return weights (frames, 1) that rise from just above zero to just below one."""
    steps = torch.arange(1, frames + 1, dtype=like.dtype, device=like.device)
    return (steps / (frames + 1)).unsqueeze(-1)
