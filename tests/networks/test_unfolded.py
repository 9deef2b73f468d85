"""Masks through the clustering: any number of sources, and training that reaches the trunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.kmeans import following_kmeans, hard_start, soft_kmeans
from dpcl.model import Model, ModelSettings, NetworkSettings, load_model, save_model
from dpcl.networks.base import EmbeddingNetwork, Heads
from dpcl.networks.lstm import BLSTMEmbedding
from dpcl.networks.unfolded import DualPathEnhancement, UnfoldedClustering
from dpcl.objectives.masks import mask_inference_loss, phase_sensitive_targets
from dpcl.recordings.separate import LoadedSeparator
from dpcl.separators.base import Link
from dpcl.separators.deep_clustering import Clusters, DeepClustering
from dpcl.signal.features import bin_weights, log_magnitude
from dpcl.signal.stft import STFT

STFT_ = STFT(64, 16)
BINS = STFT_.bins


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def network(dropout: float = 0.0, seed: int = 0, **unfolded: Any) -> EmbeddingNetwork:
    settings = NetworkSettings.model_validate(
        {
            "layers": 1,
            "width": 12,
            "embedding": 5,
            "activation": "none",
            "dropout": dropout,
            "unfolded": {"alpha": 3.0, "layers": 1, "width": 7, **unfolded},
        }
    )
    torch.manual_seed(seed)
    built = settings.build(BINS)
    built.mean.fill_(-4)
    built.std.fill_(2)
    return built


def head(built: EmbeddingNetwork) -> UnfoldedClustering:
    assert built.unfolded is not None
    return built.unfolded


def speaks(built: EmbeddingNetwork) -> EmbeddingNetwork:
    """With an enhancement network that says something: it begins without a say."""
    torch.nn.init.normal_(head(built).enhance.out.weight)
    return built


def glides(items: int, samples: int) -> Tensor:
    """Two talkers (B, 2, T) of gliding harmonic tones, with pauses."""
    time = torch.arange(samples) / 4000
    start = 100 + 250 * torch.rand(items, 2, 1)
    phase = 2 * torch.pi * (start * time + 200 * torch.randn(items, 2, 1) * time.square())
    gates = (torch.rand(items, 2, samples // 200 + 1) > 0.3).float()
    tones = torch.stack([(k * phase).cos() / k for k in range(1, 6)]).sum(0)
    return tones * gates.repeat_interleave(200, dim=-1)[..., :samples]


def mixed(items: int = 2, frames: int = 20) -> Tensor:
    return STFT_(glides(items, (frames - 1) * STFT_.hop).sum(1))  # (B, L, F)


KINDS = ["blstm", "dual_path"]


@pytest.mark.parametrize(
    ("kind", "layers"),
    [("blstm", 0), ("blstm", 1), ("blstm", 2), ("dual_path", 1), ("dual_path", 2)],
)
@pytest.mark.parametrize("sources", [1, 2, 3, 5])
@pytest.mark.parametrize("autocast", [False, True])
def test_masks_of_any_number_add_up_to_one(
    kind: str, layers: int, sources: int, autocast: bool
) -> None:
    built = network(layers=layers, enhancement=kind)
    if layers:
        speaks(built)
    assert built.gives_masks(sources)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        embeddings, masks = built(log_magnitude(mixed()), sources)
    assert embeddings.shape == (2, 20 * BINS, 5)
    assert masks.shape == (2, sources, 20, BINS)
    assert masks.dtype == torch.float32
    assert masks.min() >= 0
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 20, BINS))


def test_the_trunk_is_that_of_the_blstm() -> None:
    """Same names, same embeddings: its weights fit, and what is missing begins like a head's."""
    built = network()
    plain = BLSTMEmbedding(BINS, 1, 12, Heads(5))
    unmatched = built.load_state_dict(plain.state_dict(), strict=False)
    assert not unmatched.unexpected_keys
    assert all(built.is_head(name) for name in unmatched.missing_keys)
    features = log_magnitude(mixed())
    expected = plain.embed(plain.encode(features))
    torch.testing.assert_close(built(features, 2).embeddings, expected)
    torch.testing.assert_close(built.embed(built.encode(features)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_enhancement_leaves_the_clusters_masks_as_they_are(kind: str) -> None:
    built = network(enhancement=kind)
    features = log_magnitude(mixed())
    embeddings, masks = built(features, 3)
    weights = bin_weights(features.exp())
    start = hard_start(embeddings, 3, weights)
    _, clustered = soft_kmeans(embeddings, start, weights, 3.0, 3)
    torch.testing.assert_close(masks, clustered.view_as(masks), rtol=0, atol=2e-4)
    with_a_say = speaks(built)(features, 3).masks
    assert (with_a_say - masks).abs().max() > 0.1


def test_without_enhancement_there_is_the_clustering_alone() -> None:
    built = network(layers=0, alpha=2.0, steps=2)
    assert not hasattr(head(built), "enhance")
    features = log_magnitude(mixed())
    embeddings, masks = built(features, 2)
    weights = bin_weights(features.exp())
    start = hard_start(embeddings, 2, weights)
    expected = soft_kmeans(embeddings, start, weights, 2.0, 2)[1]
    torch.testing.assert_close(masks, expected.view_as(masks))


def test_blocks_have_centroids_of_what_came_before_them() -> None:
    built = network(layers=0, block=6)
    features = log_magnitude(mixed())
    embeddings, masks = built(features, 2)
    weights = bin_weights(features.exp())
    expected = following_kmeans(embeddings, 2, weights, 3.0, 3, 6 * BINS)
    torch.testing.assert_close(masks, expected.view_as(masks))
    encoded = built.encode(features)
    centroids = functional.normalize(torch.randn(2, 2, 5), dim=-1)
    known = built.infer_masks(encoded, 2, features, None, centroids)  # these hold everywhere
    expected = soft_kmeans(embeddings, centroids, weights, 3.0, 0)[1]
    torch.testing.assert_close(known, expected.view_as(known))


@pytest.mark.parametrize("weighting", ["threshold", "magnitude", "energy"])
def test_bins_weigh_as_their_magnitude_says(weighting: Any) -> None:
    """The network sees log magnitudes relative to the loudest bin: all that the weights need."""
    spectrum = mixed()
    built = network(weighting=weighting, layers=0, floor_db=-20)
    features = log_magnitude(spectrum)
    encoded = built.encode(features)
    embeddings = built.embed(encoded)
    weights = bin_weights(spectrum, weighting, -20)
    assert 0 < (weights > 0).float().mean() < 0.8
    start = hard_start(embeddings, 2, weights)
    expected = soft_kmeans(embeddings, start, weights, 3.0, 3)[1]
    torch.testing.assert_close(built.infer_masks(encoded, 2, features).flatten(2), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_enhancement_hears_the_mixture_beside_the_masked_mixture(kind: str) -> None:
    """Normalised both, no fainter than features are; the BLSTM each source by itself."""
    built = network(enhancement=kind)
    spectrum = mixed()
    given: list[tuple[Tensor, Tensor]] = []
    head(built).enhance.register_forward_hook(lambda module, inputs, scores: given.append(inputs))
    features = log_magnitude(spectrum)
    masks = built(features, 2).masks  # untrained: those of the clustering
    mixture, masked = given[0]
    torch.testing.assert_close(mixture, (features + 4) / 2)
    loudest = spectrum.abs().amax((-2, -1), keepdim=True).unsqueeze(1)
    estimates = masks * spectrum.abs().unsqueeze(1) / loudest  # (B, C, L, F)
    expected = (estimates.clamp_min(1e-4).log() + 4) / 2
    torch.testing.assert_close(masked, expected, rtol=0, atol=2e-3)
    scores = head(speaks(built)).enhance(mixture, masked)
    for source in range(2):
        alone = head(built).enhance(mixture, masked[:, source : source + 1])[:, 0]
        assert torch.allclose(scores[:, source], alone, atol=1e-5) == (kind == "blstm")


@pytest.mark.parametrize("kind", KINDS)
def test_masks_come_in_the_order_of_the_centroids(kind: str) -> None:
    built = speaks(network(enhancement=kind))
    features = log_magnitude(mixed())
    encoded = built.encode(features)
    centroids = functional.normalize(torch.randn(2, 3, 5), dim=-1)
    embeddings = built.embed(encoded)
    masks = built.infer_masks(encoded, 3, features, embeddings, centroids)
    order = torch.tensor([2, 0, 1])
    swapped = built.infer_masks(encoded, 3, features, None, centroids[:, order])
    torch.testing.assert_close(swapped, masks[:, order])


def test_known_centroids_are_taken_as_they_are() -> None:
    """Those of a long recording, moved in a window with one talker, shared out his bins."""
    built = network(layers=0)
    features = log_magnitude(mixed())
    encoded = built.encode(features)
    embeddings = built.embed(encoded)
    centroids = functional.normalize(torch.randn(2, 3, 5), dim=-1)
    distances = torch.cdist(embeddings, centroids, compute_mode="donot_use_mm_for_euclid_dist")
    expected = (-3 * distances.square()).softmax(-1).mT  # alpha 3
    masks = built.infer_masks(encoded, 3, features, embeddings, centroids).flatten(2)
    torch.testing.assert_close(masks, expected)


TRUNKS: dict[str, dict[str, Any]] = {
    "lstm": {"layers": 1, "width": 12},
    "conv": {"layers": 2, "width": 12},
    "dual_path": {"layers": 1, "width": 8},
    "causal_conv": {"layers": 2, "width": 12},
    "causal_dual_path": {"layers": 1, "width": 8},
}


@pytest.mark.parametrize("kind", TRUNKS)
@pytest.mark.parametrize("autocast", [False, True])
def test_any_trunk_is_trained_through_the_clustering(kind: str, autocast: bool) -> None:
    """Its embeddings are those of the trunk, which its weights fit; a stream hears the same."""
    settings = {"kind": kind, "embedding": 5, "activation": "none", **TRUNKS[kind]}
    plain = NetworkSettings.model_validate(settings).build(BINS)
    unfolded = {"layers": 0, "weighting": "magnitude"}
    built = NetworkSettings.model_validate(settings | {"unfolded": unfolded}).build(BINS)
    unmatched = built.load_state_dict(plain.state_dict(), strict=False)
    assert unmatched == (["unfolded.log_alpha"], [])
    features = log_magnitude(mixed())
    expected = plain.embed(plain.encode(features))
    torch.testing.assert_close(built.embed(built.encode(features)), expected)
    if built.causal:
        first, state = built.encode_next(features[0, :7])
        rest, _ = built.encode_next(features[0, 7:], state)
        encoded = torch.cat([first, rest])
        torch.testing.assert_close(built.embed(encoded[None])[0], expected[0])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        masks = built.train()(features, 3).masks
    assert masks is not None
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 20, BINS))
    (masks[:, 0] * torch.rand(masks[:, 0].shape)).sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_files_of_the_first_layout_have_other_names(tmp_path: Path) -> None:
    """There the weights of the head stood beside those of the trunk."""
    built = speaks(network()).eval()
    settings = ModelSettings.model_validate(
        {
            "signal": {"window": 64, "hop": 16},
            "network": {
                "layers": 1,
                "width": 12,
                "embedding": 5,
                "activation": "none",
                "unfolded": {"alpha": 3.0, "layers": 1, "width": 7},
            },
            "masks": {"head": "masks"},
        }
    )
    path = tmp_path / "old.safetensors"
    save_model(Model(settings, built, {}), path)
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() | {"layout": "1"}
    tensors = {name.removeprefix("unfolded."): x for name, x in load_file(path).items()}
    assert {"log_alpha", "enhance.out.weight"} < set(tensors)
    save_file(tensors, path, metadata)
    features = log_magnitude(mixed())
    loaded = load_model(path).network
    assert torch.equal(loaded(features, 2).masks, built(features, 2).masks)


def test_alpha_is_learned_or_fixed() -> None:
    learned, fixed = network(), network(learn_alpha=False)
    assert "unfolded.log_alpha" in dict(learned.named_parameters())
    assert "unfolded.log_alpha" not in dict(fixed.named_parameters())
    assert "unfolded.log_alpha" in fixed.state_dict()  # and is saved either way
    features = log_magnitude(mixed())
    torch.testing.assert_close(learned(features, 2).masks, fixed(features, 2).masks)
    assert float(head(learned).log_alpha.exp().detach()) == pytest.approx(3.0)


# These add the same to the scores of all sources, which cancels in the softmax.
COMMON = ("unfolded.enhance.out.bias", "unfolded.enhance.norm.bias")


@pytest.mark.parametrize(("kind", "layers"), [("blstm", 0), ("blstm", 1), ("dual_path", 1)])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_gradient_reaches_all_there_is(kind: str, layers: int, autocast: bool) -> None:
    built = network(dropout=0.2, layers=layers, enhancement=kind)
    if layers:
        speaks(built)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        masks = built.train()(log_magnitude(mixed()), 2).masks
    (masks[:, 0] * torch.rand(masks[:, 0].shape)).sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name not in COMMON:
            assert parameter.grad.any(), name


@pytest.mark.parametrize(("kind", "layers"), [("blstm", 0), ("blstm", 1), ("dual_path", 1)])
def test_learns_one_batch_by_heart_end_to_end(kind: str, layers: int) -> None:
    """Masks alone are compared: what the trunk learns comes through the clustering."""
    sources = glides(2, 29 * STFT_.hop)
    spectra = STFT_(sources)  # (B, C, L, F)
    mixture = spectra.sum(1)
    features, targets = log_magnitude(mixture), phase_sensitive_targets(spectra, mixture)
    built = network(layers=layers, weighting="magnitude", enhancement=kind)
    built.mean, built.std = features.mean((0, 1)), features.std((0, 1))
    before = {name: value.detach().clone() for name, value in built.named_parameters()}
    optimiser = torch.optim.Adam(built.parameters(), 0.01)
    losses = []
    for _ in range(60):
        masks = built(features, 2).masks.flatten(2).mT
        loss = mask_inference_loss(masks, mixture.abs().flatten(1), targets).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    for name, value in built.named_parameters():
        assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["in_bfloat16", "in_int8"])
def test_in_fewer_bits_the_masks_are_nearly_the_same(kind: str, how: str) -> None:
    built = speaks(network(enhancement=kind).eval())
    features = log_magnitude(mixed())
    with torch.no_grad():
        encoded = built.encode(features)
        centroids = hard_start(built.embed(encoded), 2, bin_weights(features.exp()))
        exact = built.infer_masks(encoded, 2, features, None, centroids)
        fast = getattr(built, how)()
        rough = fast.infer_masks(fast.encode(features), 2, features, None, centroids)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().mean() < 0.02
    assert head(built).log_alpha.dtype == torch.float32  # a copy, not the network itself


@pytest.mark.parametrize("kind", KINDS)
def test_silence_and_short_inputs(kind: str) -> None:
    built = speaks(network(enhancement=kind))
    for features in (log_magnitude(torch.zeros(1, 4, BINS)), log_magnitude(mixed(1, 20))[:, :1]):
        masks = built(features, 3).masks
        assert masks.isfinite().all()
        torch.testing.assert_close(masks.sum(1), torch.ones_like(masks[:, 0]))


def test_a_score_is_of_the_bands_that_hold_its_bin() -> None:
    """Without what is encoded of others, a bin has a say in its own two bands alone."""
    bins = 65
    enhance = DualPathEnhancement(bins, 2, 8, 0.0)
    torch.nn.init.normal_(enhance.out.weight)
    for block in enhance.blocks:
        for layer in (block.others, block.leave_across, block.leave_along):
            torch.nn.init.zeros_(layer.weight)
    mixture, masked = torch.randn(1, 5, bins), torch.randn(1, 2, 5, bins)
    changed = masked.clone()
    changed[0, 1, 3, 37] += 1
    moved = (enhance(mixture, changed) - enhance(mixture, masked)).abs() > 1e-6
    assert moved.nonzero()[:, :3].unique(dim=0).tolist() == [[0, 1, 3]]
    assert moved[0, 1, 3].nonzero()[:, 0].tolist() == [*range(16, 64)]  # bands from 16 and from 32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["masks", "both"])
def test_as_a_separator(kind: str, head: str) -> None:
    settings = ModelSettings.model_validate(
        {
            "signal": {"sample_rate": 4000, "window": 64, "hop": 16},
            "network": {"layers": 1, "width": 12, "embedding": 5, "unfolded": {"width": 7}},
            "masks": {"head": head, "sharpness": 5.0},
        }
    )
    clustering = DeepClustering(Model(settings, speaks(network(enhancement=kind)).eval(), {}))
    separator = LoadedSeparator(clustering)
    mixture = glides(2, 1000).sum(1)
    for sources in (1, 2, 3):
        separation = separator(mixture, sources)
        assert separation.sources.shape == (2, sources, 1000)
        torch.testing.assert_close(separation.sources.sum(1), mixture, rtol=0, atol=1e-4)
    with torch.no_grad():  # as a long recording has them
        analysed = clustering.analyse(clustering.stft(mixture)[:, None])
        points = clustering.embed(analysed[0])[0]
        centroids = clustering.centroids(points, 3, torch.ones(len(points)))
        link = Link(3, state=Clusters(centroids, several=False))
        for number, window in enumerate(zip(*analysed, strict=True)):
            masks = clustering.masks(number, window, link)
            torch.testing.assert_close(masks.sum(0), torch.ones_like(masks[0]))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"embedding": 0, "masks": 2}, "unfolded: needs embeddings"),
        ({"masks": 2}, "masks of its own"),
        ({"unfolded": {"steps": 0}}, "steps"),
        ({"unfolded": {"alpha": 0}}, "alpha"),
        ({"unfolded": {"depth": 1}}, "depth"),
        ({"unfolded": {"enhancement": "conv"}}, "enhancement"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        NetworkSettings.model_validate({"unfolded": {}, **changes})
    assert NetworkSettings.model_validate({"unfolded": {}}).gives_masks(7)
