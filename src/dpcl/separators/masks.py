"""Masks from clustered embeddings and from mask heads: order, combination, activity."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.model import MaskSettings


def masks_from_centroids(embeddings: Tensor, centroids: Tensor, settings: MaskSettings) -> Tensor:
    """embeddings (B, N, K), centroids (B, C, K) -> masks (B, C, N), adding up to one in each bin.

    Binary ones (sharpness None) say which centroid is nearest; soft ones share a bin by its
    similarity to the centroids, which loses less where the network is in doubt.
    """
    if settings.sharpness is None:
        distances = torch.cdist(embeddings, centroids)  # (B, N, C)
        nearest = distances.argmin(-1)
        return functional.one_hot(nearest, centroids.shape[1]).to(embeddings.dtype).mT
    return mask_logits(embeddings, centroids, settings).softmax(1)


def mask_logits(embeddings: Tensor, centroids: Tensor, settings: MaskSettings) -> Tensor:
    """embeddings (B, N, K), centroids (B, C, K) -> the log of soft masks, up to a constant."""
    if settings.similarity == "cosine":
        centroids = functional.normalize(centroids, dim=-1)
    return (settings.sharpness or 1.0) * (centroids @ embeddings.mT)


def match_order(masks: Tensor, clustered: Tensor) -> Tensor:
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


def geometric_mean(masks: Tensor, clustered: Tensor) -> Tensor:
    """The geometric mean of two sets of masks (B, C, ...), scaled to add up to one in each bin."""
    return (0.5 * (masks.clamp_min(1e-6).log() + clustered.clamp_min(1e-6).log())).softmax(1)


# Of the audible bins around, the share from which a source counts as active in full, of two or
# three; of more, a little under an even share.
ENOUGH = 0.3
EVEN = 0.9
LEAST = 1e-3  # activity of a source that has no bin
SILENT = 1e-5  # of one that is known not to talk, see gate
STEPS = 3
STRIDE = 4  # one frame of so many tells who is active


def active_masks(scores: Tensor, audible: Tensor, reach: int) -> Tensor:
    """Masks (..., C, L, F) in which sources that own little around a frame are held back.

    scores: (..., C, L, F), log of the masks as they would be up to what is common to all sources;
    audible: (..., L, F), 1 for the bins that count and 0 for the others; reach: frames before and
    after one. A source's share of the audible bins within reach, up to ENOUGH of them, scales its
    masks, and with new masks come new shares, STEPS times. Leaves sources that are active as they
    are: where all of them are, shares themselves would take from the weaker and give to the strong.
    Source: the mixing proportions of soft k-means (expectation maximisation), local and capped.
    """
    sources = scores.shape[-3]
    enough = min(ENOUGH, EVEN / sources)
    some, counts = scores[..., ::STRIDE, :], audible[..., ::STRIDE, :].unsqueeze(-3)
    reach = reach // STRIDE
    activity = scores.new_ones(*some.shape[:-1], 1)  # (..., C, L / STRIDE, 1)
    for _ in range(STEPS):
        owned = ((some + activity.log()).softmax(-3) * counts).sum(-1)  # (..., C, L / STRIDE)
        around = functional.avg_pool1d(
            functional.pad(owned.flatten(0, -2), (reach, reach)), 2 * reach + 1, 1
        ).view_as(owned)
        share = around / around.sum(-2, keepdim=True).clamp_min(torch.finfo(owned.dtype).tiny)
        activity = (share / enough).clamp(LEAST, 1).unsqueeze(-1)
    return gate(scores, activity.squeeze(-1).log(), STRIDE)


def gate(scores: Tensor, activity: Tensor, stride: int) -> Tensor:
    """Masks (..., C, L, F) of scores (..., C, L, F) and the log activity (..., C, l) of every
    stride-th frame, which holds until the next."""
    each = activity.clamp_min(math.log(SILENT)).repeat_interleave(stride, -1)
    return (scores + each[..., : scores.shape[-2], None]).softmax(-3)
