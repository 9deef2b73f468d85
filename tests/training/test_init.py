"""Training that starts from the weights of another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dpcl.errors import InputError
from dpcl.model import load_model
from dpcl.training.checkpoint import latest_checkpoint
from dpcl.training.loop import train
from dpcl.training.recipe import Recipe

pytest.importorskip("lightning")
pytest.importorskip("tensorboard")

STAGES = [{"frames": 12, "batch": 4, "steps": 1}]


def test_a_run_starts_from_the_weights_that_it_is_given(
    tmp_path: Path, make_recipe: Callable[..., Recipe]
) -> None:
    first = train(make_recipe(), tmp_path / "first")
    still = {"learning_rate": 1e-12}
    recipe = make_recipe(init=str(first), stages=STAGES, optimiser=still, validation=None, seed=9)
    train(recipe, tmp_path / "second")
    checkpoint = latest_checkpoint(tmp_path / "second")
    assert checkpoint is not None
    ours = load_model(checkpoint / "model.safetensors").network.state_dict()
    for name, value in load_model(first).network.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-9)


def test_heads_begin_fresh_where_that_is_wanted(
    tmp_path: Path, make_recipe: Callable[..., Recipe]
) -> None:
    first = train(make_recipe(), tmp_path / "first")
    still = {"learning_rate": 1e-12}
    recipe = make_recipe(
        init=str(first), init_heads=False, stages=STAGES, optimiser=still, validation=None
    )
    second = load_model(train(recipe, tmp_path / "second")).network.state_dict()
    for name, value in load_model(first).network.state_dict().items():
        same = torch.allclose(second[name], value, rtol=0, atol=1e-9)
        assert same != name.startswith("project."), name


def test_weights_of_another_size_are_refused_before_anything_is_trained(
    tmp_path: Path, make_recipe: Callable[..., Recipe]
) -> None:
    first = train(make_recipe(stages=STAGES), tmp_path / "first")
    model = {
        "signal": {"sample_rate": 2000, "window": 64, "hop": 32},
        "network": {"layers": 1, "width": 6, "embedding": 3},
    }
    with pytest.raises(InputError, match=r"init: .*first.* another size"):
        train(make_recipe(init=str(first), model=model), tmp_path / "second")
    assert latest_checkpoint(tmp_path / "second") is None


def test_heads_that_the_weights_lack_are_fresh_and_what_is_frozen_stays(
    tmp_path: Path, make_recipe: Callable[..., Recipe]
) -> None:
    first = train(make_recipe(), tmp_path / "first")
    recipe = make_recipe(
        init=str(first),
        model={
            "signal": {"sample_rate": 2000, "window": 64, "hop": 32},
            "network": {"layers": 2, "width": 5, "embedding": 0, "masks": 2},
            "masks": {"head": "masks"},
        },
        objective={"kind": "none", "masks": {}},
        frozen=["lstm"],
        stages=STAGES,
        validation=None,
    )
    second = load_model(train(recipe, tmp_path / "second")).network.state_dict()
    shared = {name for name in second if not name.startswith("mask_head")}
    assert any(name.startswith("lstm") for name in shared)
    for name in shared:  # not one bit, though everything else was trained with a high rate
        torch.testing.assert_close(
            second[name], load_model(first).network.state_dict()[name], rtol=0, atol=0
        )


def test_an_embedding_head_of_another_size_is_fresh(
    tmp_path: Path, make_recipe: Callable[..., Recipe]
) -> None:
    first = train(make_recipe(), tmp_path / "first")
    begun = load_model(first)
    network = begun.settings.network.model_dump()
    wider = network["embedding"] + 2
    model = begun.settings.model_dump() | {"network": network | {"embedding": wider}}
    recipe = make_recipe(
        init=str(first), model=model, frozen=["lstm"], stages=STAGES, validation=None
    )
    second = load_model(train(recipe, tmp_path / "second")).network
    assert second.heads.embedding == wider
    for name, value in begun.network.state_dict().items():
        if name.startswith("lstm"):
            assert torch.equal(second.state_dict()[name], value)


def test_a_part_that_is_not_there_cannot_be_frozen(
    tmp_path: Path, make_recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(InputError, match="the network has no trunk; its parts are project, lstm"):
        train(make_recipe(frozen=["trunk"]), tmp_path / "run")
