"""Guided masks: a timeline says who is active, and embeddings separate only overlaps.

Where one talker is active, all bins are theirs, up to the background. Where several may be, every
bin goes to the nearest seed: the mean embedding of a talker's own bins nearby, in the frames in
which they speak alone. The timeline is given, or estimated from voices (dpcl.separators.talkers);
a head of the network gives the number of active talkers in every frame.

Source: guided source separation, Boeddeker et al. 2018, with embeddings in place of spatial models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.agglomerative import assign_names
from dpcl.model import Model
from dpcl.networks.voice import RATE, SECONDS, SPEECH_STEP, moments, shipped_voices
from dpcl.separators.base import Analyses, Analysis, Link, Timeline
from dpcl.separators.deep_clustering import LEAST_SPEECH, DeepClustering, evident_frames
from dpcl.separators.masks import mask_logits, raise_to_floor
from dpcl.separators.talkers import STEP, STRETCH, STRIDE, Summary, find_talkers, window_seeds
from dpcl.signal.band import bins_below
from dpcl.signal.stft import STFT, Windows, own_multiples, owned

LEAST_ALONE = 0.25  # share of one talker in speech; with less, the bins are clustered as a whole
LEAST_OVERLAP = 0.25  # share of several talkers; with more, and one voice in all, likewise
FLOOR = 1e-5  # least prior of a talker in the masks
BLOCK = 4  # frames whose encoded voices are summed
# Frames without speech within NEARBY s, of a probability below SURE, belong to the background.
NEARBY, SURE = 0.5, 0.05
LEAST_WEIGHT = 1e-2  # of a frame in a voice vector


@dataclass(frozen=True)
class Guide:
    """`Link.state` of guided masks.

    Attributes:
        seeds: (W, C, K), of every window.
        priors: (W, C, L), of each source in each frame of a window.
        spoken: (W, L), 1 where there may be speech nearby, and less where there is none.
    """

    seeds: Tensor
    priors: Tensor
    spoken: Tensor


class GuidedClustering(DeepClustering):
    """Deep clustering guided by a timeline.

    Args:
        model: model whose network has an embedding head and counts talkers, see `finds_talkers`.
        timeline: who speaks when; its talkers are the sources. None to estimate it from voices. A
            recording of one window is then clustered as a whole.
    """

    def __init__(self, model: Model, timeline: Timeline | None = None) -> None:
        super().__init__(model)
        self.given = timeline
        self.encodes = timeline is None  # the analyses hold encoded voices
        self.voices: Mapping[str, Tensor] | None = None  # None: no voice is compared
        ratio = RATE // self.sample_rate
        self.wide = STFT(self.stft.window * ratio, self.stft.hop * ratio)  # of the voices

    @property
    def knows_voices(self) -> bool:  # type: ignore[override]
        """True if sources get the names of known voices."""
        return bool(self.voices)

    def with_voices(self, voices: Mapping[str, Tensor]) -> GuidedClustering:
        """Return a separator that gives sources the names of known voices."""
        other = GuidedClustering(self.model, self.given)
        other.voices = voices
        return other

    def prepared(self, windows: int) -> GuidedClustering:
        """Return the same separator in its fastest form; one window needs no voices."""
        other = copy(super().prepared(windows))
        assert isinstance(other, GuidedClustering)
        other.encodes = self.given is None and (windows > 1 or self.voices is not None)
        return other

    @property
    def bins(self) -> int:
        """Number of bins of the voices, which may exceed those of the separation."""
        return self.wide.bins if self.encodes else self.stft.bins

    def analyse(self, spectra: Tensor) -> Analysis:
        """Encode the frames and the voices of windows.

        Returns:
            Encoded frames and magnitudes; with voices, also the probabilities (W, L, classes) of
            the number of talkers, and the moments (W, 1 + 2 * channels, n) of every BLOCK frames,
            weighted by the probability of one talker. To compare voices, also the spectra.
        """
        own = super().analyse(spectra[..., : self.stft.bins])
        if not self.encodes:
            return own
        network = self.model.network
        counts = network.frame_counts(own[0].to(network.mean.device)).softmax(-1).cpu()
        encoded = self._encode(spectra[:, 0], counts[..., 1].clamp_min(LEAST_WEIGHT))
        counts = self._of_speech(counts, encoded)
        single = counts[..., 1].clamp_min(LEAST_WEIGHT)
        weights = single[:, self._places(encoded)]  # (W, l)
        blocks = functional.one_hot(self._places(encoded) // BLOCK).to(encoded)  # (l, n)
        kept = (*own, counts, moments(encoded, weights.unsqueeze(-1) * blocks))
        if self.voices is None:
            return kept
        return (*kept, torch.view_as_real(spectra[:, 0].resolve_conj().contiguous()))

    def _encode(self, spectra: Tensor, weights: Tensor) -> Tensor:
        """Return encoded frames (N, channels, l) of spectra (N, L, F) with weights (N, L)."""
        samples = self.wide.inverse(spectra, (spectra.shape[1] - 1) * self.wide.hop)
        return shipped_voices().encode(samples, weights)

    def _of_speech(self, counts: Tensor, encoded: Tensor) -> Tensor:
        """Multiply the probabilities (W, L, classes) of talkers by the probability of speech."""
        speech = shipped_voices().speech(encoded).sigmoid()  # (W, n)
        places = (torch.arange(counts.shape[1]) * (self.hop / SECONDS / SPEECH_STEP)).round().long()
        talkers = counts[..., 1:] * speech[:, places.clamp_max(speech.shape[1] - 1), None]
        return torch.cat([1 - talkers.sum(-1, keepdim=True), talkers], -1)

    def _places(self, encoded: Tensor) -> Tensor:
        """Return the nearest frame (l,) of the STFT to every encoded frame."""
        return (torch.arange(encoded.shape[-1]) * (SECONDS / self.hop)).round().long()

    def voice(self, analyses: Analyses) -> tuple[Tensor, float]:
        """Return the voice vector (D,) of a recording of one talker, and its speech in s."""
        windows = analyses.windows
        summaries = list(analyses.map(lambda *pair: self._summary(windows, *pair)))
        vectors = torch.cat([x.vectors for x in summaries])
        clean = torch.cat([x.clean for x in summaries])
        audible = [x for x in summaries if float(x.masses.sum()) > 0]
        seconds = sum(float(x.counts[:, 1].sum()) for x in audible) * self.hop
        return functional.normalize(clean @ vectors, dim=-1), seconds

    @property
    def hop(self) -> float:
        """Time between frames in s."""
        return self.stft.hop / self.sample_rate

    def link(self, analyses: Analyses, num_sources: int | None, most: int) -> Link:
        """Estimate who speaks when, unless it is given, and compute the seeds of the talkers."""
        windows = analyses.windows
        if self.given is None and windows.count == 1:
            return self._clustered(analyses, num_sources, most)
        summaries = list(analyses.map(lambda *pair: self._summary(windows, *pair)))
        if self.given is not None:
            counts, known = None, {}
            priors = activity = self.given.activity(self.hop, windows.frames).float()
        else:
            counted = torch.cat([x.counts for x in summaries]).sum(0)  # (classes,)
            several = counted[2:].sum() > LEAST_OVERLAP * counted[1:].sum()
            estimated = find_talkers(summaries, None, most, self.hop) if several else None
            hidden = estimated is not None and len(estimated.priors) == 1
            speech = sum(float(x.evident) for x in summaries) * self.hop
            if num_sources is None and speech < LEAST_SPEECH:
                return Link(0, self.background)
            if hidden or counted[1] < LEAST_ALONE * counted[1:].sum():
                counts = torch.cat([x.counts for x in summaries])
                return replace(self._clustered(analyses, num_sources, most), talkers=counts)
            talkers = estimated
            if talkers is None or num_sources is not None:
                talkers = find_talkers(summaries, num_sources, most, self.hop)
            priors, activity, counts = talkers.priors, talkers.activity, talkers.counts
            known = assign_names(talkers.directions, self.voices) if self.voices else {}
        own, spoken = (
            torch.stack([x[..., s : s + windows.length] for s in windows.starts])
            for x in (priors, self._spoken(summaries))
        )
        guide = Guide(window_seeds(summaries, priors, self.hop), own, spoken)
        return Link(
            len(priors), self.background, guide, activity=activity, talkers=counts, known=known
        )

    def _spoken(self, summaries: Sequence[Summary]) -> Tensor:
        """Return 1 for frames near which there may be speech, and less for others: (L,)."""
        silent = torch.cat([x.counts[:, 0] for x in summaries])
        reach = round(NEARBY / self.hop)
        near = functional.max_pool1d(1 - silent[None, None], 2 * reach + 1, 1, reach)
        return (near[0, 0] / SURE).clamp_max(1)

    def _clustered(self, analyses: Analyses, num_sources: int | None, most: int) -> Link:
        """Cluster the bins of the recording as a whole, without a timeline."""
        link = super().link(analyses, num_sources, most)
        if not self.voices or not link.num_sources:
            return link
        return replace(link, known=assign_names(self._of_sources(analyses, link), self.voices))

    def _of_sources(self, analyses: Analyses, link: Link) -> Tensor:
        """Return the voice vectors (C, D) of the sources, from their masks."""

        def pooled(window: int, analysis: Analysis) -> Tensor:
            masks = self.masks(window, analysis, link)[: link.num_sources]  # (C, L, F)
            energy = (masks * analysis[1]).square().sum(-1)  # (C, L)
            weights = energy.sqrt() * energy / energy.sum(0).clamp_min(1e-9)
            top = masks[..., -masks.shape[-1] // 8 :].mean(-1, keepdim=True)
            above = top.expand(-1, -1, self.bins - masks.shape[-1])
            whole = torch.cat([masks, above], -1) * torch.view_as_complex(analysis[-1].float())
            encoded = self._encode(whole, weights)
            return moments(encoded, weights[:, self._places(encoded), None])

        sums = sum(analyses.map(pooled), torch.zeros(()))
        return shipped_voices().vectors(sums)[:, 0]

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
        masks = raise_to_floor(masks, logits.softmax(0), link.floor)
        if not self.background:
            return masks
        talkers = (1 - self._background(analysis[0])) * guide.spoken[window].unsqueeze(-1)
        return torch.cat([masks * talkers, 1 - talkers[None]])

    def _summary(self, windows: Windows, window: int, analysis: Analysis) -> Summary:
        """Return voices, numbers of talkers and sums of embeddings of one window."""
        encoded, magnitude = analysis[:2]
        chosen = own_multiples(windows, window, STRIDE)
        weights = self.weights(magnitude).view_as(magnitude)
        own = 1 - self._background(encoded) if self.background else torch.ones_like(magnitude)
        pulls = (weights * own)[chosen]
        embeddings = self.embed(encoded[chosen][None]).view(*pulls.shape, -1)
        sums = (pulls.unsqueeze(-1) * embeddings).sum(1)
        counts, vectors, clean = torch.zeros(len(encoded), 1), torch.zeros(0, 0), torch.zeros(0)
        if self.given is None:
            counts, blocks = analysis[2], analysis[3]
            step, reach = (max(1, round(x / self.hop)) for x in (STEP, STRETCH / 2))
            centres = own_multiples(windows, window, step)
            middles = torch.arange(blocks.shape[-1]) * BLOCK + (BLOCK - 1) / 2
            near = ((middles[:, None] - centres).abs() <= reach).to(blocks)  # (n, stretches)
            vectors = shipped_voices().vectors(blocks @ near)
            near = ((torch.arange(len(magnitude))[:, None] - centres).abs() <= reach).to(counts)
            clean = counts[:, 1].clamp_min(LEAST_WEIGHT) @ near / near.sum(0).clamp_min(1)
        evident = evident_frames(counts, magnitude, weights, own)
        own_counts = counts[owned(windows, window)]
        first = bins_below(self.sample_rate, self.stft.window)
        powers = magnitude[owned(windows, window), first:].square().sum(1)
        return Summary(vectors, clean, own_counts, sums, pulls.sum(1), evident, powers)


def finds_talkers(model: Model) -> bool:
    """Return True if a model can estimate who speaks when: its network counts them."""
    return model.network.heads.counts > 2 and RATE % model.settings.signal.sample_rate == 0
