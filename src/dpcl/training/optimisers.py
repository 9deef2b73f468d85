"""Optimisers, the learning rate of every step, and the running average of the weights."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from dpcl.networks.base import EmbeddingNetwork
from dpcl.training.recipe import OptimiserSettings

MATRIX_RATE = 4e-3  # highest learning rate of Muon's matrices
SMALLEST_MATRIX = 16  # rows and columns of a matrix that Muon updates, at least


def optimisers_of(network: nn.Module, settings: OptimiserSettings) -> list[torch.optim.Optimizer]:
    """Return the optimisers of a recipe.

    The rate of a parameter group is its `ratio` times the learning rate of the step.

    Args:
        network: its parameters that require a gradient are trained.
        settings: `adam` for one optimiser; `muon` for Muon on matrices and AdamW on the others.

    Source: Kingma and Ba 2015 (Adam); Jordan et al. 2024 (Muon).
    """
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.kind == "adam":
        groups = [{"params": learning, "ratio": 1.0}]
        if not decay:
            return [torch.optim.Adam(groups, rate)]
        return [torch.optim.AdamW(groups, rate, weight_decay=decay)]
    matrices = [p for p in learning if p.ndim == 2 and min(p.shape) >= SMALLEST_MATRIX]
    chosen = {id(p) for p in matrices}
    others = [p for p in learning if id(p) not in chosen]
    return [
        torch.optim.Muon(
            [{"params": matrices, "ratio": MATRIX_RATE / rate}],
            MATRIX_RATE,
            weight_decay=decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            [{"params": others, "ratio": 1.0}], rate, betas=(0.9, 0.98), weight_decay=decay
        ),
    ]


def average_of(
    network: EmbeddingNetwork, settings: OptimiserSettings, saved: dict[str, Tensor] | None
) -> EmbeddingNetwork:
    """Return the running average of the weights, or the network itself without one."""
    if not settings.average:
        return network
    averaged = deepcopy(network).requires_grad_(False)
    if saved is not None:
        averaged.load_state_dict(saved)
    return averaged


@torch.no_grad()
def follow(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the weights by 1 - decay."""
    pairs = zip(averaged.parameters(), network.parameters(), strict=True)
    for mean, weight in pairs:
        mean.lerp_(weight.to(mean.device), 1 - decay)


def learning_rate(settings: OptimiserSettings, step: int, steps: int) -> float:
    """Return the rate of a step: linear warm-up, constant, then a half cosine down to `final`."""
    if step < settings.warm_up:
        return settings.learning_rate * (step + 1) / settings.warm_up
    first = max(settings.warm_up, round(settings.hold * steps))
    share = max(0, step - first) / max(1, steps - first)
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return settings.learning_rate * (settings.final + (1 - settings.final) * cosine)
