"""Objectives on masks and on the waveforms that masks give, in the best order of the sources."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Literal

import torch
from torch import Tensor

from dpcl.objectives.inputs import reciprocal


def least_cost(costs: Tensor) -> Tensor:
    """The sum of costs under the best one-to-one match of estimates and sources.

    costs: (B, C, C), of each estimate (dim 1) for each source (dim 2) -> (B,). All C! orders are
    tried; the gradient is that of the best, of one of them where several are equally good.
    Source: Yu et al. 2017 (permutation invariant training); Hershey et al. 2016, section 4.
    """
    sources = costs.shape[-1]
    orders = torch.tensor(list(permutations(range(sources))), device=costs.device)  # (C!, C)
    estimates = torch.arange(sources, device=costs.device)
    return costs[:, estimates, orders].sum(-1).min(-1).values


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


Distance = Literal["l1", "l2", "si_sdr"]

LIMIT = 1e-8  # SI-SDR is cut to about ±80 dB, where its gradient vanishes
SOFTEST = 1e-12  # energy, of the reference's, under which an estimate counts as silent
FAINT = 1e-5  # magnitude, of the loudest bin's, under which a bin's phase fades out of MISI


def waveform_loss(estimates: Tensor, references: Tensor, distance: Distance = "l1") -> Tensor:
    """Distance of the estimated waveforms to the references in the best order, per item.

    estimates, references: (B, C, T)
    distance: "l1" or "l2": Σ |ŝ - s|^p over sources and samples, of Σ |s|^p: at least 0, and 1 for
    silent estimates; "si_sdr": the negative SI-SDR in dB, means removed, averaged over the sources
    that are not silent, in [-80, 80]
    returns (B,): the least over all orders. An item whose references are all silent has nothing to
    be relative to: "l1" and "l2" are then the plain sum, "si_sdr" is 0. Scaling both by the same
    factor changes nothing, and scaling an estimate leaves "si_sdr" as it is.
    Source: waveform approximation, Wang et al. 2018 ("End-to-end speech separation with unfolded
    iterative phase reconstruction"), L1; SI-SDR, Le Roux et al. 2019, eq. 3. Raises ValueError for
    shapes that do not fit.
    """
    if estimates.ndim != 3 or estimates.shape != references.shape:
        raise ValueError(
            "estimates and references must both be (B, C, T); "
            f"got {tuple(estimates.shape)} and {tuple(references.shape)}"
        )
    dtype = torch.promote_types(estimates.dtype, torch.float32)
    estimates, references = estimates.to(dtype), references.to(dtype)
    if distance == "si_sdr":
        return _negative_si_sdr(estimates, references)
    if distance not in ("l1", "l2"):
        raise ValueError(f'distance must be "l1", "l2" or "si_sdr"; got {distance!r}')
    power = 1 if distance == "l1" else 2
    differences = estimates.unsqueeze(2) - references.unsqueeze(1)  # (B, C, C, T)
    total = references.abs().pow(power).sum((1, 2))  # (B,)
    return least_cost(differences.abs().pow(power).sum(-1)) / torch.where(total > 0, total, 1)


def waveform_approximation_loss(
    masks: Tensor,
    mixture: Tensor,
    references: Tensor,
    stft: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor, int], Tensor],
    distance: Distance = "l1",
) -> Tensor:
    """`waveform_loss` of the masked mixture, with the phase of the mixture: (B,).

    masks: (B, N, C) with N = L*F; mixture: samples (B, T); references: (B, C, T); stft, inverse,
    as for `masked_waveforms`.
    Source: Wang et al. 2018 (there WA). Raises ValueError for
    shapes that do not fit.
    """
    return waveform_loss(masked_waveforms(masks, mixture, stft, inverse), references, distance)


def masked_waveforms(
    masks: Tensor,
    mixture: Tensor,
    stft: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """Waveforms of the masked mixture, with the phase of the mixture.

    masks: (B, N, C) with N = L*F, any values at least zero; mixture: samples (B, T)
    stft: (..., T) -> complex (..., L, F); inverse: such a spectrum and a length -> (..., T)
    returns (B, C, T). Raises ValueError for masks that do not fit the mixture's spectrum.
    """
    spectrum = stft(mixture)  # (B, L, F)
    frames, bins = spectrum.shape[-2:]
    if masks.ndim != 3 or masks.shape[:2] != (len(mixture), frames * bins):
        raise ValueError(
            f"masks must be (B, N, C) = ({len(mixture)}, {frames * bins}, C) for a spectrum of "
            f"{frames} frames and {bins} bins; got {tuple(masks.shape)}"
        )
    layers = masks.to(mixture.dtype).mT  # (B, C, N)
    layers = layers.reshape(*layers.shape[:2], frames, bins)  # (B, C, L, F)
    return inverse(layers * spectrum.unsqueeze(1), mixture.shape[-1])


def _negative_si_sdr(estimates: Tensor, references: Tensor) -> Tensor:
    """From ρ² = cos² between estimate and reference: SI-SDR = ρ² / (1 - ρ²); (B, C, T) -> (B,)."""
    estimates = estimates - estimates.mean(-1, keepdim=True)
    references = references - references.mean(-1, keepdim=True)
    energy = references.square().sum(-1).unsqueeze(1)  # (B, 1, C)
    products = (estimates @ references.mT).square()  # (B, C, C)
    own = estimates.square().sum(-1).unsqueeze(2) + SOFTEST * energy  # (B, C, C)
    cosine = products * reciprocal(own * energy)
    ratio = (cosine + LIMIT) / ((1 - cosine).clamp_min(0) + LIMIT)
    audible = energy > 0  # (B, 1, C)
    costs = torch.where(audible, -10 * ratio.log10(), 0)
    return least_cost(costs) / audible.sum((1, 2)).clamp_min(1)
