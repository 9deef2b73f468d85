"""The full-band trunk: every head has its shape, and a frame sees the whole recording."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpcl.model import ModelSettings, NetworkSettings, build_network
from dpcl.networks.base import Heads
from dpcl.networks.full_band import FullBandEmbedding, Sizes

HEADS = Heads(embedding=6, background=True, counts=4)


@pytest.fixture
def network() -> FullBandEmbedding:
    torch.manual_seed(0)
    return FullBandEmbedding(21, 2, 8, HEADS, sizes=Sizes(12, 10, 4)).eval()


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 17])
def test_heads_have_their_shapes(network: FullBandEmbedding, frames: int) -> None:
    encoded = network.encode(torch.randn(3, frames, 21))
    embeddings = network.embed(encoded)
    assert embeddings.shape == (3, frames * 21, 6)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3, frames * 21))
    assert network.background(encoded).shape == (3, frames * 21)
    assert network.frame_counts(encoded).shape == (3, frames, 4)


@torch.no_grad()
def test_items_of_a_batch_do_not_mix(network: FullBandEmbedding) -> None:
    features = torch.randn(2, 9, 21)
    whole = network.embed(network.encode(features))
    single = network.embed(network.encode(features[1:]))
    torch.testing.assert_close(whole[1:], single)


def test_every_bin_reaches_every_embedding(network: FullBandEmbedding) -> None:
    features = torch.randn(1, 12, 21, requires_grad=True)
    embeddings = network.embed(network.encode(features)).view(12, 21, 6)
    (embeddings[0, 0] * torch.randn(6)).sum().backward()
    reached: Tensor = features.grad.abs().sum(0) > 0  # type: ignore[union-attr]
    assert reached.all()


def test_parts_of_an_encoding_are_embedded_alike(network: FullBandEmbedding) -> None:
    """The driver embeds blocks of frames: heads of bins look at one frame each."""
    with torch.no_grad():
        encoded = network.encode(torch.randn(1, 10, 21))
        whole = network.embed(encoded).view(10, 21, 6)
        part = network.embed(encoded[:, 4:7]).view(3, 21, 6)
    torch.testing.assert_close(whole[4:7], part)


@torch.no_grad()
def test_faster_precisions_stay_close(network: FullBandEmbedding) -> None:
    features = torch.randn(2, 30, 21)
    exact = network.embed(network.encode(features))
    for other in (network.in_bfloat16(), network.in_int8()):
        found = other.embed(other.encode(features))
        assert (exact * found).sum(-1).mean() > 0.98  # cosine
        assert other.background(other.encode(features)).isfinite().all()


@pytest.mark.parametrize(
    "changes", [{"masks": 2}, {"anchors": 4}, {"unfolded": {}}, {"kind": "blstm", "counts": 3}]
)
def test_heads_that_it_lacks_are_refused(changes: dict[str, object]) -> None:
    sizes: dict[str, object] = {"kind": "full_band", "layers": 1, "width": 8, "embedding": 4}
    with pytest.raises(ValueError, match="full_band"):
        NetworkSettings.model_validate(sizes | changes)


def test_settings_build_it() -> None:
    settings = ModelSettings(
        network=NetworkSettings(
            kind="full_band", layers=1, width=8, embedding=4, frame=6, frame_units=5, band_units=3
        )
    )
    network = build_network(settings)
    assert isinstance(network, FullBandEmbedding)
