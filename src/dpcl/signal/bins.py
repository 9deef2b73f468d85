"""Ideal labels of STFT bins and the weight of each bin."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Weighting = Literal["threshold", "magnitude", "energy"]


def ideal_assignments(source_spectra: Tensor) -> Tensor:
    """One-hot Y: the source with the larger magnitude owns the bin, the first one in a tie.

    source_spectra: complex (..., C, L, F) -> (..., L*F, C), zeros and ones.
    Always C columns, also where a source dominates nowhere. Source: Hershey et al. 2016, sec. 2.
    """
    owner = source_spectra.abs().flatten(-2).argmax(dim=-2)  # (..., N)
    sources = torch.arange(source_spectra.shape[-3], device=owner.device)
    return (owner.unsqueeze(-1) == sources).to(source_spectra.real.dtype)  # (..., N, C)


def bin_weights(
    mixture_spectrum: Tensor, weighting: Weighting = "threshold", floor_db: float = -40.0
) -> Tensor:
    """How much each bin counts in the objective and in the clustering.

    mixture_spectrum: complex (..., L, F) -> (..., L*F), in [0, 1].
    Bins more than -floor_db under the loudest bin of the item weigh nothing (Hershey et al. 2016);
    what the others weigh says `weigh`. An all-silent item weighs nothing anywhere.
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
    """Magnitudes relative to the loudest bin, zero for those that do not count -> weights, (...).

    One each ("threshold"), the magnitude itself ("magnitude": Wang, Le Roux, Hershey 2018, W_MR up
    to a scale that the objective divides out), or its square ("energy").
    """
    if weighting == "threshold":
        return (relative > 0).to(relative.dtype)
    return relative if weighting == "magnitude" else relative.square()
