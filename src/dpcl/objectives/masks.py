"""Permutation-invariant mask inference: masked mixture magnitudes against those of the sources."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dpcl.objectives.permutation import least_cost

Norm = Literal[1, 2]


def magnitude_targets(source_spectra: Tensor) -> Tensor:
    """|s_c|: complex (..., C, L, F) -> (..., N, C) with N = L*F; not truncated."""
    return source_spectra.abs().flatten(-2).mT


def phase_sensitive_targets(source_spectra: Tensor, mixture_spectrum: Tensor) -> Tensor:
    """The part of each source that is in phase with the mixture, cut to [0, |x|].

    source_spectra: complex (..., C, L, F); mixture_spectrum: complex (..., L, F)
    returns (..., N, C) with N = L*F: min(max(|s_c| cos(θ_x - θ_c), 0), |x|).
    Source: Erdogan et al. 2015 (phase-sensitive approximation); truncated as in Kolbæk et al. 2017
    and chimera++ (Wang, Le Roux, Hershey 2018). Raises ValueError for shapes that do not fit.
    """
    if source_spectra.shape[:-3] + source_spectra.shape[-2:] != mixture_spectrum.shape:
        raise ValueError(
            "source_spectra (..., C, L, F) and mixture_spectrum (..., L, F) must agree but for C; "
            f"got {tuple(source_spectra.shape)} and {tuple(mixture_spectrum.shape)}"
        )
    mixture = mixture_spectrum.unsqueeze(-3)  # (..., 1, L, F)
    magnitude = mixture.abs()
    direction = torch.where(magnitude > 0, mixture / magnitude, 0)
    in_phase = (source_spectra * direction.conj()).real  # (..., C, L, F)
    return torch.minimum(in_phase.clamp_min(0), magnitude).flatten(-2).mT


def mask_inference_loss(
    masks: Tensor, mixture: Tensor, targets: Tensor, norm: Norm = 1, any_order: bool = True
) -> Tensor:
    """Distance of the masked mixture to the targets in the best order, per item.

    masks: (B, N, C), any values; mixture: magnitudes |x| (B, N), at least zero; targets: (B, N, C)
    returns (B,): least over the orders π of Σ |m_c |x| - t_π(c)|^p / Σ |x|^p, p = norm. Scale-free:
    in [0, 2] where masks and targets / |x| are at least zero and sum to at most one; in a silent
    item, which has nothing to be relative to, the plain sum. Sums run in float32 at least.
    any_order: without, mask c is for target c (the "strongest" target of Hershey et al. 2016,
    section 4, where targets are sorted by loudness).
    Source: Kolbæk et al. 2017 (utterance-level permutation invariant training, p = 2); chimera++,
    Wang, Le Roux, Hershey 2018 (p = 1). Raises ValueError for shapes that do not fit.
    """
    if masks.ndim != 3 or masks.shape != targets.shape or masks.shape[:2] != mixture.shape:
        raise ValueError(
            "masks and targets must be (B, N, C) and the mixture (B, N); "
            f"got {tuple(masks.shape)}, {tuple(targets.shape)} and {tuple(mixture.shape)}"
        )
    if norm not in (1, 2):
        raise ValueError(f"norm must be 1 or 2; got {norm}")
    dtype = torch.promote_types(masks.dtype, torch.float32)
    mixture, targets = mixture.to(dtype), targets.to(dtype)
    estimates = masks.to(dtype) * mixture.unsqueeze(-1)  # (B, N, C)
    differences = estimates.unsqueeze(-1) - targets.unsqueeze(-2)  # (B, N, C, C)
    costs = differences.abs().pow(norm).sum(1)  # (B, C, C)
    total = mixture.pow(norm).sum(-1)  # (B,)
    cost = least_cost(costs) if any_order else costs.diagonal(dim1=1, dim2=2).sum(-1)
    return cost / torch.where(total > 0, total, 1)
