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
from dpcl.separators.base import WindowSeparator
from dpcl.separators.masks import masks_from_centroids
from dpcl.signal.bins import weigh
from dpcl.signal.features import running_log_magnitude


@dataclass(frozen=True)
class StreamState:
    """All that the masks of the next frames depend on."""

    clusters: OnlineClusters
    network: Any = None  # the state of its encode_next
    loudest: Tensor | None = None  # () natural log of the loudest bin so far


class OnlineDeepClustering(WindowSeparator):
    """A network that hears forward in time only, and centroids that follow what it hears.

    A separator as any other for whole mixtures; `masks` is the same rule frame by frame, and
    dpcl.recordings.stream makes a stream of it.
    Raises InputError for a network that hears backwards too, or relative to the whole mixture.
    """

    window_seconds = math.inf  # the state runs from the first frame to the last

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

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Estimate the masks of a whole recording, frame by frame."""
        return self.step(spectrum.abs(), self.start(num_sources))[0]

    def start(self, num_sources: int) -> StreamState:
        """Return the state before the first frame."""
        return StreamState(
            start(num_sources, self.stft.bins, self.model.settings.network.embedding)
        )

    def step(self, magnitude: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Estimate the masks of the next frames.

        Args:
            magnitude: (L, F).
            state: after the frames before.

        Returns:
            Masks (C, L, F) that sum to one, equal ones until the sources differ; the new state.
        """
        settings = self.model.settings.masks
        with torch.no_grad():
            hop = self.stft.hop / self.sample_rate
            features, loudest = running_log_magnitude(magnitude, hop, state.loudest)
            hidden, network = self.model.network.encode_next(features.float(), state.network)
            embeddings = self.model.network.embed(hidden[:, None])  # (L, F, K)
            # Relative to the loudest so far, as the features are: bin_weights would look ahead.
            audible = features >= settings.floor_db / 20 * math.log(10)
            relative = torch.where(audible, features.exp(), torch.zeros_like(features))
            weights = weigh(relative, settings.weighting)
            centroids, clusters = follow(embeddings, weights, state.clusters, hop)  # (L, C, K)
            masks = masks_from_centroids(embeddings, centroids, settings)  # (L, C, F)
            known = centroids.any(-1).any(-1)  # (L,)
            masks = torch.where(known[:, None, None], masks, 1 / centroids.shape[1])
        return masks.transpose(0, 1), StreamState(clusters, network, loudest)
