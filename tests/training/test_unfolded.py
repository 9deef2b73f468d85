"""Enhancement alone on a frozen trunk, then all of it through the unfolded clustering."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from dpcl.model import load_model
from dpcl.training.checkpoint import latest_checkpoint
from dpcl.training.loop import train
from dpcl.training.recipe import Recipe

pytest.importorskip("lightning")
pytest.importorskip("tensorboard")

MakeRecipe = Callable[..., Recipe]


def model(**network: Any) -> dict[str, Any]:
    return {
        "signal": {"sample_rate": 2000, "window": 64, "hop": 32},
        "network": {
            "layers": 1,
            "width": 5,
            "embedding": 3,
            "unfolded": {"width": 4, "weighting": "magnitude"},
            **network,
        },
        "masks": {"head": "masks"},
    }


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    return load_model(checkpoint / "model.safetensors").network.state_dict()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_alone_and_then_end_to_end(tmp_path: Path, make_recipe: MakeRecipe, precision: str) -> None:
    plain = {**model(), "masks": {}}
    del plain["network"]["unfolded"]
    embedded = train(make_recipe(model=plain, precision=precision), tmp_path / "embedded")
    masks = {"kind": "none", "masks": {}}
    settings = {"model": model(), "precision": precision}
    alone = make_recipe(**settings, init=str(embedded), frozen=["lstm", "project"], objective=masks)
    train(alone, tmp_path / "alone")
    trunk, first = load_model(embedded).network.state_dict(), last_weights(tmp_path / "alone")
    assert all(torch.equal(first[name], value) for name, value in trunk.items())
    assert first["unfolded.enhance.out.weight"].any()
    assert first["unfolded.log_alpha"] != pytest.approx(1.6094379)  # ln 5

    together = {"kind": "affinity", "share": 0.5, "masks": {"targets": "waveform"}}
    weights = latest_checkpoint(tmp_path / "alone")
    assert weights is not None
    ends = make_recipe(**settings, init=str(weights / "model.safetensors"), objective=together)
    train(ends, tmp_path / "ends")
    second = last_weights(tmp_path / "ends")
    for name, value in second.items():
        if name != "unfolded.enhance.out.bias":  # the same for all sources: no gradient
            assert torch.equal(value, first[name]) == (name in ("mean", "std")), name


def test_any_number_of_sources_can_be_compared(make_recipe: MakeRecipe) -> None:
    objective = {"kind": "none", "masks": {}}
    data = make_recipe().data.model_dump()
    for number in (1, 2, 4):
        make_recipe(model=model(), objective=objective, data={**data, "num_sources": number})
    plain = model(unfolded=None)
    with pytest.raises(ValidationError, match=r"masks: needs a mask head; .*network\.unfolded"):
        make_recipe(model=plain)
    with pytest.raises(ValidationError, match=r"model\.network\.masks of 2.*network\.unfolded"):
        make_recipe(model={**plain, "masks": {}}, objective=objective)
