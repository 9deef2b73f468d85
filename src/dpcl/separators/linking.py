"""Sample the embeddings of all windows of a recording: one clustering serves all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpcl.signal.stft import Windows

POINTS = 200_000  # approximate number of embeddings that are clustered
STRETCH = 0.5  # s, length of a stretch, in which one source may be alone
# Frames from one sampled frame to the next, at most. Larger steps leave a stretch too few frames to
# show that one source is alone in it; whole stretches are skipped instead.
THINNEST = 8
SPARSEST = 20  # frames of a window per sampled frame, at most
QUIET_DB = -50.0  # loudest bin of a window, relative to the recording's: below it, no weight


@dataclass(frozen=True)
class Sample:
    """Sample of the embeddings of one window.

    Attributes:
        points: embeddings (n, K).
        weights: (n,); each point also carries the weight of the points skipped for it.
        frames: (n,), frame of each point in the recording.
        loudest: largest magnitude of the window.
    """

    points: Tensor
    weights: Tensor
    frames: Tensor
    loudest: float


@dataclass(frozen=True)
class Sampling:
    """Choice of the frames and bins that are sampled.

    Attributes:
        windows: windows of the recording; frames are numbered window by window, overlaps twice.
        bins: number of bins F of a frame.
        stretch: number of frames of a stretch.
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
        """Sample the embeddings of one window.

        Bins without weight are skipped, unless the recording is so short that all bins are taken.

        Args:
            window: number of the window, from 0.
            encoded: encoded frames (L, H).
            magnitude: (L, F).
            weights: (L, F).
            embed: function from encoded frames (1, l, H) to embeddings (1, l*F, K).

        Returns:
            The sample.
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
        """Return the number of the stretch of each frame (n,); no stretch spans two windows."""
        length = self.windows.length
        return frames // length * length + frames % length // self.stretch

    def _frames(self, random: torch.Generator) -> Tensor:
        """Choose the frames (n,) of a window that are sampled.

        Every frame costs the embeddings of all its bins. The frames hold about four times the
        number of points that are needed. They are evenly spaced, or fill some stretches evenly.
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
    """Join the samples of all windows.

    Points of windows far quieter than the recording get no weight.

    Args:
        samples: samples of all windows, in order.
        size: values K of an embedding.

    Returns:
        Points (N, K), weights (N,) and frames (N,); for a silent recording one point without
        weight.
    """
    points = torch.cat([sample.points for sample in samples])
    if not len(points):
        return torch.zeros(1, size), torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    least = max(sample.loudest for sample in samples) * 10 ** (QUIET_DB / 20)
    weights = torch.cat([sample.weights * (sample.loudest >= least) for sample in samples])
    return points, weights, torch.cat([sample.frames for sample in samples])
