"""Models for masks that follow a timeline, for known voices, and for clusters alone."""

from __future__ import annotations

import pytest
import torch

from dpcl.model import MaskSettings, Model, ModelSettings, NetworkSettings, SignalSettings
from dpcl.model import build_network as build
from dpcl.networks.voice import VoiceEncoder
from dpcl.separators import guided
from dpcl.separators.deep_clustering import DeepClustering


@pytest.fixture(autouse=True)
def _noise_is_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings are noise, and the small network counts talkers at random."""
    monkeypatch.setattr(guided, "LEAST_OVERLAP", 1.0)
    monkeypatch.setattr(VoiceEncoder, "speech", lambda _, x: torch.full((len(x), x.shape[-1]), 9.0))


@pytest.fixture(scope="module")
def model() -> Model:
    """A small network with background and numbers of talkers, never trained."""
    settings = ModelSettings(
        signal=SignalSettings(window=512, hop=256, level="quantile"),
        network=NetworkSettings(
            kind="full_band", layers=1, width=8, embedding=6, activation="none", background=True,
            counts=4, frame=16, frame_units=8, band_units=4,
        ),
        masks=MaskSettings(weighting="magnitude", sharpness=5.0),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(settings).eval()
        network.background_head.bias.data.fill_(-2)  # mostly talkers
    network.mean.fill_(-3)
    network.std.fill_(2)
    return Model(settings, network, {})


@pytest.fixture(scope="module")
def plain(model: Model) -> DeepClustering:
    """Clustering with the same network, without voices."""
    return DeepClustering(model)
