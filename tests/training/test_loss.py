"""The objective of a batch, by recipe: the functions of dpcl.objectives on the right tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from dpcl.errors import InputError
from dpcl.model import build_network
from dpcl.objectives import OBJECTIVES, affinity_loss, mask_inference_loss, waveform_loss
from dpcl.objectives.masks import phase_sensitive_targets
from dpcl.signal.features import bin_weights, ideal_assignments
from dpcl.training.batches import batch_loss
from dpcl.training.recipe import Recipe

MakeRecipe = Callable[..., Recipe]


def recipe_for(
    make_recipe: MakeRecipe,
    network: dict[str, Any],
    *,
    kinds: dict[str, Any] | None = None,
    **objective: Any,
) -> Recipe:
    recipe = make_recipe(input_noise=0.0)
    data = recipe.data.model_dump() | {"kinds": kinds}
    model = recipe.model.model_dump()
    model["network"] |= {"dropout": 0.0, **network}
    if not model["network"]["embedding"]:
        model["masks"]["head"] = "masks"
    return make_recipe(input_noise=0.0, model=model, data=data, objective=objective)


def loss_of(recipe: Recipe, sources: torch.Tensor) -> tuple[torch.Tensor, torch.nn.Module]:
    torch.manual_seed(0)
    network = build_network(recipe.model)
    loss = batch_loss(recipe, network, recipe.model.signal.stft(), sources)
    loss.backward()
    return loss.detach(), network


@pytest.mark.parametrize("kind", [*OBJECTIVES, "attractor", "anchored_attractor"])
def test_every_objective_teaches_the_embeddings(make_recipe: MakeRecipe, kind: str) -> None:
    recipe = recipe_for(make_recipe, {"anchors": 4}, kind=kind)
    loss, network = loss_of(recipe, torch.randn(2, 2, 2, 320))
    assert loss.isfinite()
    assert loss > 0
    gradient = network.project.weight.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    if kind == "anchored_attractor":
        assert network.anchors.grad.abs().max() > 0


def test_two_heads_share_the_loss(make_recipe: MakeRecipe) -> None:
    recipe = recipe_for(
        make_recipe, {"masks": 2}, kind="affinity", masks={"distance": "l2"}, share=0.9
    )
    sources = torch.randn(3, 2, 1, 320)
    loss, network = loss_of(recipe, sources)
    spectra = recipe.model.signal.stft()(sources[:, :, 0])
    mixture = spectra.sum(1)
    embeddings, masks = network(recipe.model.signal.features(mixture))
    affinity = affinity_loss(embeddings, ideal_assignments(spectra), bin_weights(mixture))
    targets = phase_sensitive_targets(spectra, mixture)
    inference = mask_inference_loss(masks.flatten(2).mT, mixture.abs().flatten(1), targets, 2)
    expected = 0.9 * affinity.mean() + 0.1 * inference.mean()
    torch.testing.assert_close(loss, expected.detach())


@pytest.mark.parametrize("targets", ["phase_sensitive", "waveform"])
def test_masks_are_compared_in_the_best_order(make_recipe: MakeRecipe, targets: str) -> None:
    recipe = recipe_for(
        make_recipe, {"masks": 2, "embedding": 0}, kind="none", masks={"targets": targets}
    )
    sources = torch.randn(2, 2, 2, 320)
    loss, _ = loss_of(recipe, sources)
    torch.testing.assert_close(loss_of(recipe, sources.flip(1))[0], loss)


def test_the_strongest_comes_first(make_recipe: MakeRecipe) -> None:
    network = {"masks": 2, "embedding": 0}
    by_strength = recipe_for(make_recipe, network, kind="none", masks={"order": "strongest"})
    best = recipe_for(make_recipe, network, kind="none", masks={})
    sources = torch.randn(8, 2, 1, 320) * torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    loss, network = loss_of(by_strength, sources)
    torch.testing.assert_close(loss_of(by_strength, sources.flip(1))[0], loss)
    stft = by_strength.model.signal.stft()
    given, least = [], []
    for _ in range(2):  # a head, and the same with its outputs exchanged
        given.append(batch_loss(by_strength, network, stft, sources).item())
        least.append(batch_loss(best, network, stft, sources).item())
        network.mask_head.weight.data *= -1
        network.mask_head.bias.data *= -1
    assert least[0] == pytest.approx(least[1])
    assert max(given) > least[0] + 0.01


KINDS = {"groups": {"voice": ["a"], "sound": ["b"]}, "mixtures": [{"of": ["voice", "sound"]}]}


def test_masks_of_classes_have_the_order_of_the_groups(make_recipe: MakeRecipe) -> None:
    network = {"masks": 2, "embedding": 0}
    given = recipe_for(make_recipe, network, kind="none", masks={"order": "given"}, kinds=KINDS)
    best = recipe_for(make_recipe, network, kind="none", masks={})
    sources = torch.randn(1, 2, 1, 320) * torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    _, network = loss_of(given, sources)
    stft = given.model.signal.stft()
    one, other = (batch_loss(given, network, stft, x).item() for x in (sources, sources.flip(1)))
    assert abs(one - other) > 0.01
    assert min(one, other) == pytest.approx(batch_loss(best, network, stft, sources).item())


def test_classes_need_kinds_of_mixtures(make_recipe: MakeRecipe) -> None:
    with pytest.raises(ValidationError, match="order given needs"):
        recipe_for(make_recipe, {"masks": 2}, masks={"order": "given"})


def test_waveforms_by_si_sdr(make_recipe: MakeRecipe) -> None:
    masks = {"targets": "waveform", "distance": "si_sdr"}
    recipe = recipe_for(make_recipe, {"masks": 2, "embedding": 0}, kind="none", masks=masks)
    loss, network = loss_of(recipe, torch.randn(2, 2, 1, 320))
    assert loss.isfinite()
    assert network.mask_head.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("network", "objective", "problem"),
    [
        ({"masks": 2, "embedding": 0}, {"kind": "affinity"}, "needs model.network.embedding"),
        ({"masks": 3}, {"masks": {}}, "needs model.network.masks of 2"),
        ({"anchors": 1}, {"kind": "anchored_attractor"}, "needs model.network.anchors"),
        ({}, {"kind": "none"}, "nothing to minimise"),
        ({"masks": 2}, {"masks": {"distance": "si_sdr"}}, "set targets: waveform"),
        ({"masks": 0, "embedding": 0}, {"kind": "none", "masks": {}}, "both are 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_starts(
    make_recipe: MakeRecipe, network: dict[str, Any], objective: dict[str, Any], problem: str
) -> None:
    with pytest.raises((InputError, ValueError), match=problem):
        recipe_for(make_recipe, network, **objective)


def test_windows_share_one_clustering_and_one_order(make_recipe: MakeRecipe) -> None:
    """Masks of both windows come from the embeddings of both, and are compared as one waveform."""
    network = {"unfolded": {"layers": 0, "weighting": "magnitude"}}
    masks = {"targets": "waveform", "distance": "l1"}
    sources = torch.randn(3, 2, 2, 320)
    recipe = recipe_for(make_recipe, network, kind="none", masks=masks | {"across_windows": True})
    loss, built = loss_of(recipe, sources)

    stft = recipe.model.signal.stft()
    spectra = stft(sources.transpose(1, 2))  # (B, W, C, L, F)
    features = recipe.model.signal.features(spectra.sum(2))  # (B, W, L, F)
    heard = torch.cat([built.encode(window) for window in features.unbind(1)], 1)
    layers = built.infer_masks(heard, 2, features.flatten(1, 2)).unflatten(
        2, (2, -1)
    )  # (B, C, W, L, F)
    estimates = stft.inverse(layers.transpose(1, 2) * spectra.sum(2).unsqueeze(2), 320)
    one = waveform_loss(estimates.transpose(1, 2).flatten(2), sources.flatten(2)).mean()
    torch.testing.assert_close(loss, one.detach())

    apart, _ = loss_of(recipe_for(make_recipe, network, kind="none", masks=masks), sources)
    assert loss != pytest.approx(float(apart), rel=1e-3)


def test_windows_of_a_mask_head_are_never_clustered_together(make_recipe: MakeRecipe) -> None:
    with pytest.raises(ValidationError, match="across_windows needs"):
        recipe_for(make_recipe, {"masks": 2}, masks={"across_windows": True})
