"""Masks out of clustered embeddings, and those of a mask head beside them: in order, and joined."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.networks.model import MaskSettings


def nearest_masks(embeddings: Tensor, centroids: Tensor, settings: MaskSettings) -> Tensor:
    """embeddings (B, N, K), centroids (B, C, K) -> masks (B, C, N), adding up to one in each bin.

    Binary ones (sharpness None) say which centroid is nearest; soft ones share a bin by its
    similarity to the centroids, which loses less where the network is in doubt.
    """
    if settings.sharpness is None:
        distances = torch.cdist(embeddings, centroids)  # (B, N, C)
        nearest = distances.argmin(-1)
        return functional.one_hot(nearest, centroids.shape[1]).to(embeddings.dtype).mT
    return similarities(embeddings, centroids, settings).softmax(1)


def similarities(embeddings: Tensor, centroids: Tensor, settings: MaskSettings) -> Tensor:
    """embeddings (B, N, K), centroids (B, C, K) -> the log of soft masks, up to a constant."""
    if settings.similarity == "cosine":
        centroids = functional.normalize(centroids, dim=-1)
    return (settings.sharpness or 1.0) * (centroids @ embeddings.mT)


def in_order_of(masks: Tensor, clustered: Tensor) -> Tensor:
    """The masks (B, C, ...) of each item, put in the order in which they agree most with others.

    clustered: (B, C, ...), masks of the same sources in the order that is wanted. Agreement is the
    sum over bins of the products of what both have over an equal share, so that bins in which
    neither is sure say nothing.
    """
    from scipy.optimize import linear_sum_assignment  # slow to load, and few networks need it

    share = 1 / masks.shape[1]
    ours, others = (x.flatten(2) - share for x in (masks, clustered))  # (B, C, N)
    agreement = (others @ ours.mT).numpy(force=True)  # (B, C, C)
    orders = [linear_sum_assignment(item, maximize=True)[1] for item in agreement]
    return torch.stack([item[order] for item, order in zip(masks, orders, strict=True)])


def both(masks: Tensor, clustered: Tensor) -> Tensor:
    """The geometric mean of two sets of masks (B, C, ...), scaled to add up to one in each bin."""
    return (0.5 * (masks.clamp_min(1e-6).log() + clustered.clamp_min(1e-6).log())).softmax(1)
