"""Masks that know who speaks: in a conversation most sources are silent most of the time."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

# Of the audible bins around, the share from which a source counts as active in full, of two or
# three; of more, a little under an even share.
ENOUGH = 0.3
EVEN = 0.9
LEAST = 1e-3  # activity of a source that has no bin
SILENT = 1e-5  # of one that is known not to talk, see held_back
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
    return held_back(scores, activity.squeeze(-1).log(), STRIDE)


def held_back(scores: Tensor, activity: Tensor, stride: int) -> Tensor:
    """Masks (..., C, L, F) of scores (..., C, L, F) and the log activity (..., C, l) of every
    stride-th frame, which holds until the next."""
    each = activity.clamp_min(math.log(SILENT)).repeat_interleave(stride, -1)
    return (scores + each[..., : scores.shape[-2], None]).softmax(-3)
