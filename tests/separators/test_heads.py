"""Networks with a mask head, alone or beside embeddings, as separators."""

from __future__ import annotations

import pytest
import torch

from dpcl.errors import InputError
from dpcl.model import MaskSettings, Model, ModelSettings, NetworkSettings, build_network
from dpcl.recordings.separate import LoadedSeparator
from dpcl.separators.deep_clustering import DeepClustering, MaskNetwork
from dpcl.separators.masks import geometric_mean, masks_from_centroids, match_order, solo_centroids
from dpcl.separators.registry import separator_of


def separator(network: dict[str, object], **masks: object) -> LoadedSeparator:
    return LoadedSeparator(separator_of(model_of(network, **masks)))


def model_of(network: dict[str, object], **masks: object) -> Model:
    """Return a small network that was never trained."""
    settings = ModelSettings(
        network=NetworkSettings.model_validate({"layers": 1, "width": 8, **network}),
        masks=MaskSettings.model_validate({"sharpness": 5.0, **masks}),
    )
    torch.manual_seed(0)
    return Model(settings, build_network(settings).eval(), {})


def test_masks_come_in_the_order_of_the_clusters() -> None:
    clustered = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).float()
    shuffled = torch.stack([clustered[[2, 0, 1]], clustered[[1, 2, 0]]])
    ordered = match_order(shuffled, clustered.expand(2, -1, -1))
    assert torch.equal(ordered, clustered.expand(2, -1, -1))


def test_bins_in_which_nobody_is_sure_do_not_decide_the_order() -> None:
    """Nine bins of 0.6 to 0.4 one way, which clusters call even; two sure ones the other way."""
    ours = torch.tensor([[0.6] * 9 + [0.05, 0.95], [0.4] * 9 + [0.95, 0.05]])[None]
    clustered = torch.tensor([[0.5] * 9 + [0.9, 0.1], [0.5] * 9 + [0.1, 0.9]])[None]
    assert torch.equal(match_order(ours, clustered), ours.flip(1))


def test_both_is_the_geometric_mean() -> None:
    ours, clustered = torch.tensor([[[0.8], [0.2]]]), torch.tensor([[[0.5], [0.5]]])
    expected = torch.tensor([[[2 / 3], [1 / 3]]])  # √0.4 : √0.1
    torch.testing.assert_close(geometric_mean(ours, clustered), expected)


@pytest.mark.parametrize("head", ["embedding", "masks", "both"])
def test_either_head_gives_masks_that_add_up(head: str) -> None:
    mixture = torch.randn(3, 4000)
    separation = separator({"embedding": 5, "masks": 2}, head=head)(mixture, 2)
    assert separation.masks is not None
    torch.testing.assert_close(separation.masks.sum(1), torch.ones_like(separation.masks[:, 0]))
    torch.testing.assert_close(separation.sources.sum(1), mixture, atol=1e-5, rtol=0)


def test_the_heads_masks_are_taken_as_they_are_but_for_their_order() -> None:
    chosen = model_of({"embedding": 5, "masks": 2}, head="masks")
    mixture = torch.randn(4000)
    mixture /= mixture.abs().max()  # full scale, as recordings are analysed
    features = chosen.settings.signal.features(chosen.settings.signal.stft()(mixture[None]))
    own = chosen.network(features).masks.detach()[0]  # (C, L, F)
    found = LoadedSeparator(DeepClustering(chosen))(mixture, 2).masks
    assert found is not None
    assert torch.allclose(found, own) or torch.allclose(found, own.flip(0))


def test_for_another_number_than_the_heads_the_embeddings_serve() -> None:
    mixture = torch.randn(4000)
    with_head = separator({"embedding": 5, "masks": 2}, head="masks")
    assert with_head(mixture, 3).sources.shape == (3, 4000)
    alone = separator({"embedding": 0, "masks": 2}, head="masks")
    assert alone(mixture).sources.shape == (2, 4000)
    assert alone(mixture).embeddings is None
    assert isinstance(alone.separator, MaskNetwork)
    with pytest.raises(InputError, match="masks of 2 sources, not of 3"):
        alone(mixture, 3)


def test_anchors_take_the_place_of_kmeans() -> None:
    network = {"embedding": 4, "anchors": 3, "unit": False}
    model = model_of(network, centroids="anchors", similarity="product")
    anchored = LoadedSeparator(DeepClustering(model))
    mixture = torch.randn(2, 4000)
    together = anchored(mixture, 2).masks
    assert together is not None
    alone = anchored(mixture[1], 2).masks  # no clustering: nothing depends on a seed or the batch
    torch.testing.assert_close(together[1], alone)
    with torch.no_grad():
        model.network.anchors += torch.randn(3, 4)
    assert not torch.allclose(anchored(mixture[1], 2).masks, alone, atol=1e-3)


def test_anchors_serve_long_recordings_too() -> None:
    """k-means on stretches once took their place there, whatever the model said."""
    network = {"embedding": 4, "anchors": 3, "unit": False}
    points, weights = torch.randn(6000, 4), torch.rand(6000)
    stretches = torch.arange(6000) // 20
    with torch.no_grad():
        model = model_of(network, centroids="anchors", similarity="product")
        anchored = DeepClustering(model)
        found = anchored.centroids(points, 2, weights, stretches)
        assert torch.equal(found, anchored.centroids(points, 2, weights))
        clustered = DeepClustering(model_of(network)).centroids(points, 2, weights, stretches)
        assert torch.equal(clustered, solo_centroids(points, weights, stretches, 2))


def test_a_product_counts_how_long_the_centroid_is() -> None:
    embeddings = torch.tensor([[[1.0, 0.0]]])
    centroids = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])
    for similarity, expected in (("cosine", 1.0), ("product", 3.0)):
        settings = MaskSettings.model_validate({"sharpness": 1.0, "similarity": similarity})
        masks = masks_from_centroids(embeddings, centroids, settings)
        torch.testing.assert_close(masks[0, 0, 0], torch.tensor(expected).sigmoid())
