"""Overlapping bands of the bins of a frame, as the networks over bands and time read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def band_count(bins: int, stride: int) -> int:
    """How many bands N `overlapping_bands` makes of so many bins."""
    return -(-bins // stride) + 1


def overlapping_bands(values: Tensor, stride: int) -> Tensor:
    """values (..., F) -> (..., N, 2*stride): bands of 2*stride bins, `stride` from one to the next.

    Every bin is in two of them: below the first bin there are `stride` zeros, above as many as fill
    the last band.
    """
    bins = values.shape[-1]
    above = band_count(bins, stride) * stride - bins
    return functional.pad(values, (stride, above)).unfold(-1, 2 * stride, stride)


def band_vectors(bands: int, width: int) -> nn.Parameter:
    """A learned vector for each band, (N, width), by which networks tell them apart."""
    vectors = torch.empty(bands, width)
    if not vectors.is_meta:  # there, for load_model, random numbers take torch a second of imports
        vectors.normal_(std=0.1)
    return nn.Parameter(vectors)
