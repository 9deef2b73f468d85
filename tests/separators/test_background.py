"""A network with a background head: the background has its own mask and is never a source."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpcl.model import MaskSettings, Model, ModelSettings, NetworkSettings, build_network
from dpcl.networks.full_band import FullBandEmbedding
from dpcl.recordings.separate import LoadedSeparator, separate_recording
from dpcl.separators.deep_clustering import DeepClustering


@pytest.fixture
def separator() -> DeepClustering:
    chosen = ModelSettings.model_validate(
        {
            "signal": {"window": 64, "hop": 32, "level": "quantile"},
            "network": NetworkSettings(
                kind="full_band",
                layers=1,
                width=8,
                embedding=6,
                background=True,
                counts=4,
                frame=6,
                frame_units=5,
                band_units=3,
            ),
            "masks": MaskSettings(weighting="magnitude", sharpness=5.0),
        }
    )
    torch.manual_seed(0)
    return DeepClustering(Model(chosen, build_network(chosen).eval(), {}))


def recording(seconds: float, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(round(8000 * seconds), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seconds", [0.01, 1.0, 25.0])
@pytest.mark.parametrize("sources", [1, 2, 3])
def test_sources_and_background_sum_to_the_recording(
    separator: DeepClustering, seconds: float, sources: int
) -> None:
    x = recording(seconds)
    found = separate_recording(x, 8000, separator, sources)
    assert found.sources.shape == (sources, len(x))
    assert found.masks is not None
    assert len(found.masks) == sources
    assert found.background is not None
    torch.testing.assert_close(found.sources.sum(0) + found.background, x, rtol=0, atol=1e-5)


def test_the_background_is_shared_where_nobody_wants_it(separator: DeepClustering) -> None:
    x = recording(1.0)
    found = separate_recording(x, 8000, separator, 2, background=False)
    assert found.background is None
    torch.testing.assert_close(found.sources.sum(0), x, rtol=0, atol=1e-5)
    assert found.masks is not None
    torch.testing.assert_close(found.masks.sum(0), torch.ones_like(found.masks[0]))


def test_bins_that_are_surely_background_pull_no_centroid(separator: DeepClustering) -> None:
    network = separator.model.network
    assert isinstance(network, FullBandEmbedding)
    with torch.no_grad():
        network.background_head.bias.fill_(50.0)
    x = recording(1.0)
    found = separate_recording(x, 8000, separator, 2)
    assert found.background is not None
    torch.testing.assert_close(found.background, x, rtol=0, atol=1e-4)
    assert found.sources.abs().max() < 1e-4


def test_a_batch_has_a_background_each(separator: DeepClustering) -> None:
    found = LoadedSeparator(separator)(recording(1.0).view(2, -1), 2)
    assert found.background is not None
    assert found.background.shape == (2, 4000)


@pytest.fixture
def nobody(separator: DeepClustering) -> DeepClustering:
    """A separator that takes every sound for background."""
    network = separator.model.network
    assert isinstance(network, FullBandEmbedding)
    with torch.no_grad():
        network.background_head.bias.fill_(50.0)
    return separator


@pytest.mark.parametrize("seconds", [1.0, 25.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_without_a_talker_all_sound_is_background(
    nobody: DeepClustering, seconds: float, channels: int
) -> None:
    x = torch.stack([recording(seconds, seed) for seed in range(channels)])
    found = separate_recording(x, 8000, nobody)
    assert found.sources.shape == (0, channels, x.shape[1]) and found.names == ()
    assert found.background is not None
    torch.testing.assert_close(found.background, x, rtol=0, atol=1e-5)
    assert found.timeline is not None and found.timeline.talkers == ()


def test_without_a_talker_and_without_a_background_one_source_has_all(
    nobody: DeepClustering,
) -> None:
    x = recording(1.0)
    found = separate_recording(x, 8000, nobody, background=False)
    torch.testing.assert_close(found.sources, x[None], rtol=0, atol=1e-5)


def test_talkers_are_there_if_some_frames_are_theirs(separator: DeepClustering) -> None:
    network = separator.model.network
    assert isinstance(network, FullBandEmbedding)
    with torch.no_grad():
        network.background_head.bias.fill_(-50.0)
        network.count_head.leave.bias[0] = -50.0
    assert len(separate_recording(recording(0.3), 8000, separator).sources) > 0
    # The least time is LEAST_SPEECH.
    assert len(separate_recording(recording(0.05), 8000, separator).sources) == 0


def test_silence(separator: DeepClustering) -> None:
    found = separate_recording(torch.zeros(4000), 8000, separator)
    assert found.sources.isfinite().all()
    assert not found.sources.any()
