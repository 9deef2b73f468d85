"""Segments: stretches of neighbouring auditory units that one event made."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

SMOOTHING = (0.25, 0.5, 0.25)  # over frames of 16 ms


def level_changes(power: Tensor, floor: float = 1e-5) -> Tensor:
    """How fast each channel's level rises, in dB a frame; falls are negative.

    power (channels, L), relative to the loudest unit -> (channels, L): the change from the frame
    before, of the level smoothed over frames. Source: Hu and Wang 2007.
    """
    levels = 10 * power.clamp_min(floor).log10()
    padded = torch.nn.functional.pad(levels[:, None], (1, 1), mode="replicate")
    smooth = torch.nn.functional.conv1d(padded, levels.new_tensor([[SMOOTHING]]))[:, 0]
    return smooth.diff(dim=1, prepend=smooth[:, :1])


def segments(
    heard: Tensor, changes: Tensor, alike: Tensor, edge: float = 2.0, likeness: float = 0.99
) -> Tensor:
    """Number the segments of a scene.

    heard: (channels, L) of which units there is anything; changes: (channels, L) from
    `level_changes`; alike: (channels, L) from `cross_channel_correlation`. Returns (channels, L)
    int64 from 0 on, -1 where nothing is heard.

    A channel's stretch runs from an onset to an offset or the next onset: peaks of the level's
    change of more than `edge` dB a frame. Stretches of neighbouring channels are one segment where
    the mean correlation of the frames that both last is over `likeness`. Sources: Hu and Wang
    2004 and 2007 (onsets and offsets), Wang and Brown 1999 (cross-channel correlation).
    """
    channels, frames = heard.shape
    steep = changes.abs()
    before, after = steep.roll(1, 1), steep.roll(-1, 1)
    borders = (steep > edge) & (steep >= before) & (steep > after)
    starts = heard & (borders | ~heard.roll(1, 1))
    starts[:, 0] = heard[:, 0]
    runs = (starts.flatten().cumsum(0) - 1).view(channels, frames)
    count = int(starts.sum())
    both = heard[:-1] & heard[1:]
    upper, lower = runs[:-1][both].numpy(), runs[1:][both].numpy()
    shape = (max(count, 1), max(count, 1))
    total = coo_matrix((alike[:-1][both].double().numpy(), (upper, lower)), shape).tocsr()
    shared = coo_matrix((np.ones(len(upper)), (upper, lower)), shape).tocsr()
    _, labels = connected_components(total - likeness * shared > 0, directed=False)
    return torch.where(heard, torch.from_numpy(labels).long()[runs.clamp(min=0)], -1)
