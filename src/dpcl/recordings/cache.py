"""Keep the network's outputs of all windows between passes, and sample their embeddings."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.signal.windows import Windows

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


POINTS = 200_000  # embeddings that are clustered, about
STRETCH = 0.5  # s in which one source may be alone
# Frames from one that is sampled to the next, at most: beyond, too few of a stretch would be left
# to tell whether one source is alone in it, and whole stretches are left out instead.
THINNEST = 8
SPARSEST = 20  # of a window, one frame of so many is sampled at least


@dataclass(frozen=True)
class Sampling:
    """How every window of a recording is sampled.

    bins: F of a frame; stretch: frames of a stretch. Frames are numbered window after window, those
    of an overlap twice.
    """

    windows: Windows
    bins: int
    stretch: int

    def sample(
        self,
        number: int,
        heard: Tensor,
        weights: Tensor,
        embeddings: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of window `number`, heard (W, H), bins of weights (W, F): a sample (n, K), the weights
        (n,) of its points, and which frame of the recording each is from (n,).

        embeddings: from what was heard of frames (1, w, H) to (1, w*F, K). Each point stands for as
        much weight as was left out; bins without weight are not sampled, unless all are taken.
        """
        first = number * self.windows.length
        wanted = POINTS // self.windows.count
        if wanted >= weights.numel():
            frames = torch.arange(weights.numel()) // self.bins
            return embeddings(heard[None])[0], weights.flatten(), first + frames
        random = torch.Generator().manual_seed(number)
        frames = self.frames(random)
        chosen = weights[frames].flatten()
        audible = chosen.nonzero()[:, 0]
        picked = audible[torch.randperm(len(audible), generator=random)[:wanted]]
        share = weights.sum() / chosen[picked].sum().clamp_min(torch.finfo(weights.dtype).tiny)
        points = embeddings(heard[None, frames])[0, picked]
        return points, chosen[picked] * share, first + frames[picked // self.bins]

    def stretches(self, frames: Tensor) -> Tensor:
        """Which stretch each of the frames (n,) is in, any numbers: none is of two windows."""
        length = self.windows.length
        return frames // length * length + frames % length // self.stretch

    def frames(self, random: torch.Generator) -> Tensor:
        """Which frames (n,) of a window are sampled: each costs the embeddings of all its bins.

        As few as hold four times the points that are wanted, but one of SPARSEST at least: evenly
        spaced, or some stretches so.
        """
        bins = self.windows.length * self.bins
        every = min(SPARSEST, max(1, bins * self.windows.count // (4 * POINTS)))
        spaced = min(every, THINNEST)
        frames = torch.arange(spaced // 2, self.windows.length, spaced)
        if every == spaced:
            return frames
        numbers = frames // self.stretch
        share = spaced / every
        order = torch.randperm(int(numbers[-1]) + 1, generator=random)
        taken = order[: max(1, round(share * len(order)))]
        return frames[torch.isin(numbers, taken)]
