"""Objectives on masks, on the waveforms that masks give, and on heads that detect sources."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.objectives.affinity import reciprocal


def least_cost(costs: Tensor) -> Tensor:
    """Sum the costs under the best one-to-one match of estimates and sources.

    All C! orders are tried. The gradient is the gradient of the best order, or of one of them in a
    tie.

    Args:
        costs: (B, C, C), cost of each estimate (dim 1) for each source (dim 2).

    Returns:
        (B,).

    Source: Yu et al. 2017 (permutation invariant training); Hershey et al. 2016, section 4.
    """
    sources = costs.shape[-1]
    orders = torch.tensor(list(permutations(range(sources))), device=costs.device)  # (C!, C)
    estimates = torch.arange(sources, device=costs.device)
    return costs[:, estimates, orders].sum(-1).min(-1).values


Norm = Literal[1, 2]


def phase_sensitive_targets(source_spectra: Tensor, mixture_spectrum: Tensor) -> Tensor:
    """Compute the part of each source that is in phase with the mixture, cut to [0, |x|].

    Args:
        source_spectra: complex (..., C, L, F).
        mixture_spectrum: complex (..., L, F).

    Returns:
        (..., N, C) with N = L*F: min(max(|s_c| cos(θ_x - θ_c), 0), |x|).

    Raises:
        ValueError: the shapes do not agree.

    Source: Erdogan et al. 2015 (phase-sensitive approximation); truncated as in Kolbæk et al. 2017
    and chimera++ (Wang, Le Roux, Hershey 2018).
    """
    if source_spectra.shape[:-3] + source_spectra.shape[-2:] != mixture_spectrum.shape:
        raise ValueError(
            "source_spectra (..., C, L, F) and mixture_spectrum (..., L, F) must agree "
            f"except in C; got {tuple(source_spectra.shape)} and {tuple(mixture_spectrum.shape)}"
        )
    mixture = mixture_spectrum.unsqueeze(-3)  # (..., 1, L, F)
    magnitude = mixture.abs()
    direction = torch.where(magnitude > 0, mixture / magnitude, 0)
    in_phase = (source_spectra * direction.conj()).real  # (..., C, L, F)
    return torch.minimum(in_phase.clamp_min(0), magnitude).flatten(-2).mT


def mask_inference_loss(
    masks: Tensor, mixture: Tensor, targets: Tensor, norm: Norm = 1, any_order: bool = True
) -> Tensor:
    """Compute the distance of the masked mixture to the targets in the best order, per item.

    Sums run in float32 at least. The loss does not depend on the scale of mixture and targets.

    Args:
        masks: (B, N, C), any values.
        mixture: magnitudes |x|, (B, N), at least zero.
        targets: (B, N, C).
        norm: exponent p, 1 or 2.
        any_order: search the best order. If false, mask c belongs to target c (the "strongest"
            target of Hershey et al. 2016, section 4, where targets are sorted by loudness).

    Returns:
        (B,): the least value over the orders π of Σ |m_c |x| - t_π(c)|^p / Σ |x|^p. It lies in
        [0, 2] if masks and targets / |x| are at least zero and sum to at most one. In a silent
        item it is the plain sum.

    Raises:
        ValueError: the shapes do not agree, or the norm is neither 1 nor 2.

    Source: Kolbæk et al. 2017 (utterance-level permutation invariant training, p = 2); chimera++,
    Wang, Le Roux, Hershey 2018 (p = 1).
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

LIMIT = 1e-8  # power ratio that limits SI-SDR to about ±80 dB, where its gradient vanishes
SOFTEST = 1e-12  # energy below which an estimate counts as silent, relative to the reference
FAINT = 1e-5  # magnitude below which a bin's phase fades out of MISI, relative to the loudest bin


def waveform_loss(estimates: Tensor, references: Tensor, distance: Distance = "l1") -> Tensor:
    """Compute the distance of estimated waveforms to the references in the best order, per item.

    Scaling estimates and references by the same factor changes nothing. Scaling an estimate does
    not change "si_sdr".

    Args:
        estimates: (B, C, T).
        references: (B, C, T).
        distance: "l1" or "l2": Σ |ŝ - s|^p over sources and samples, relative to Σ |s|^p, at least
            0, and 1 for silent estimates. "si_sdr": the negative SI-SDR in dB, in [-80, 80], means
            removed, averaged over the sources that are not silent.

    Returns:
        (B,): the least value over all orders. If all references of an item are silent, "l1" and
        "l2" are the plain sum, and "si_sdr" is 0.

    Raises:
        ValueError: the shapes do not agree, or the distance is unknown.

    Source: waveform approximation, Wang et al. 2018 ("End-to-end speech separation with unfolded
    iterative phase reconstruction"), L1; SI-SDR, Le Roux et al. 2019, eq. 3.
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
    """Compute `waveform_loss` of the masked mixture, with the phase of the mixture.

    Args:
        masks: (B, N, C) with N = L*F.
        mixture: samples (B, T).
        references: (B, C, T).
        stft: as for `masked_waveforms`.
        inverse: as for `masked_waveforms`.
        distance: as for `waveform_loss`.

    Returns:
        (B,).

    Raises:
        ValueError: the shapes do not agree.

    Source: Wang et al. 2018 (there WA).
    """
    return waveform_loss(masked_waveforms(masks, mixture, stft, inverse), references, distance)


def masked_waveforms(
    masks: Tensor,
    mixture: Tensor,
    stft: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """Compute waveforms of the masked mixture, with the phase of the mixture.

    Args:
        masks: (B, N, C) with N = L*F, at least zero.
        mixture: samples (B, T).
        stft: transform (..., T) -> complex (..., L, F).
        inverse: transform of complex (..., L, F) and a length -> (..., T).

    Returns:
        (B, C, T).

    Raises:
        ValueError: the masks do not fit the spectrum of the mixture.
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
    """Return the negative SI-SDR in dB: (B, C, T) -> (B,).

    SI-SDR = ρ² / (1 - ρ²), with ρ² = cos² of the angle between estimate and reference.
    """
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


def background_loss(log_odds: Tensor, dominates: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted binary cross-entropy of the background class, per item.

    Args:
        log_odds: (B, N), that the background dominates a bin.
        dominates: (B, N), true where it does.
        weights: (B, N), at least zero.

    Returns:
        (B,), in nats; zero for an item without weight.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> import torch
        >>> odds, truth = torch.zeros(1, 4), torch.tensor([[1, 0, 0, 1]])
        >>> background_loss(odds, truth, torch.ones(1, 4))
        tensor([0.6931])
    """
    if not log_odds.shape == dominates.shape == weights.shape:
        raise ValueError(
            f"log odds, labels and weights must all be (B, N); got {tuple(log_odds.shape)}, "
            f"{tuple(dominates.shape)} and {tuple(weights.shape)}"
        )
    errors = functional.binary_cross_entropy_with_logits(
        log_odds, dominates.to(log_odds.dtype), reduction="none"
    )
    return (errors * weights).sum(-1) / weights.sum(-1).clamp_min(1e-9)


def count_loss(logits: Tensor, counts: Tensor) -> Tensor:
    """Return the mean cross-entropy of the number of talkers in a frame, per item.

    Args:
        logits: (B, L, M) of 0, 1, ... and M - 1 or more talkers.
        counts: (B, L), integers from 0 up.

    Returns:
        (B,), in nats.

    Raises:
        ValueError: The shapes do not share B and L.

    Example:
        >>> import torch
        >>> count_loss(torch.zeros(1, 3, 4), torch.tensor([[0, 2, 5]]))
        tensor([1.3863])
    """
    if logits.shape[:-1] != counts.shape:
        raise ValueError(
            f"logits (B, L, M) and counts (B, L) must share B and L; got {tuple(logits.shape)} and "
            f"{tuple(counts.shape)}"
        )
    classes = counts.clamp(max=logits.shape[-1] - 1)
    return functional.cross_entropy(logits.mT, classes, reduction="none").mean(-1)
