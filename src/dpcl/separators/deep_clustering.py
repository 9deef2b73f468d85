"""Deep clustering: embed every STFT bin, cluster the embeddings, apply the masks to the mixture.

Networks with a mask head beside the embeddings run here too; `MaskSettings.head` chooses the masks.
A network without embeddings is a `MaskNetwork`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.count import confidence_cues, count_sources, estimate_si_sdr, frame_cues
from dpcl.clustering.kmeans import kmeans
from dpcl.errors import InputError
from dpcl.model import MaskSettings, Model
from dpcl.networks.activity import SOFT, STRIDE, VOICE_STRIDE, Voices, cluster_cues
from dpcl.networks.base import input_dtype
from dpcl.networks.precision import fastest
from dpcl.objectives.attractor import anchored_attractors
from dpcl.separators.base import Analyses, Analysis, Link, Separator, WindowSeparator
from dpcl.separators.masks import (
    STRETCH,
    Sample,
    Sampling,
    active_masks,
    gate,
    geometric_mean,
    join_samples,
    mask_logits,
    masks_from_centroids,
    match_order,
    solo_centroids,
)
from dpcl.signal.band import bins_below
from dpcl.signal.features import (
    FLOOR,
    LOUD,
    bin_weights,
    first_bin,
    level_weights,
    loud_level,
    without_disturbances,
)

# Frames embedded at a time. Their embeddings fit into a processor's cache, which is a third faster
# than a whole window. A multiple of the strides of the activity and voice networks.
FRAMES = 160
FEW = 5  # largest number of windows for which conversion to a faster precision does not pay
# Largest number of windows in one call of the network. 20 windows in float32 take 1.25 GB for an
# hour. In bfloat16 they take half of that, and with only 8 windows an LSTM takes up to twice the
# time.
BATCH, BATCH_BFLOAT16 = 12, 20
BATCH_PER_BIN = 4  # the same limit for a network that keeps values of every bin: they are many
REACH = 3.0  # s on each side of a frame that decide if a source is active in it
# Smoothing and sharpening of activity: masks use the mean of its log odds within STEADY s,
# multiplied by DECIDED. On conversations of `valid` this gains 0.5 to 1.1 dB SI-SDRi.
STEADY = 0.5
DECIDED = 2.0
# Share of the power of a frame that is not background, and s of such frames, that show a talker.
# A word of 0.6 s in noise of 0 dB has 0.3 s; noise, most music and most sounds have less than
# 0.1 s.
EVIDENT, LEAST_SPEECH = 0.6, 0.2

Finish = Callable[[Tensor, Tensor, MaskSettings], Tensor]


@dataclass(frozen=True)
class Clusters:
    """`Link.state` of deep clustering: the values that the masks of a recording need.

    Attributes:
        centroids: (C, K).
        several: the recording has more than one window, so that sources become active and inactive.
        odds: log odds (C, l) that each source is active, for every window; None without an activity
            network. With log odds, the analyses hold mask logits instead of encoded frames.
    """

    centroids: Tensor
    several: bool
    odds: list[Tensor] | None = None


@dataclass(frozen=True)
class FrameFacts:
    """Facts of a recording from the heads of a network that predict talkers and background.

    Attributes:
        cues: of the number of sources.
        speech: time in which talkers evidently speak, s.
    """

    cues: Tensor
    speech: float


class DeepClustering(Separator):
    """Separator that clusters the embeddings of a trained network.

    One k-means serves the whole recording. The analysis of a window holds its encoded frames (L, H)
    and its magnitudes (L, F).

    Args:
        model: model whose network has an embedding head.

    Source: Hershey et al. 2016, section 3.3; soft masks as in Isik et al. 2016 (soft k-means),
    whose alpha is half our sharpness.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.sample_rate = model.settings.signal.sample_rate
        self.stft = model.settings.signal.stft()
        # A network for sounds of any kind separates engines and drums below 70 Hz too.
        self.low_apart = model.settings.signal.level != "whole" or model.activity is not None

    @property
    def windows_at_once(self) -> int:
        """Largest number of windows in one call of the network."""
        if self.model.network.per_bin:
            return BATCH_PER_BIN
        bfloat16 = input_dtype(self.model.network) == torch.bfloat16
        return BATCH_BFLOAT16 if bfloat16 else BATCH

    def prepared(self, windows: int) -> DeepClustering:
        """Return the same separator in the precision that is fastest on this processor."""
        if windows <= FEW or self.model.network.mean.device.type != "cpu":
            return self
        return self._fast

    @cached_property
    def _fast(self) -> DeepClustering:
        precision = fastest(self.model.network.integers)
        if precision == "float32":
            return self
        other, network = copy(self), self.model.network
        network = network.in_int8() if precision == "int8" else network.in_bfloat16()
        other.model = replace(self.model, network=network)
        return other

    def analyse(self, spectra: Tensor) -> Analysis:
        """Encode the frames of windows (W, 1, L, F): frames (W, L, H), magnitudes (W, L, F).

        Tones, clicks and claps that are far louder than the talkers are muted in the input of a
        network for talkers. If all bins below 70 Hz are zero, the driver has removed them;
        they get the mean of the training.
        """
        magnitudes = spectra.abs().mean(1)  # (W, L, F)
        network, signal = self.model.network, self.model.settings.signal
        first = bins_below(signal.sample_rate, signal.window)
        edge = signal.window // signal.hop - 1
        if signal.level == "quantile":
            magnitudes = without_disturbances(magnitudes, first, LOUD, edge)
        elif signal.level == "whole" and self.low_apart:  # no network for sounds of any kind
            magnitudes = without_disturbances(magnitudes, first, edge=edge)
        features = self._features(magnitudes)
        removed = (magnitudes[..., :first] == 0).all(-1).all(-1)  # (W,)
        if removed.any():
            features[removed, :, :first] = network.mean.to(features).flatten()[:first]
        return network.encode(features.to(network.mean.device)).cpu(), magnitudes

    def link(self, analyses: Analyses, num_sources: int | None, most: int) -> Link:
        """Estimate the number of sources, cluster a sample of all windows, detect activity.

        The number is 0 if a network with a background head finds no talker.
        """
        windows = analyses.windows
        facts = self._frame_facts(analyses) if num_sources is None else None
        if facts is not None and facts.speech < LEAST_SPEECH:
            return Link(0, self.background)
        hops = self.sample_rate / self.stft.hop  # frames per second
        sampling = Sampling(windows, self.stft.bins, max(1, round(STRETCH * hops)))

        def sampled(window: int, analysis: Analysis) -> Sample:
            encoded, magnitude = analysis[:2]
            weights = self.weights(magnitude).view_as(magnitude)
            return sampling.sample(
                window, encoded, magnitude, self._of_talkers(encoded, weights), self.embed
            )

        size = self.model.settings.network.embedding
        points, weights, frames = join_samples(list(analyses.map(sampled)), size)
        count = num_sources
        if count is None:
            count = self.count(points, weights, frames, most, facts.cues if facts else None)
        several = windows.count > 1
        stretches = sampling.stretches(frames) if several else None
        centroids = self.centroids(points, count, weights, stretches)
        odds = None
        if several and count > 1 and self.model.activity is not None and self.soft:
            odds = self._activity(analyses, centroids)
        confidence = self.confidence(points, weights, centroids)
        return Link(count, self.background, Clusters(centroids, several, odds), confidence)

    def masks(self, window: int, analysis: Analysis, link: Link) -> Tensor:
        """Estimate the masks of one window from its distances to the centroids.

        Returns:
            (C, L, F), or (C + 1, L, F) for a network with a background head, the background last.
        """
        if not link.num_sources:
            return torch.ones(1, *analysis[1].shape)
        clusters: Clusters = link.state
        if clusters.odds is not None:
            masks = self._gated(analysis[0], clusters.odds[window], link.floor)
            background = analysis[-1]
        else:
            masks = self._own_masks(analysis, clusters, link.floor)
            background = self._background(analysis[0]) if self.background else masks[0]
        if not self.background:
            return masks
        return torch.cat([masks * (1 - background), background[None]])

    def _own_masks(self, analysis: Analysis, clusters: Clusters, floor: float) -> Tensor:
        """Estimate masks (C, L, F) of one window, without the background."""
        encoded, magnitude = analysis[0][None], analysis[1][None]
        centroids = clusters.centroids[None]
        if clusters.several and self.soft:  # in one window of 10 s most sources are active
            reach = round(REACH * self.sample_rate / self.stft.hop)
            logits = self._logits(encoded, magnitude, centroids)
            return active_masks(logits, self.audible(magnitude), reach, floor)[0]
        if self.model.settings.masks.head != "embedding":
            return self._joined(encoded, magnitude, centroids)[0]
        blocks = self._embedded(encoded)
        return torch.cat(
            [self._of_bins(masks_from_centroids, x, centroids) for x in blocks], dim=2
        )[0]

    def embeddings(self, analysis: Analysis) -> Tensor | None:
        """Return the embeddings (L, F, K) of one window; None where its analysis was replaced."""
        if len(analysis) < 2:
            return None
        encoded = analysis[0]
        return self.embed(encoded[None]).view(len(encoded), self.stft.bins, -1)

    def embed(self, encoded: Tensor) -> Tensor:
        """Return the embeddings (W, L*F, K) of encoded frames (W, L, H)."""
        network = self.model.network
        return network.embed(encoded.to(network.mean.device)).cpu()

    def weights(self, magnitude: Tensor) -> Tensor:
        """Return the weights (..., L*F) in the clustering of the bins of magnitudes (..., L, F)."""
        settings, signal = self.model.settings.masks, self.model.settings.signal
        if signal.level == "quantile":
            first = first_bin(signal.sample_rate, signal.window)
            level = loud_level(magnitude, first)
            return level_weights(magnitude, level, first, settings.floor_db)
        return bin_weights(magnitude, settings.weighting, settings.floor_db)

    def audible(self, magnitude: Tensor) -> Tensor:
        """Return 1 for the bins of a magnitude (..., L, F) that have weight, 0 for the others."""
        return (self.weights(magnitude) > 0).view_as(magnitude).to(magnitude.dtype)

    def count(
        self,
        points: Tensor,
        weights: Tensor,
        frames: Tensor,
        most: int,
        more: Tensor | None = None,
    ) -> int:
        """Estimate the number of sources; 2 for a model without a counter.

        Args:
            points: embeddings (N, K).
            weights: (N,).
            frames: (N,), frame of each embedding.
            most: upper limit of the number.
            more: cues of the frame-wise head; None without that head.

        Returns:
            The number of sources, at most `most`.
        """
        settings = self.model.settings.count
        if settings is None:
            return min(2, most)
        rows = settings.hidden, settings.output
        return count_sources(points, weights, frames, *rows, most, more).number

    def confidence(
        self, points: Tensor, weights: Tensor, centroids: Tensor
    ) -> tuple[float, ...] | None:
        """Estimate the SI-SDR of each source.

        Args:
            points: embeddings (N, K).
            weights: (N,).
            centroids: (C, K).

        Returns:
            SI-SDR in dB, one per source; None for silence, and for a model without the estimate.
        """
        settings = self.model.settings.confidence
        if settings is None or not bool((weights > 0).any()):
            return None
        found = confidence_cues(points, weights, centroids)
        return tuple(estimate_si_sdr(found, settings.coefficients))

    def centroids(
        self,
        embeddings: Tensor,
        num_sources: int,
        weights: Tensor,
        stretches: Tensor | None = None,
    ) -> Tensor:
        """Cluster embeddings into centroids.

        Args:
            embeddings: ([B,] N, K).
            num_sources: number of sources C.
            weights: ([B,] N).
            stretches: (N,), stretch of time of each embedding of one long recording. k-means may
                then prefer stretches with one source alone (see `solo_centroids`).

        Returns:
            Centroids ([B,] C, K).
        """
        if self.model.settings.masks.centroids == "kmeans":
            if stretches is not None:
                whitening = self._whitening(embeddings)
                return solo_centroids(embeddings, weights, stretches, num_sources, whitening)
            return kmeans(embeddings, num_sources, weights).centroids
        anchors = self.model.network.anchors.to(embeddings.device)
        if embeddings.ndim == 2:
            return anchored_attractors(embeddings[None], anchors, num_sources, weights[None])[0]
        return anchored_attractors(embeddings, anchors, num_sources, weights)

    @property
    def background(self) -> bool:
        """True if the background has a mask of its own."""
        return self.model.network.heads.background

    def _of_talkers(self, encoded: Tensor, weights: Tensor) -> Tensor:
        """Return weights (L, F) without the share that is likely background."""
        return weights * (1 - self._background(encoded)) if self.background else weights

    def _frame_facts(self, analyses: Analyses) -> FrameFacts | None:
        """Return the facts that heads of frames and bins give, None without these heads."""
        network = self.model.network
        if not (self.background and network.heads.counts):
            return None

        def window_facts(window: int, analysis: Analysis) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            encoded, magnitude = analysis[:2]
            counts = network.frame_counts(encoded[None].to(network.mean.device))[0].softmax(-1)
            weights = self.weights(magnitude).view_as(magnitude)
            own = 1 - self._background(encoded)
            evident = evident_frames(counts.cpu(), magnitude, weights, own)
            return counts.cpu(), weights.sum(), (weights * own).sum(), evident

        found = zip(*analyses.map(window_facts), strict=True)
        probabilities, total, kept, evident = (
            torch.cat([x.unsqueeze(0) for x in y]) for y in found
        )
        share = 1 - kept.sum() / total.sum().clamp_min(1e-9)
        cues = frame_cues(probabilities.flatten(0, 1), share)
        return FrameFacts(cues, float(evident.sum()) * self.stft.hop / self.sample_rate)

    def _background(self, encoded: Tensor) -> Tensor:
        """Predict the probability (L, F) that the background dominates a bin."""
        network = self.model.network
        odds = network.background(encoded[None].to(network.mean.device))
        return odds.view(len(encoded), -1).sigmoid().cpu()

    @property
    def soft(self) -> bool:
        """True if sources share bins."""
        settings = self.model.settings.masks
        return settings.sharpness is not None or settings.head == "masks"

    def _activity(self, analyses: Analyses, centroids: Tensor) -> list[Tensor]:
        """Predict log odds (C, l) for every window; its analysis becomes mask logits (C, L, F)."""
        activity = self.model.activity
        assert activity is not None
        cues: list[Tensor] = []
        voices: list[Voices] = []
        found = analyses.replace(lambda _, analysis: self._talkers(analysis, centroids))
        for window_cues, voice in found:
            cues.append(window_cues)
            voices.append(voice)
        return activity.detect_activity(cues, voices, analyses.each)

    def _talkers(
        self, analysis: Analysis, centroids: Tensor
    ) -> tuple[Analysis, tuple[Tensor, Voices]]:
        """Return mask logits of one window, and its cues and voices for the activity network."""
        encoded, magnitude = analysis[:2]
        assert self.model.activity is not None
        whitening = self._whitening(centroids)
        if whitening is None:
            whitening = torch.eye(centroids.shape[-1]).to(centroids)
        logits, strided = [], []
        for block in self._embedded(encoded[None]):
            logits.append(self._of_bins(mask_logits, block, centroids[None])[0])
            strided.append(block[0, ::VOICE_STRIDE])
        embeddings = torch.cat(strided)  # (l', F, K)
        every = STRIDE // VOICE_STRIDE
        audible = self.audible(magnitude)[::STRIDE]
        cues = cluster_cues(embeddings[::every], audible, centroids, whitening)
        masks = (SOFT * functional.normalize(centroids, dim=-1) @ embeddings.mT).softmax(1)
        voice = self.model.activity.voice
        levels, loudness = voice.levels(masks.transpose(0, 1), magnitude[::VOICE_STRIDE])
        if self.model.settings.masks.head == "embedding":
            own = torch.cat(logits, 1)
        else:
            own = self._logits(encoded[None], magnitude[None], centroids[None])[0]
        kept = (own, self._background(encoded)) if self.background else (own,)
        return kept, (cues, Voices(voice(levels), loudness))

    def _gated(self, logits: Tensor, odds: Tensor, floor: float) -> Tensor:
        """Return masks of logits (C, L, F) without the sources inactive by log odds (C, l)."""
        around = round(STEADY * self.sample_rate / (self.stft.hop * STRIDE))
        odds = functional.pad(odds, (around, around), mode="replicate")
        steady = functional.avg_pool1d(odds, 2 * around + 1, 1)
        return gate(logits, functional.logsigmoid(DECIDED * steady), STRIDE, floor)

    def _whitening(self, like: Tensor) -> Tensor | None:
        """Return the model's whitening (K, K) in the type and on the device of `like`, or None."""
        rows = self.model.settings.whitening
        return None if rows is None else like.new_tensor(rows)

    def _logits(self, encoded: Tensor, magnitude: Tensor, centroids: Tensor) -> Tensor:
        """Return the log of masks (B, C, L, F), up to a constant of each bin."""
        if self.model.settings.masks.head != "embedding":
            return self._joined(encoded, magnitude, centroids).clamp_min(FLOOR).log()
        blocks = self._embedded(encoded)
        return torch.cat([self._of_bins(mask_logits, x, centroids) for x in blocks], dim=2)

    def _embedded(self, encoded: Tensor) -> Iterator[Tensor]:
        """Yield embeddings (B, l, F, K) of FRAMES frames at a time; the last block is shorter."""
        for frames in torch.split(encoded, FRAMES, 1):
            yield self.embed(frames).view(*frames.shape[:2], self.stft.bins, -1)

    def _of_bins(self, finish: Finish, embeddings: Tensor, centroids: Tensor) -> Tensor:
        """Apply `finish` to embeddings (B, l, F, K) and centroids (B, C, K): (B, C, l, F)."""
        found = finish(embeddings.flatten(1, 2), centroids, self.model.settings.masks)
        return found.view(*found.shape[:2], *embeddings.shape[1:3])

    def _joined(self, encoded: Tensor, magnitude: Tensor, centroids: Tensor) -> Tensor:
        """Return masks (B, C, L, F) of the head, of the clusters, or of both.

        Masks of the head follow the order of the centroids, which serve all windows.
        """
        network, settings, num_sources = (
            self.model.network,
            self.model.settings.masks,
            centroids.shape[1],
        )
        embeddings = self.embed(encoded)
        masks = masks_from_centroids(embeddings, centroids, settings)
        masks = masks.view(*masks.shape[:2], encoded.shape[1], -1)
        if settings.head == "embedding" or not network.gives_masks(num_sources):
            return masks
        device = network.mean.device
        given = (x.to(device) for x in (self._features(magnitude), embeddings, centroids))
        inferred = network.infer_masks(encoded.to(device), num_sources, *given).cpu()
        own = match_order(inferred, masks)
        return own if settings.head == "masks" else geometric_mean(own, masks)

    def _features(self, spectrum: Tensor) -> Tensor:
        """Compute the network's features of a spectrum, in float32."""
        return self.model.settings.signal.features(spectrum).float()


def evident_frames(counts: Tensor, magnitude: Tensor, weights: Tensor, own: Tensor) -> Tensor:
    """Return the number () of frames of a window in which talkers evidently speak.

    Args:
        counts: (L, classes), probabilities of 0, 1, 2, … talkers.
        magnitude: (L, F).
        weights: (L, F), of the bins.
        own: (L, F), probability that a bin is of talkers.
    """
    power, spoken = (x.square().sum(1) for x in (magnitude, magnitude * own))
    return ((spoken > EVIDENT * power) & (counts[:, 0] < 0.5) & weights.any(1)).sum()


class MaskNetwork(WindowSeparator):
    """Separator with a trained mask network without embeddings, such as uPIT.

    Args:
        model: model whose network has a mask head; it fixes the number of sources.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.sample_rate = model.settings.signal.sample_rate
        self.stft = model.settings.signal.stft()
        self.default_sources = model.network.heads.masks

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Estimate the masks (C, L, F) of one window with the network's mask head.

        Raises:
            InputError: The mask head has another number of sources.
        """
        network = self.model.network
        if not network.gives_masks(num_sources):
            raise InputError(
                f"the network has masks of {network.heads.masks} sources, not of {num_sources};"
                " choose a --model with embeddings, which separates any number"
            )
        features = self.model.settings.signal.features(spectrum[None]).float()
        encoded = network.encode(features.to(network.mean.device))
        return network.infer_masks(encoded, num_sources)[0].cpu()
