"""Overlapping bands of the bins of a frame, as the networks over bands and time read them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def band_count(bins: int, stride: int) -> int:
    """How many bands N `overlapping_bands` makes of so many bins."""
    return (bins + stride - 1) // stride + 1


def overlapping_bands(values: Tensor, stride: int) -> Tensor:
    """values (..., F) -> (..., N, 2*stride): bands of 2*stride bins, `stride` from one to the next.

    Every bin is in two of them: below the first bin there are `stride` zeros, above as many as fill
    the last band.
    """
    bins = values.shape[-1]
    above = band_count(bins, stride) * stride - bins
    padded = functional.pad(values, (stride, above))
    halves = padded.reshape(*values.shape[:-1], -1, stride)  # (..., N + 1, stride)
    return torch.cat([halves[..., :-1, :], halves[..., 1:, :]], dim=-1)
