"""Deep clustering of streams: the masks of a frame depend on that frame and on past frames only."""

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
from dpcl.signal.band import bins_below
from dpcl.signal.features import disturbed_frames, running_log_magnitude, weigh


@dataclass(frozen=True)
class StreamState:
    """State of a stream: everything that the masks of the next frames depend on."""

    clusters: OnlineClusters
    network: Any = None  # state of `encode_next`
    loudest: Tensor | None = None  # () natural log of the loudest bin so far


class OnlineDeepClustering(WindowSeparator):
    """Separator with a causal network, and centroids that follow the embeddings.

    It separates whole mixtures like any other separator, by the same rule frame by frame.
    dpcl.recordings.stream turns it into a stream.

    Args:
        model: model with a causal network and a running level.

    Raises:
        InputError: The network is not causal, or its level is not the running one.
    """

    window_seconds = math.inf  # the state runs from the first frame to the last

    def __init__(self, model: Model) -> None:
        settings = model.settings
        if not model.network.causal or settings.signal.level != "running":
            raise InputError(
                "the model is not causal, or has no running level, and cannot separate a stream;"
                " use `causal`"
            )
        self.model = model
        self.sample_rate = settings.signal.sample_rate
        self.stft = settings.signal.stft()
        self.first = bins_below(self.sample_rate, self.stft.window)  # first bin above 70 Hz

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Estimate the masks of a whole recording, frame by frame."""
        return self.step(spectrum.abs(), self.start(num_sources))[0]

    def start(self, num_sources: int) -> StreamState:
        """Return the state at the start of a stream."""
        return StreamState(
            start(num_sources, self.stft.bins, self.model.settings.network.embedding)
        )

    def step(self, magnitude: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Estimate the masks of the next frames.

        Args:
            magnitude: (L, F).
            state: state after the previous frames.

        Returns:
            Masks (C, L, F) that sum to one, even shares until the sources differ; and the new
            state.
        """
        settings = self.model.settings.masks
        with torch.no_grad():
            hop = self.stft.hop / self.sample_rate
            # Tones and clicks raise no level and move no centroid: they may come before a talker.
            speech = ~disturbed_frames(magnitude, self.first)
            features, loudest = running_log_magnitude(magnitude, hop, state.loudest, speech)
            features[..., : self.first] = self.model.network.mean.flatten()[: self.first]
            encoded, network = self.model.network.encode_next(features.float(), state.network)
            embeddings = self.model.network.embed(encoded[:, None])  # (L, F, K)
            # Levels are relative to the loudest bin so far, like the features; bin_weights would
            # look ahead.
            audible = features >= settings.floor_db / 20 * math.log(10)
            relative = torch.where(audible, features.exp(), torch.zeros_like(features))
            relative[..., : self.first] = 0
            relative[~speech & (relative.amax(-1) >= 1)] = 0
            weights = weigh(relative, settings.weighting)
            centroids, clusters = follow(embeddings, weights, state.clusters, hop)  # (L, C, K)
            masks = masks_from_centroids(embeddings, centroids, settings)  # (L, C, F)
            found = centroids.any(-1).any(-1)  # (L,)
            masks = torch.where(found[:, None, None], masks, 1 / centroids.shape[1])
            masks[..., : self.first] = 1 / centroids.shape[1]  # no mask modulates rumble
        return masks.transpose(0, 1), StreamState(clusters, network, loudest)
