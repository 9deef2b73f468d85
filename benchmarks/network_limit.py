"""The least time that a network needs on this machine: its products over the rate of a product.

Multiply-adds are counted from the settings of the weights; windows that overlap, STFT, clustering,
writing and the start of Python are what a program adds to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from machine import matmul_rate

from dpcl.networks.model import ModelSettings


@dataclass(frozen=True)
class Limit:
    """Seconds that the products of one recording take at the rates of this machine."""

    multiply_adds: int
    fp32_seconds: float
    bf16_seconds: float


def multiply_adds_per_frame(settings: ModelSettings) -> int:
    """Of the BLSTM layers (input and recurrent weights, 4 gates, 2 directions) and the projection.

    Products with matrices alone: gates, activations and unit length are not counted.
    """
    network, bins = settings.network, settings.signal.stft().bins
    width = network.width
    total, heard = 0, bins
    for _ in range(network.layers):
        total += 2 * 4 * width * (heard + width)
        heard = 2 * width
    return total + heard * bins * network.embedding


def limits(settings: ModelSettings, durations: list[float]) -> list[Limit]:
    """For one-channel recordings of these seconds."""
    import torch

    fp32, bf16 = (matmul_rate(dtype) for dtype in (torch.float32, torch.bfloat16))  # GFLOP/s
    found = []
    for seconds in durations:
        frames = settings.signal.stft().frames(round(seconds * settings.signal.sample_rate))
        count = frames * multiply_adds_per_frame(settings)
        found.append(Limit(count, 2e-9 * count / fp32, 2e-9 * count / bf16))
    return found
