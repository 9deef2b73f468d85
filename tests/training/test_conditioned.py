"""Training under conditions: it learns, resumes to the same weights, and names what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dpcl.errors import InputError
from dpcl.mixtures.conditions import ConditionedMixture
from dpcl.model import build_network, load_model
from dpcl.settings import validated
from dpcl.training.batches import active_talkers, conditioned_loss
from dpcl.training.loop import train
from dpcl.training.recipe import CONSTANTS, Recipe


def recipe(**changes: Any) -> Recipe:
    data = {
        "model": {
            "signal": {"window": 128, "hop": 64, "level": "quantile"},
            "network": {
                "kind": "full_band",
                "layers": 1,
                "width": 8,
                "embedding": 4,
                "activation": "none",
                "background": True,
                "counts": 4,
                "frame": 8,
                "frame_units": 6,
                "band_units": 4,
            },
            "masks": {"weighting": "magnitude", "sharpness": 5.0},
        },
        "data": {
            "conditions": {
                "talkers": [0.3, 0.5, 0.2],
                "rooms": {"count": 2},
                "background": {"shares": {"noise": 0.8, "hum": 0.2}},
            }
        },
        "optimiser": {"kind": "muon", "learning_rate": 0.003, "average": 0.5},
        "stages": [{"frames": 40, "batch": 4, "steps": 6}],
    }
    return validated(Recipe, "recipe", data | changes)


def batch(seed: int = 0) -> ConditionedMixture:
    random = torch.Generator().manual_seed(seed)
    time = torch.arange(4000) / 8000
    tones = torch.stack([(2 * torch.pi * f * time).sin() for f in (300.0, 1500.0)])
    sources = torch.cat([tones, torch.zeros(1, 4000)]).expand(2, 3, 4000).clone()
    noise = 0.05 * torch.randn(2, 4000, generator=random)
    mixture = sources.sum(1) + noise
    return ConditionedMixture(sources, mixture, noise, torch.ones(2), torch.tensor([2, 2]))


def test_the_objective_falls_when_it_is_followed() -> None:
    chosen = recipe()
    torch.manual_seed(0)
    network = build_network(chosen.model)
    stft = chosen.model.signal.stft()
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    losses = []
    for _ in range(30):
        loss = conditioned_loss(chosen, network, stft, batch())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(map(torch.isfinite, torch.tensor(losses)))
    assert losses[-1] < losses[0] - 0.5


def test_a_silent_batch_has_a_finite_gradient() -> None:
    chosen = recipe()
    network = build_network(chosen.model)
    zeros = (torch.zeros_like(x) for x in batch()[:3])
    silent = ConditionedMixture(*zeros, torch.ones(2), torch.zeros(2, dtype=torch.int64))
    loss = conditioned_loss(chosen, network, chosen.model.signal.stft(), silent)
    assert loss.isfinite()
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_talkers_are_active_in_frames_near_their_own_level() -> None:
    magnitudes = torch.full((1, 2, 20, 65), 1e-6)
    magnitudes[0, 0, :10] = 1.0
    magnitudes[0, 1, 5:] = 0.2
    level = torch.full((1, 1, 1), 8.0)
    counts = active_talkers(magnitudes, level, 1)
    assert counts.tolist() == [[1] * 5 + [2] * 5 + [1] * 10]


def test_resuming_gives_the_same_weights(corpus: Path, tmp_path: Path) -> None:
    data = recipe().data.model_copy(
        update={"corpora": (str(corpus),), "cache": str(tmp_path / "cache")}
    )
    whole = recipe().model_copy(update={"data": data, "checkpoint_minutes": 1e-9})
    first = train(whole, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(row: Any) -> None:
        raise Killed

    import dpcl.training.loop as loop

    before, loop.LOG_EVERY = loop.LOG_EVERY, 3
    try:
        with pytest.raises(Killed):
            train(whole, tmp_path / "cut", report=kill)
    finally:
        loop.LOG_EVERY = before
    second = train(whole, tmp_path / "cut", resume=True)
    ours, theirs = (load_model(path).network.state_dict() for path in (first, second))
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"objective": {"kind": "whitened_kmeans"}}, "data.conditions needs objective.kind"),
        ({"stages": [{"frames": 9, "batch": 2, "steps": 1, "windows": 2}]}, "stages.windows 1"),
    ],
)
def test_what_conditions_need(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        recipe(**changes)


def test_sounds_that_are_missing_are_named(corpus: Path, tmp_path: Path) -> None:
    chosen = recipe()
    conditions = chosen.data.conditions
    assert conditions is not None
    background = conditions.background.model_copy(update={"shares": {"sounds": 1.0}})
    data = chosen.data.model_copy(
        update={
            "corpora": (str(corpus),),
            "cache": str(tmp_path),
            "conditions": conditions.model_copy(update={"background": background}),
        }
    )
    with pytest.raises(InputError):
        train(chosen.model_copy(update={"data": data}), tmp_path / "run")


def test_a_run_with_settings_that_are_constants_today_can_be_resumed() -> None:
    chosen = recipe()
    document = json.loads(chosen.model_dump_json())
    for key, value in CONSTANTS.items():
        *path, last = key.split(".")
        parent = document
        for part in path:
            parent = parent[part]
        parent[last] = value
    assert chosen.difference(json.dumps(document)) is None
    document["data"]["conditions"]["background"]["own_room"] = 0.9
    assert chosen.difference(json.dumps(document)) == "version"
