"""Deep clustering that waits for nothing: masks of a frame from that frame and those before it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpcl.clustering.online import OnlineClusters, follow, start
from dpcl.errors import InputError
from dpcl.model import Model
from dpcl.separators.limits import check_mixture
from dpcl.separators.masks import nearest_masks
from dpcl.separators.separation import Separation
from dpcl.signal.bins import weigh
from dpcl.signal.features import running_log_magnitude


@dataclass(frozen=True)
class Heard:
    """All that the masks of the next frames hang on."""

    clusters: OnlineClusters
    network: Any = None  # the state of its hear_on
    loudest: Tensor | None = None  # () natural log of the loudest bin so far


class OnlineDeepClustering:
    """A network that hears forward in time only, and centroids that follow what it hears.

    A separator as any other for whole mixtures; `masks` is the same rule frame by frame, and
    dpcl.recordings.stream makes a stream of it.
    Raises InputError for a network that hears backwards too, or relative to the whole mixture.
    """

    def __init__(self, model: Model) -> None:
        settings = model.settings
        if not model.network.causal or settings.signal.level != "running":
            raise InputError(
                "the model needs the whole recording before it can begin, so it cannot follow a"
                " stream; give a causal one with a running level, such as `causal`"
            )
        self.model = model
        self.sample_rate = settings.signal.sample_rate
        self.stft = settings.signal.stft()

    def __call__(self, mixture: Tensor, num_sources: int | None = None) -> Separation:
        """mixture (..., T) at self.sample_rate -> its sources; two if it is left to us.

        Raises InputError where there are no samples or not all of them are finite.
        """
        check_mixture(mixture)
        count = 2 if num_sources is None else num_sources
        spectra = self.stft(mixture.reshape(-1, mixture.shape[-1]))  # (B, L, F)
        masks = torch.stack([self.masks(s.abs(), self.silence(count))[0] for s in spectra])
        sources = self.stft.inverse(masks * spectra[:, None], mixture.shape[-1])  # (B, C, T)
        lead = mixture.shape[:-1]
        return Separation(
            sources.view(*lead, *sources.shape[1:]), masks.view(*lead, *masks.shape[1:])
        )

    def silence(self, num_sources: int) -> Heard:
        """The state before anything was heard."""
        return Heard(start(num_sources, self.stft.bins, self.model.settings.network.embedding))

    def masks(self, magnitude: Tensor, heard: Heard) -> tuple[Tensor, Heard]:
        """magnitude (L, F) of the next frames -> masks (C, L, F) that add up to one; new state.

        Until there was enough to tell sources apart, all have the same share.
        """
        settings = self.model.settings.masks
        with torch.no_grad():
            hop = self.stft.hop / self.sample_rate
            features, loudest = running_log_magnitude(magnitude, hop, heard.loudest)
            hidden, network = self.model.network.hear_on(features.float(), heard.network)
            embeddings = self.model.network.embed(hidden[:, None])  # (L, F, K)
            # Relative to the loudest so far, as the features are: bin_weights would look ahead.
            audible = features >= settings.floor_db / 20 * math.log(10)
            relative = torch.where(audible, features.exp(), torch.zeros_like(features))
            weights = weigh(relative, settings.weighting)
            centroids, clusters = follow(embeddings, weights, heard.clusters, hop)  # (L, C, K)
            masks = nearest_masks(embeddings, centroids, settings)  # (L, C, F)
            known = centroids.any(-1).any(-1)  # (L,)
            masks = torch.where(known[:, None, None], masks, 1 / centroids.shape[1])
        return masks.transpose(0, 1), Heard(clusters, network, loudest)
