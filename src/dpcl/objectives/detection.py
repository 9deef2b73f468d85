"""Objectives of heads that detect: background in a bin, the number of talkers in a frame.

Both are cross-entropies. The background class competes with no talker: a bin is background where
it is louder than every talker, and clustering then ignores the bin. The number of talkers in a
frame has a last class for "this number or more", since few mixtures have more.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


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
