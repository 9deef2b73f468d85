"""The recipe's objective on the embeddings and on the masks of a batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpcl.networks.base import EmbeddingNetwork
from dpcl.objectives import OBJECTIVES
from dpcl.objectives.attractor import anchored_attractor_loss, deep_attractor_loss
from dpcl.objectives.masks import (
    Norm,
    mask_inference_loss,
    phase_sensitive_targets,
    waveform_approximation_loss,
)
from dpcl.signal.bins import bin_weights, ideal_assignments
from dpcl.signal.stft import STFT
from dpcl.training.recipe import MaskObjective, Recipe


def batch_loss(recipe: Recipe, network: EmbeddingNetwork, stft: STFT, sources: Tensor) -> Tensor:
    """Return the mean objective of a batch of sources (B, C, W, T), a number with a gradient.

    With both heads it is share * (loss of the embeddings) + (1 - share) * (loss of the masks), as
    in chimera++ (Wang, Le Roux, Hershey 2018, eq. 12).
    """
    objective = recipe.objective
    spectra = stft(sources.transpose(1, 2))  # (B, W, C, L, F)
    mixture = spectra.sum(2)  # (B, W, L, F); the STFT is linear
    features = recipe.model.signal.features(mixture).flatten(0, 1)  # (B*W, L, F)
    if recipe.input_noise:
        deviation = math.sqrt(recipe.input_noise) * network.std  # (F,)
        features = features + deviation * torch.randn_like(features)
    settings = objective.masks
    together = sources.shape[2] if settings is not None and settings.across_windows else 1
    embeddings, masks = network(features, sources.shape[1], together)
    losses = []
    if objective.kind != "none":
        loss = _embedding_loss(recipe, network, embeddings, spectra, mixture)
        losses.append(loss if settings is None else objective.share * loss)
    if settings is not None:
        loss = _mask_loss(settings, masks.flatten(2).mT, spectra, sources, together, stft)
        losses.append(loss if objective.kind == "none" else (1 - objective.share) * loss)
    return torch.stack(losses).sum()


def _embedding_loss(
    recipe: Recipe, network: EmbeddingNetwork, embeddings: Tensor, spectra: Tensor, mixture: Tensor
) -> Tensor:
    """Return the loss of embeddings (B*W, N, K) of sources (B, W, C, L, F)."""
    objective = recipe.objective
    # The bins of all windows together, so that pairs across windows count as well.
    spectra, mixture = _joined(spectra, spectra.shape[1]), mixture.flatten(1, 2)
    weights = bin_weights(mixture, objective.weighting, objective.floor_db)  # (B, W*N)
    together = embeddings.reshape(*weights.shape, -1)  # (B, W*N, K)
    if objective.kind in OBJECTIVES:
        loss = OBJECTIVES[objective.kind](together, ideal_assignments(spectra), weights)
        return loss.mean()
    targets, magnitude = phase_sensitive_targets(spectra, mixture), mixture.abs().flatten(1)
    if objective.kind == "attractor":
        assignments = ideal_assignments(spectra)
        return deep_attractor_loss(together, assignments, magnitude, targets, weights).mean()
    return anchored_attractor_loss(together, network.anchors, magnitude, targets, weights).mean()


def _joined(windows: Tensor, together: int) -> Tensor:
    """Join windows: (B, W, C, n, ...) -> (B*W/together, C, together*n, ...)."""
    groups = windows.reshape(-1, together, *windows.shape[2:])
    return groups.transpose(1, 2).flatten(2, 3)


def _mask_loss(
    settings: MaskObjective,
    masks: Tensor,
    spectra: Tensor,
    sources: Tensor,
    together: int,
    stft: STFT,
) -> Tensor:
    """Return the loss of masks (M, N, C) on spectra (B, W, C, L, F) and samples (B, C, W, T).

    `together` windows form one item with one order: M is B*W/together, N all their bins.
    """
    spectra = _joined(spectra, together)  # (M, C, W'*L, F)
    samples = _joined(sources.transpose(1, 2), together)  # (M, C, W'*T)

    def spectrum(x: Tensor) -> Tensor:  # (..., W'*T) -> (..., W'*L, F): windows do not overlap
        return stft(x.reshape(*x.shape[:-1], together, -1)).flatten(-3, -2)

    def inverse(x: Tensor, length: int) -> Tensor:
        windows = x.reshape(*x.shape[:-2], together, -1, x.shape[-1])
        return stft.inverse(windows, length // together).flatten(-2)

    if settings.order == "strongest":  # louder sources first, the only accepted order
        ranks = samples.square().sum(-1).argsort(-1, descending=True)  # (M, C)
        items = torch.arange(len(ranks), device=ranks.device).unsqueeze(-1)
        spectra, samples = spectra[items, ranks], samples[items, ranks]
    if settings.targets == "waveform":
        return waveform_approximation_loss(
            masks,
            samples.sum(1),
            samples,
            spectrum,
            inverse,
            settings.distance,
        ).mean()
    mixture = spectra.sum(1)
    targets = phase_sensitive_targets(spectra, mixture)
    norm: Norm = 1 if settings.distance == "l1" else 2
    return mask_inference_loss(
        masks, mixture.abs().flatten(1), targets, norm, any_order=settings.order == "best"
    ).mean()
