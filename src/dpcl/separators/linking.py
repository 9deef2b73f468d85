"""Sample the embeddings of every window of a recording, so that one clustering serves all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpcl.signal.windows import Windows

POINTS = 200_000  # embeddings that are clustered, about
STRETCH = 0.5  # s in which one source may be alone
# Frames from one sampled frame to the next, at most. Beyond, a stretch has too few frames to show
# whether one source is alone in it, and whole stretches are skipped instead.
THINNEST = 8
SPARSEST = 20  # at least one frame in SPARSEST of a window is sampled
QUIET_DB = -50.0  # a window whose loudest bin lies below this, relative to the recording's, is out


@dataclass(frozen=True)
class Sample:
    """A sample of the embeddings of one window.

    Attributes:
        points: (n, K).
        weights: (n,); each point carries the weight of the points that were skipped for it.
        frames: (n,), the frame of each point in the recording.
        loudest: largest magnitude of the window.
    """

    points: Tensor
    weights: Tensor
    frames: Tensor
    loudest: float


@dataclass(frozen=True)
class Sampling:
    """The choice of frames and bins that are sampled.

    Attributes:
        windows: of the recording; frames are numbered window by window, overlaps twice.
        bins: F of a frame.
        stretch: frames of a stretch.
    """

    windows: Windows
    bins: int
    stretch: int

    def sample(
        self,
        window: int,
        encoded: Tensor,
        magnitude: Tensor,
        weights: Tensor,
        embed: Callable[[Tensor], Tensor],
    ) -> Sample:
        """Sample one window; bins without weight are skipped, unless all are taken.

        Args:
            window: its number.
            encoded: (L, H).
            magnitude: (L, F).
            weights: (L, F).
            embed: encoded frames (1, l, H) -> embeddings (1, l*F, K).
        """
        first, loudest = window * self.windows.length, float(magnitude.amax())
        wanted = POINTS // self.windows.count
        if wanted >= weights.numel():
            frames = torch.arange(weights.numel()) // self.bins
            return Sample(embed(encoded[None])[0], weights.flatten(), first + frames, loudest)
        random = torch.Generator().manual_seed(window)
        frames = self._frames(random)
        chosen = weights[frames].flatten()
        audible = chosen.nonzero()[:, 0]
        picked = audible[torch.randperm(len(audible), generator=random)[:wanted]]
        share = weights.sum() / chosen[picked].sum().clamp_min(torch.finfo(weights.dtype).tiny)
        points = embed(encoded[None, frames])[0, picked]
        numbers = first + frames[picked // self.bins]
        return Sample(points, chosen[picked] * share, numbers, loudest)

    def stretches(self, frames: Tensor) -> Tensor:
        """Return a number for the stretch of each frame (n,); no stretch spans two windows."""
        length = self.windows.length
        return frames // length * length + frames % length // self.stretch

    def _frames(self, random: torch.Generator) -> Tensor:
        """Frames (n,) of a window that are sampled: each costs the embeddings of all its bins.

        They hold about four times the points that are wanted, and are evenly spaced, or fill some
        stretches evenly.
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


def join_samples(samples: Sequence[Sample], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Join the samples of all windows: points (N, K), weights (N,), frames (N,).

    Points of windows far quieter than the recording get no weight. A silent recording gives one
    point without weight. size: K.
    """
    points = torch.cat([sample.points for sample in samples])
    if not len(points):
        return torch.zeros(1, size), torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    least = max(sample.loudest for sample in samples) * 10 ** (QUIET_DB / 20)
    weights = torch.cat([sample.weights * (sample.loudest >= least) for sample in samples])
    return points, weights, torch.cat([sample.frames for sample in samples])
