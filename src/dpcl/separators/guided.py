"""Guided masks: a timeline says who is active, and embeddings separate only overlaps.

Where one talker is active, all bins are theirs, up to the background. Where several may be, every
bin goes to the nearest seed: the mean embedding of a talker's own bins nearby, in the frames in
which they speak alone. The timeline is given, or estimated from voices (dpcl.separators.diarise).

Source: guided source separation, Boeddeker et al. 2018, with embeddings in place of spatial models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpcl.model import Model
from dpcl.separators.base import Analyses, Analysis, Link, Timeline
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.diarise import (
    STEP,
    STRETCH,
    STRIDE,
    Summary,
    find_talkers,
    own_multiples,
    owned,
    stretch_weights,
    window_seeds,
)
from dpcl.separators.masks import mask_logits
from dpcl.signal.stft import Windows

FLOOR = 1e-5  # least prior of a talker in the masks


@dataclass(frozen=True)
class Guide:
    """`Link.state` of guided masks.

    Attributes:
        seeds: (W, C, K), of every window.
        priors: (W, C, L), of each source in each frame of a window.
    """

    seeds: Tensor
    priors: Tensor


class GuidedClustering(DeepClustering):
    """Deep clustering guided by a timeline.

    Args:
        model: model whose network has an embedding head.
        timeline: who speaks when; its talkers are the sources. None to estimate it, with the voice
            network of the model. A recording of one window, and any recording without a voice
            network, is then clustered as a whole.
    """

    def __init__(self, model: Model, timeline: Timeline | None = None) -> None:
        super().__init__(model)
        self.given = timeline

    @property
    def hop(self) -> float:
        """Time between frames in s."""
        return self.stft.hop / self.sample_rate

    def link(self, analyses: Analyses, num_sources: int | None, most: int) -> Link:
        """Estimate who speaks when, unless it is given, and compute the seeds of the talkers."""
        windows = analyses.windows
        guided = self.given is not None or (windows.count > 1 and self._finds_talkers)
        if not guided:
            return super().link(analyses, num_sources, most)
        summaries = list(analyses.map(lambda *pair: self._summary(windows, *pair)))
        if self.given is not None:
            counts = None
            priors = activity = self.given.activity(self.hop, windows.frames).float()
        else:
            talkers = find_talkers(summaries, num_sources, most, self.hop)
            priors, activity, counts = talkers.priors, talkers.activity, talkers.counts
        guide = Guide(window_seeds(summaries, priors, self.hop), in_windows(priors, windows))
        return Link(len(priors), self.background, guide, activity=activity, talkers=counts)

    def masks(self, window: int, analysis: Analysis, link: Link) -> Tensor:
        """Estimate the masks of one window from its seeds and the priors of the talkers."""
        guide = link.state
        if not isinstance(guide, Guide):
            return super().masks(window, analysis, link)
        encoded, seeds = analysis[0][None], guide.seeds[window][None]
        logits = torch.cat(
            [self._of_bins(mask_logits, x, seeds) for x in self._embedded(encoded)], dim=2
        )[0]  # (C, l, F)
        masks = (logits + guide.priors[window].clamp_min(FLOOR).log().unsqueeze(-1)).softmax(0)
        if not self.background:
            return masks
        background = self._background(analysis[0])
        return torch.cat([masks * (1 - background), background[None]])

    @property
    def _finds_talkers(self) -> bool:
        """True if the model has all that `find_talkers` needs."""
        return self.model.voice is not None and self.model.network.heads.counts > 2

    def _summary(self, windows: Windows, window: int, analysis: Analysis) -> Summary:
        """Return voices, numbers of talkers and sums of embeddings of one window."""
        encoded, magnitude = analysis
        network, voice = self.model.network, self.model.voice
        chosen = own_multiples(windows, window, STRIDE)
        weights = self.weights(magnitude).view_as(magnitude)[chosen]
        weights = self._of_talkers(encoded[chosen], weights)
        embeddings = self.embed(encoded[chosen][None]).view(*weights.shape, -1)
        sums = (weights.unsqueeze(-1) * embeddings).sum(1)
        counts = torch.zeros(len(encoded), 0)
        vectors, clean = torch.zeros(0, 0), torch.zeros(0)
        if self.given is None:
            assert voice is not None
            device = network.mean.device
            counts = network.frame_counts(encoded[None].to(device))[0].softmax(-1).cpu()
            step, reach = (max(1, round(x / self.hop)) for x in (STEP, STRETCH / 2))
            centres = own_multiples(windows, window, step)
            near = stretch_weights(centres, len(magnitude), reach, counts[:, 1])
            levels, _ = voice.levels(magnitude[None][:0], magnitude)
            vectors = voice.pooled(levels, near[None])[0]
            clean = near.sum(0) / (near > 0).sum(0).clamp_min(1)
        own = owned(windows, window)
        return Summary(vectors, clean, counts[own], sums, weights.sum(1))


def in_windows(values: Tensor, windows: Windows) -> Tensor:
    """Cut values (C, L) of all frames into windows (W, C, l)."""
    return torch.stack([values[:, s : s + windows.length] for s in windows.starts])
