"""The least time that a network needs on this machine: its products over the rate of a product.

Counted are the products with weights alone. Gates and activations, windows that overlap, STFT,
clustering, writing and the start of Python are what a program adds to it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from machine import matmul_rate

if TYPE_CHECKING:  # it imports torch, which separation_speed.py must not
    from dpcl.model import Model


@dataclass(frozen=True)
class Limit:
    """Seconds that the products of one recording take at the rates of this machine."""

    multiply_adds: int
    fp32_seconds: float
    bf16_seconds: float


def multiply_adds_per_frame(model: Model) -> int:
    """Of recurrent layers and the projection: every weight of a matrix meets a frame once.

    For L layers of H units in both directions: 8 H (F + H) + (L - 1) 8 H (2 H + H) + 2 H F K.
    """
    return sum(weight.numel() for weight in model.network.parameters() if weight.ndim == 2)


def limits(model: Model, durations: Sequence[float]) -> list[Limit]:
    """For one-channel recordings of these seconds."""
    import torch

    fp32, bf16 = (matmul_rate(dtype) for dtype in (torch.float32, torch.bfloat16))  # GFLOP/s
    signal, found = model.settings.signal, []
    for seconds in durations:
        frames = signal.stft().frames(round(seconds * signal.sample_rate))
        count = frames * multiply_adds_per_frame(model)
        found.append(Limit(count, 2e-9 * count / fp32, 2e-9 * count / bf16))
    return found


def main() -> None:
    """`network_limit.py WEIGHTS SECONDS...`: the limits as a JSON list."""
    from dpcl.model import load_model

    model = load_model(Path(sys.argv[1]))
    print(json.dumps([asdict(limit) for limit in limits(model, list(map(float, sys.argv[2:])))]))


if __name__ == "__main__":
    main()
