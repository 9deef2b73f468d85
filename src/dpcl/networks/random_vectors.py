"""Learned vectors that begin as random numbers."""

from __future__ import annotations

import torch
from torch import nn


def random_vectors(number: int, width: int, deviation: float = 1.0) -> nn.Parameter:
    """A parameter (number, width) of normal numbers.

    On the meta device, where load_model replaces them, it draws none: for that torch would load
    parts of its compiler, up to a second of imports.
    """
    vectors = torch.empty(number, width)
    if not vectors.is_meta:
        vectors.normal_(std=deviation)
    return nn.Parameter(vectors)
