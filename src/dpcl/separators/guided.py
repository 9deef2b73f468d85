"""Guided masks: a timeline says who is active, and clusters of bins separate only overlaps.

Where one talker is active, all bins are theirs, up to the background. Where several may be, every
bin goes to the nearest seed: the mean embedding of a talker's own bins nearby, in the frames in
which they speak alone.

Source: guided source separation, Boeddeker et al. 2018, with embeddings in place of spatial models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpcl.model import Model
from dpcl.separators.base import Analyses, Analysis, Link, Timeline
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.masks import mask_logits
from dpcl.signal.windows import Windows

STRIDE = 4  # frames from one frame that enters a seed to the next
REACH = 2  # windows on each side whose frames enter a seed
OWN = 1e-2  # weight of frames with other talkers in a seed: they matter if a talker is never alone
LEAST = 0.5  # s alone nearby that a seed needs; less is filled up from the whole recording
FLOOR = 1e-5  # least probability of activity in the masks


@dataclass(frozen=True)
class Guide:
    """`Link.state` of guided masks.

    Attributes:
        seeds: (W, C, K), of every window.
        activity: (W, C, L), probability that each source is active in each frame of a window.
    """

    seeds: Tensor
    activity: Tensor


def seed_sums(
    embeddings: Tensor, weights: Tensor, activity: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the embeddings of one window that belong to each talker.

    Args:
        embeddings: (l, F, K).
        weights: (l, F), at least zero.
        activity: (C, l), probability that each talker is active.

    Returns:
        Sums (C, K) of weighted embeddings, their weights (C,), and the number of frames (C,).
    """
    silent = 1 - activity
    others = torch.stack(
        [silent[torch.arange(len(silent)) != c].prod(0) for c in range(len(silent))]
    )
    alone = activity * (others + OWN * (1 - others))  # (C, l)
    frames = (weights.unsqueeze(-1) * embeddings).sum(1)  # (l, K)
    return alone @ frames, alone @ weights.sum(1), (activity * others).sum(1)


def local_seeds(sums: Tensor, masses: Tensor, frames: Tensor, least: float) -> Tensor:
    """Compute the seeds of every window from the sums of the windows around it.

    Args:
        sums: (W, C, K), of `seed_sums`.
        masses: (W, C).
        frames: (W, C).
        least: number of frames alone nearby; with fewer, the whole recording fills up the seed.

    Returns:
        Seeds (W, C, K): means of embeddings; zeros for a talker who never speaks.
    """
    numbers = torch.arange(len(sums))
    near = ((numbers[:, None] - numbers).abs() <= REACH).to(sums.dtype)  # (W, W)
    tiny = torch.finfo(sums.dtype).tiny
    own, mass = torch.einsum("vw,wck->vck", near, sums), near @ masses
    whole, all_mass = sums.sum(0), masses.sum(0)
    share = ((near @ frames) / least).clamp(0, 1).unsqueeze(-1)  # (W, C, 1)
    local = own / mass.clamp_min(tiny).unsqueeze(-1)
    return share * local + (1 - share) * (whole / all_mass.clamp_min(tiny).unsqueeze(-1))


class GuidedClustering(DeepClustering):
    """Deep clustering guided by a timeline.

    Args:
        model: model whose network has an embedding head.
        timeline: who speaks when; its talkers are the sources.
    """

    def __init__(self, model: Model, timeline: Timeline | None = None) -> None:
        super().__init__(model)
        self.given = timeline

    def link(self, analyses: Analyses, num_sources: int | None, most: int) -> Link:
        """Compute seeds from the timeline; cluster all embeddings without one."""
        if self.given is None:
            return super().link(analyses, num_sources, most)
        windows = analyses.windows
        return self.guide(analyses, self.given.activity(self.hop, windows.frames).float())

    def guide(self, analyses: Analyses, activity: Tensor) -> Link:
        """Link by the activity (C, L) of every source."""
        windows = analyses.windows
        local = in_windows(activity, windows)  # (W, C, l)

        def summed(window: int, analysis: Analysis) -> tuple[Tensor, Tensor, Tensor]:
            encoded, magnitude = (tensor[::STRIDE] for tensor in analysis)
            weights = self._of_talkers(encoded, self.weights(magnitude).view_as(magnitude))
            embeddings = self.embed(encoded[None]).view(*magnitude.shape, -1)
            return seed_sums(embeddings, weights, local[window][:, ::STRIDE])

        parts = zip(*analyses.map(summed), strict=True)
        sums, masses, frames = (torch.stack(part) for part in parts)
        seeds = local_seeds(sums, masses, frames, LEAST / (STRIDE * self.hop))
        return Link(len(activity), self.background, Guide(seeds, local), activity)

    def masks(self, window: int, analysis: Analysis, link: Link) -> Tensor:
        """Estimate the masks of one window from its seeds and the activity of the talkers."""
        guide = link.state
        if not isinstance(guide, Guide):
            return super().masks(window, analysis, link)
        encoded, seeds = analysis[0][None], guide.seeds[window][None]
        logits = torch.cat(
            [self._of_bins(mask_logits, x, seeds) for x in self._embedded(encoded)], dim=2
        )[0]  # (C, l, F)
        odds = guide.activity[window].clamp_min(FLOOR).log().unsqueeze(-1)
        masks = (logits + odds).softmax(0)
        if not self.background:
            return masks
        background = self._background(analysis[0])
        return torch.cat([masks * (1 - background), background[None]])

    @property
    def hop(self) -> float:
        """Time between frames in s."""
        return self.stft.hop / self.sample_rate


def in_windows(activity: Tensor, windows: Windows) -> Tensor:
    """Cut values (C, L) of all frames into windows (W, C, l)."""
    return torch.stack([activity[:, s : s + windows.length] for s in windows.starts])
