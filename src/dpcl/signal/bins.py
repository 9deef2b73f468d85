"""Ideal labels and weights of STFT bins."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Weighting = Literal["threshold", "magnitude", "energy"]


def ideal_assignments(source_spectra: Tensor) -> Tensor:
    """Assign each bin to the source with the largest magnitude, in a tie to the first.

    The result has always C columns, also if a source dominates no bin.

    Args:
        source_spectra: complex (..., C, L, F).

    Returns:
        One-hot Y, (..., L*F, C), zeros and ones.

    Source: Hershey et al. 2016, sec. 2.
    """
    owner = source_spectra.abs().flatten(-2).argmax(dim=-2)  # (..., N)
    sources = torch.arange(source_spectra.shape[-3], device=owner.device)
    return (owner.unsqueeze(-1) == sources).to(source_spectra.real.dtype)  # (..., N, C)


def bin_weights(
    mixture_spectrum: Tensor, weighting: Weighting = "threshold", floor_db: float = -40.0
) -> Tensor:
    """Weigh the bins for objective and clustering, relative to the loudest bin.

    Bins more than -floor_db below the loudest bin of the item have weight zero (Hershey et al.
    2016). `weigh` defines the other weights. In a silent item all weights are zero.

    Args:
        mixture_spectrum: complex (..., L, F).
        weighting: rule of `weigh`.
        floor_db: threshold in dB relative to the loudest bin.

    Returns:
        (..., L*F) in [0, 1].
    """
    magnitude = mixture_spectrum.abs().flatten(-2)  # (..., N)
    loudest = magnitude.amax(dim=-1, keepdim=True)
    audible = (magnitude >= loudest * 10 ** (floor_db / 20)) & (magnitude > 0)
    return weigh(torch.where(audible, magnitude / loudest, torch.zeros_like(magnitude)), weighting)


def level_weights(magnitude: Tensor, level: Tensor, first: int, floor_db: float = -40.0) -> Tensor:
    """Weigh bins by their magnitude relative to the level of the item, at most 1.

    Args:
        magnitude: (..., L, F).
        level: (..., 1, 1), see dpcl.signal.features.loud_level.
        first: bins below this one get no weight.
        floor_db: bins further below the level get no weight.

    Returns:
        (..., L*F) in [0, 1].
    """
    relative = (magnitude / level).clamp(max=1.0)
    relative = torch.where(relative >= 10 ** (floor_db / 20), relative, 0.0)
    relative[..., :first] = 0.0
    return relative.flatten(-2)


def weigh(relative: Tensor, weighting: Weighting) -> Tensor:
    """Convert relative magnitudes to weights.

    Args:
        relative: (...), relative to the loudest bin, zero for bins that do not count.
        weighting: "threshold" for weights of one, "magnitude" for the magnitude itself, "energy"
            for its square. The magnitude is W_MR of Wang, Le Roux, Hershey 2018, up to a scale
            that the objective divides out.

    Returns:
        (...).
    """
    if weighting == "threshold":
        return (relative > 0).to(relative.dtype)
    return relative if weighting == "magnitude" else relative.square()
