"""The training loop: what it draws, writes, keeps and refuses. Resuming is in test_resume.py."""

from __future__ import annotations

import csv
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import Tensor

from dpcl.errors import InputError
from dpcl.evaluation.validation import Validation
from dpcl.io import no_report
from dpcl.mixtures.lists import read_list, write_list
from dpcl.model import Model, build_network, load_model
from dpcl.objectives.affinity import affinity_loss
from dpcl.signal.features import ideal_assignments
from dpcl.training import loop
from dpcl.training.batches import DeviceBatches, batch_loss, batches, prepare
from dpcl.training.checkpoint import latest_checkpoint, load_checkpoint
from dpcl.training.loop import learning_rate, train, validation_of
from dpcl.training.recipe import OptimiserSettings, Recipe, Stage

pytest.importorskip("lightning")
pytest.importorskip("tensorboard")

MakeRecipe = Callable[..., Recipe]


def final_weights(run: Path) -> dict[str, Tensor]:
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    return load_file(checkpoint / "model.safetensors")


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


def device(rank: int = 0, world: int = 1) -> Any:
    return SimpleNamespace(global_rank=rank, world_size=world, to_device=lambda x: x)


# What a run writes


def test_a_run_writes_its_log_its_weights_and_its_last_checkpoint(
    tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    shown: list[loop.Progress] = []
    weights = train(make_recipe(), tmp_path / "run", report=shown.append)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"log.csv", "tensorboard", "checkpoints", "best.safetensors"}
    assert weights == tmp_path / "run" / "best.safetensors"

    written = rows(tmp_path / "run")
    # every 20 steps, at every validation, and at the end
    assert [int(row["step"]) for row in written] == [5, 10, 15, 20, 24] == [r.step for r in shown]
    for row, progress in zip(written, shown, strict=True):
        assert all(float(row[name]) == getattr(progress, name) for name in row)
        assert 0 < progress.loss < 4
        assert progress.speed > 0
        assert progress.si_sdri is not None
    segments = 12 * 4 * 11 * 32 + 12 * 2 * 19 * 32  # samples: steps, batch, hops, hop
    assert shown[-1].audio_hours == pytest.approx(segments / 2000 / 3600)


def test_tensorboard_has_every_row_when_training_returns(
    tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(make_recipe(), tmp_path)
    board = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = {event.step: event.value for event in board.Scalars("loss")}
    assert losses == {int(r["step"]): pytest.approx(float(r["loss"])) for r in rows(tmp_path)}


def test_without_a_validation_list_the_last_weights_are_returned(
    tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    weights = train(make_recipe(validation=None), tmp_path)
    assert weights == tmp_path / "checkpoints" / "000000024" / "model.safetensors"
    assert rows(tmp_path)[-1]["si_sdri"] == ""
    notes = load_model(weights).notes
    assert notes["step"] == 24
    assert notes["recipe"]["seed"] == 3


def test_the_loss_falls(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        stages=[{"frames": 12, "batch": 8, "steps": 60}],
        model={
            "signal": {"sample_rate": 2000, "window": 64, "hop": 32},
            "network": {"layers": 1, "width": 16, "embedding": 4},
        },
        validation=None,
    )
    train(recipe, tmp_path)
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    assert losses[-1] < 0.9 * losses[0]


def test_features_are_normalised_by_what_the_training_hears(
    tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    weights = load_model(train(make_recipe(validation=None), tmp_path))
    assert (weights.network.std > 0).all()
    assert not torch.equal(weights.network.mean, torch.zeros_like(weights.network.mean))


# The same weights


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(
    tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    for name, seed in [("a", 3), ("b", 3), ("c", 4)]:
        train(make_recipe(seed=seed, validation=None), tmp_path / name)
    a, b, c = (final_weights(tmp_path / name) for name in "abc")
    assert same(a, b)
    assert not same(a, c)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_number_of_workers_does_not_change_the_weights(
    tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    for workers in (0, 2):
        train(make_recipe(workers=workers, validation=None), tmp_path / str(workers))
    assert same(final_weights(tmp_path / "0"), final_weights(tmp_path / "2"))


def test_validation_does_not_change_the_weights(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    train(make_recipe(), tmp_path / "with")
    train(make_recipe(validation=None), tmp_path / "without")
    assert same(final_weights(tmp_path / "with"), final_weights(tmp_path / "without"))


@pytest.mark.parametrize("change", ["input_noise", "dropout"])
def test_noise_and_dropout_reach_the_network(
    tmp_path: Path, make_recipe: MakeRecipe, change: str
) -> None:
    recipe = make_recipe(validation=None)
    if change == "input_noise":
        other = recipe.model_copy(update={"input_noise": 0.0})
    else:
        network = recipe.model.network.model_copy(update={"dropout": 0.0})
        model = recipe.model.model_copy(update={"network": network})
        other = recipe.model_copy(update={"model": model})
    train(recipe, tmp_path / "a")
    train(other, tmp_path / "b")
    assert not same(final_weights(tmp_path / "a"), final_weights(tmp_path / "b"))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_precision_trains(tmp_path: Path, make_recipe: MakeRecipe, precision: str) -> None:
    optimiser = {"learning_rate": 0.01}
    train(make_recipe(optimiser=optimiser, precision=precision, validation=None), tmp_path)
    assert all(0 < float(row["loss"]) < 4 for row in rows(tmp_path))
    assert {value.dtype for value in final_weights(tmp_path).values()} == {torch.float32}


# Batches


def test_segments_have_the_frames_of_their_stage(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        stages=[
            {"frames": 12, "batch": 4, "steps": 2},
            {"frames": 20, "batch": 2, "windows": 3, "steps": 2},
        ]
    )
    stft = recipe.model.signal.stft()
    shapes = [
        tuple(stft(b).shape) for b in batches(recipe, prepare(recipe, no_report), device(), 0)
    ]
    assert shapes == [(4, 2, 1, 12, 33)] * 2 + [(2, 2, 3, 20, 33)] * 2


def test_windows_are_compared_with_one_another(make_recipe: MakeRecipe) -> None:
    """Two windows of the same talkers: one objective over the bins of both, not two."""
    recipe = make_recipe(input_noise=0.0)
    torch.manual_seed(0)
    network = build_network(recipe.model).eval()
    stft = recipe.model.signal.stft()
    sources = torch.randn(1, 2, 2, 320)  # (B, C, W, T)
    both = float(batch_loss(recipe, network, stft, sources).detach())
    v, y, w = [], [], []
    for window in sources.unbind(2):
        spectra = stft(window)
        mixture = spectra.sum(1)
        v.append(network(recipe.model.signal.features(mixture)).embeddings)
        y.append(ideal_assignments(spectra))
        w.append(mixture.abs().flatten(-2))
    loudest = torch.cat(w, 1).amax()
    weights = (torch.cat(w, 1) >= 0.01 * loudest).float()  # -40 dB of the loudest of both
    expected = affinity_loss(torch.cat(v, 1), torch.cat(y, 1), weights)
    assert both == pytest.approx(float(expected.detach()), rel=1e-5)


def test_talkers_who_come_and_go_are_drawn_as_the_recipe_says(make_recipe: MakeRecipe) -> None:
    data = make_recipe().data.model_dump() | {"active": [1.0, 0.0]}
    recipe = make_recipe(data=data, stages=[{"frames": 12, "batch": 4, "windows": 2, "steps": 3}])
    for sources in batches(recipe, prepare(recipe, no_report), device(), 0):
        assert (sources.any(-1).sum(1) == 1).all()  # (B, W): one of the two in each window


@pytest.mark.parametrize("done", [0, 1, 11, 12, 13, 23, 24])
def test_batches_from_any_step_on_are_those_of_the_whole(
    make_recipe: MakeRecipe, done: int
) -> None:
    recipe = make_recipe()
    packed = prepare(recipe, no_report)
    whole = list(batches(recipe, packed, device(), 0))
    rest = list(batches(recipe, packed, device(), done))
    assert len(rest) == 24 - done
    assert all(torch.equal(a, b) for a, b in zip(whole[done:], rest, strict=True))


def test_no_mixture_is_drawn_twice(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(stages=[{"frames": 12, "batch": 4, "steps": 6}] * 2)
    drawn = torch.cat(list(batches(recipe, prepare(recipe, no_report), device(), 0)))  # (48, C, T)
    assert len(drawn.flatten(1).unique(dim=0)) == 48


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("first", [0, 3])
def test_devices_share_every_step_without_gap_or_overlap(world: int, first: int) -> None:
    stage = Stage(frames=10, batch=12, steps=5)
    shares = [DeviceBatches(stage, first, rank, world) for rank in range(world)]
    assert {len(share) for share in shares} == {5 - first}
    for step, parts in enumerate(zip(*shares, strict=True), first):
        assert {len(part) for part in parts} == {12 // world}
        assert sorted(itertools.chain(*parts)) == list(range(12 * step, 12 * (step + 1)))


def test_devices_get_the_batch_that_one_device_would(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    packed = prepare(recipe, no_report)
    shares = [batches(recipe, packed, device(rank, 2), 7) for rank in range(2)]
    for whole, even, odd in zip(batches(recipe, packed, device(), 7), *shares, strict=True):
        assert torch.equal(whole[0::2], even)
        assert torch.equal(whole[1::2], odd)


# The learning rate


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    settings = OptimiserSettings(learning_rate=0.1, warm_up=4, final=0.2)
    rates = [learning_rate(settings, step, 104) for step in range(105)]
    assert rates[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert rates[54] == pytest.approx(0.06)  # half-way between 0.1 and 0.02
    assert rates[104] == pytest.approx(0.02)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))


def test_the_learning_rate_is_held_before_it_falls() -> None:
    settings = OptimiserSettings(learning_rate=0.1, warm_up=4, hold=0.5)
    rates = [learning_rate(settings, step, 100) for step in range(101)]
    assert set(rates[4:51]) == {0.1}
    assert rates[75] == pytest.approx(0.05)
    assert rates[100] == pytest.approx(0.0)


@pytest.mark.parametrize("warm_up", [0, 10, 50])
def test_the_learning_rate_is_positive_and_bounded(warm_up: int) -> None:
    settings = OptimiserSettings(learning_rate=0.1, warm_up=warm_up)
    assert all(0 < learning_rate(settings, step, 10) <= 0.1 for step in range(10))
    constant = OptimiserSettings(learning_rate=0.1, warm_up=0, final=1)
    assert {learning_rate(constant, step, 10) for step in range(10)} == {0.1}


def test_the_log_has_the_learning_rate_that_was_used(
    tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    recipe = make_recipe()
    train(recipe, tmp_path)
    for row in rows(tmp_path):
        expected = learning_rate(recipe.optimiser, int(row["step"]) - 1, 24)
        assert float(row["learning_rate"]) == expected


# Validation


def scores_of(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Let the validations of the next run find these scores."""
    found: Iterator[float] = iter(scores)
    monkeypatch.setattr(Validation, "si_sdri", lambda self, model: next(found))


def test_the_weights_that_validated_best_are_kept(
    tmp_path: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[int, dict[str, Tensor]] = {}
    scores = iter([1.0, 3.0, 2.0, 3.0, math.nan])

    def si_sdri(self: Validation, model: Model) -> float:
        weights = model.network.state_dict()
        kept[len(kept)] = {name: value.clone() for name, value in weights.items()}
        return next(scores)

    monkeypatch.setattr(Validation, "si_sdri", si_sdri)
    best = train(make_recipe(), tmp_path)
    assert same(load_file(best), kept[1])
    assert load_model(best).notes["valid_si_sdri_db"] == 3.0
    assert load_model(best).notes["step"] == 10
    assert same(final_weights(tmp_path), kept[4])


def test_a_run_whose_validation_never_told_anything_returns_its_last_weights(
    tmp_path: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores_of(monkeypatch, [math.nan] * 5)
    assert train(make_recipe(), tmp_path).parent.name == "000000024"


@pytest.mark.parametrize("training", [True, False])
def test_validation_draws_no_random_number_and_leaves_the_mode(
    make_recipe: MakeRecipe, training: bool
) -> None:
    recipe = make_recipe()
    assert recipe.validation is not None
    network = build_network(recipe.model).train(training)
    validation, model = validation_of(recipe), Model(recipe.model, network, {})
    assert validation is not None
    before = torch.get_rng_state()
    score = validation.si_sdri(model)
    assert torch.equal(before, torch.get_rng_state())
    assert network.training is training
    assert score == validation.si_sdri(model)  # dropout is off
    assert math.isfinite(score)


def test_a_silent_reference_does_not_count(
    tmp_path: Path, corpus: Path, make_recipe: MakeRecipe
) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(3000), 2000)
    for speaker in range(4):
        (tmp_path / f"s{speaker}").symlink_to(corpus / f"s{speaker}")
    first, *others = read_list(corpus / "valid.csv")
    one, two = first.sources
    half = replace(first, id="half", sources=(one, replace(two, paths=("silence.wav",))))
    quiet = replace(two, paths=("silence.wav",))
    write_list([first, *others], tmp_path / "a.csv")
    nothing = replace(first, id="nothing", sources=(quiet, quiet))
    write_list([first, *others, nothing], tmp_path / "b.csv")
    write_list([half], tmp_path / "c.csv")
    settings = make_recipe().model
    model = Model(settings, build_network(settings), {})

    def score(name: str) -> float:
        settings = {"list": str(tmp_path / name), "root": str(tmp_path)}
        validation = validation_of(make_recipe(validation=settings))
        assert validation is not None
        return validation.si_sdri(model)

    assert score("a.csv") == pytest.approx(score("b.csv"))
    assert math.isfinite(score("c.csv"))


# Refusals


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_in_the_weights(
    tmp_path: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    calls = 0

    def loss(*inputs: Any) -> Tensor:
        nonlocal calls
        calls += 1
        value = real(*inputs)
        if calls == 8 and where == "gradient":
            value.register_hook(lambda gradient: gradient * math.inf)
        return value * math.nan if calls == 8 and where == "loss" else value

    real = loop.batch_loss
    monkeypatch.setattr(loop, "batch_loss", loss)
    recipe = make_recipe(checkpoint_minutes=1e-9)
    problem = r"at step 8 \(mixtures \d+ to \d+ of stage \d\) .*nan.* lower optimiser.learning_rate"
    with pytest.raises(InputError, match=problem) as caught:
        train(recipe, tmp_path)
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert f"the last good weights are in {checkpoint};" in str(caught.value)
    model, state = load_checkpoint(checkpoint)
    assert state["step"] == 7
    assert all(value.isfinite().all() for value in model.network.state_dict().values())


def test_a_run_that_is_there_is_not_overwritten(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    train(make_recipe(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match="exists; add --resume"):
        train(make_recipe(), tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_force_begins_anew_and_leaves_nothing_of_the_old_run(
    tmp_path: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores_of(monkeypatch, [100.0] * 5 + [1.0, 2.0, 3.0, 4.0, 5.0])
    train(make_recipe(seed=1), tmp_path / "run")
    best = train(make_recipe(), tmp_path / "run", force=True)
    assert load_model(best).notes["valid_si_sdri_db"] == 5.0
    assert [int(row["step"]) for row in rows(tmp_path / "run")] == [5, 10, 15, 20, 24]
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    monkeypatch.undo()
    train(make_recipe(), tmp_path / "new")
    assert same(final_weights(tmp_path / "run"), final_weights(tmp_path / "new"))


@pytest.mark.parametrize("missing", ["lightning.fabric", "tensorboard"])
def test_a_package_that_is_missing_is_named_before_anything_is_written(
    tmp_path: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.delattr("torch.utils.tensorboard", raising=False)
    with pytest.raises(InputError) as caught:
        train(make_recipe(), tmp_path / "run")
    assert missing in str(caught.value)
    assert 'pip install "dpcl[train]"' in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    with pytest.raises(InputError, match="accelerator gpu"):
        train(make_recipe(accelerator="gpu"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_a_file_is_refused(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(InputError, match="cannot hold a run"):
        train(make_recipe(), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": {"corpora": ["nowhere"]}}, "nowhere"),
        ({"validation": {"list": "nowhere.csv", "root": "."}}, "nowhere.csv"),
    ],
)
def test_data_that_are_not_there_are_named(
    tmp_path: Path, make_recipe: MakeRecipe, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        train(make_recipe(**change), tmp_path)


def test_too_few_talkers_are_refused(tmp_path: Path, make_recipe: MakeRecipe, corpus: Path) -> None:
    data = {"corpora": [str(corpus)], "num_sources": 5, "cache": str(tmp_path / "cache")}
    with pytest.raises(InputError, match="4 speakers"):
        train(make_recipe(data=data), tmp_path)
