"""Overlapping windows over a long recording, and the cross-fades that join them again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Equally long windows of frames, evenly spread: the first begins and the last ends with them.

    frames: of the whole recording; longest: frames of a window at most; overlap: frames, at least,
    that two neighbours share. A recording of up to `longest` frames is one window.
    """

    frames: int
    longest: int
    overlap: int

    @property
    def count(self) -> int:
        """How many windows."""
        return max(1, -(-(self.frames - self.overlap) // (self.longest - self.overlap)))

    @property
    def length(self) -> int:
        """Frames of a window: as few as so many windows need."""
        return -(-(self.frames + (self.count - 1) * self.overlap) // self.count)

    @property
    def starts(self) -> list[int]:
        """The first frame of each window."""
        last, steps = self.frames - self.length, max(1, self.count - 1)
        return [i * last // steps for i in range(self.count)]

    def gather(self, frames: Iterator[Tensor], batch: int) -> Iterator[Tensor]:
        """Blocks of frames (l, F), one after the other -> windows (up to `batch`, length, F)."""
        starts = self.starts
        waiting: list[Tensor] = []
        first, have = 0, 0  # the frame that `waiting` begins with; how many there are
        for group in (starts[i : i + batch] for i in range(0, len(starts), batch)):
            while first + have < group[-1] + self.length:
                waiting.append(next(frames))
                have += len(waiting[-1])
            heap = torch.cat(waiting)[group[0] - first :]  # from the group's first frame on
            yield torch.stack([heap[s - group[0] : s - group[0] + self.length] for s in group])
            waiting, first, have = [heap], group[0], len(heap)

    def join(self, windows: Iterator[Tensor]) -> Iterator[Tensor]:
        """Windows (C, length, F), one after the other -> blocks (C, l, F) of all the frames.

        Where windows overlap, one fades out as the next fades in: their weights add up to one.
        """
        starts = self.starts
        fading: Tensor | None = None  # the end of the last window, faded out
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
    """Weights (frames, 1) that rise from just above zero to just below one."""
    steps = torch.arange(1, frames + 1, dtype=like.dtype, device=like.device)
    return (steps / (frames + 1)).unsqueeze(-1)
