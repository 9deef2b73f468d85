"""What all networks must be able to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dpcl.networks.base import EmbeddingNetwork
from dpcl.objectives.affinity import affinity_loss
from dpcl.signal.features import bin_weights, ideal_assignments, log_magnitude
from dpcl.signal.stft import STFT

Learning = Callable[[Callable[[int], EmbeddingNetwork], int, bool], list[float]]


def glides(items: int, samples: int) -> Tensor:
    """Two talkers (B, 2, T) of harmonic tones, each with its own gliding pitch and pauses."""
    time = torch.arange(samples) / 8000
    start = 150 + 250 * torch.rand(items, 2, 1)
    phase = 2 * torch.pi * (start * time + 300 * torch.randn(items, 2, 1) * time.square())
    tones = sum((k * phase).cos() / k for k in range(1, 8))
    gates = (torch.rand(items, 2, samples // 400 + 1) > 0.3).float()
    assert isinstance(tones, Tensor)
    return tones * gates.repeat_interleave(400, dim=-1)[..., :samples]


@pytest.fixture
def learn_by_heart() -> Learning:
    """(network of so many bins, steps, bfloat16?) -> affinity loss at each step on one batch."""

    def learn(
        build: Callable[[int], EmbeddingNetwork], steps: int = 80, autocast: bool = False
    ) -> list[float]:
        stft = STFT(128, 32)
        spectra = stft(glides(2, 29 * 32))  # (B, C, L, F)
        mixture = spectra.sum(1)
        features, weights = log_magnitude(mixture), bin_weights(mixture, "magnitude")
        assignments = ideal_assignments(spectra)
        network = build(stft.bins)
        network.mean, network.std = features.mean((0, 1)), features.std((0, 1))
        optimiser = torch.optim.Adam(network.parameters(), 0.01)
        losses = []
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                embeddings = network(features).embeddings
            loss = affinity_loss(embeddings, assignments, weights).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        return losses

    return learn
