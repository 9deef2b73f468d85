"""What the peers that carry dpcl's network share: its weights, its features, and resampling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import julius
import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

FLOOR = 1e-4  # of the features, relative to the loudest bin: as dpcl.signal.features


def resample(samples: Any, old: int, new: int) -> Any:
    """samples (T,) as asteroid resamples files: julius."""
    if old == new:
        return samples
    return julius.ResampleFrac(old, new)(torch.from_numpy(np.asarray(samples))).numpy()


def read_weights(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and float32 weights of a file that dpcl wrote."""
    with safe_open(str(path), framework="pt") as file:
        settings = json.loads(file.metadata()["settings"])
        return settings, {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118


class Features(nn.Module):
    """Magnitudes (B, L, F) to what the network was trained on."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.mean, self.std = weights["mean"], weights["std"]

    def forward(self, magnitudes: Tensor) -> Tensor:
        relative = magnitudes / magnitudes.amax(dim=(-2, -1), keepdim=True)
        return (relative.clamp_min(FLOOR).log() - self.mean) / self.std


def part(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of one layer, without its name before them."""
    return {key[len(name) + 1 :]: w for key, w in weights.items() if key.startswith(f"{name}.")}
