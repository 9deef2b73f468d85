"""Killed at any moment and resumed, a run ends as if it had never stopped."""

from __future__ import annotations

import csv
import functools
import importlib
import itertools
import multiprocessing
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file

from dpcl.errors import InputError
from dpcl.evaluation.validation import Validation
from dpcl.model import load_model
from dpcl.training import loop
from dpcl.training.checkpoint import latest_checkpoint
from dpcl.training.loop import train
from dpcl.training.recipe import Recipe

pytest.importorskip("lightning")
pytest.importorskip("tensorboard")

MakeRecipe = Callable[..., Recipe]


class Killed(BaseException):
    """Stands for the end of the process."""


def outcome(run: Path) -> dict[str, Any]:
    """All that a run leaves, but for its speed."""
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    with (run / "log.csv").open() as file:
        log = list(csv.DictReader(file))
    for row in log:
        del row["speed"]
    found = {"step": checkpoint.name, "log": log}
    for path in (checkpoint / "model.safetensors", run / "best.safetensors"):
        if path.exists():
            found |= {f"{path.name} {key}": value for key, value in load_file(path).items()}
            found[f"{path.name} notes"] = load_model(path).notes
    return found


def assert_same_end(run: Path, uninterrupted: Path) -> None:
    ours, theirs = outcome(run), outcome(uninterrupted)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(ours[key], value), key
        elif key.endswith("notes"):  # where and how fast may differ
            assert ours[key] | {"recipe": 0} == value | {"recipe": 0}
        else:
            assert ours[key] == value
    names = {path.name for path in run.iterdir()} - {"best.safetensors"}
    assert names == {"log.csv", "tensorboard", "checkpoints"}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second between two looks at the clock, so that checkpoints come at the same steps."""
    monkeypatch.setattr(loop, "perf_counter", itertools.count().__next__)


# checkpoint_minutes, by that clock: always, after 3 or 4 steps, only at the beginning and the end
EVERY_STEP, SOME_STEPS, NEVER = 0.5 / 60, 3.5 / 60, 1000.0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, make_recipe: MakeRecipe) -> Path:
    """The run that nothing happened to: 12 steps, then 12 longer ones."""
    run = tmp_path_factory.mktemp("uninterrupted")
    train(make_recipe(), run)
    return run


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_by_sigkill_and_resumed_it_ends_with_the_same_weights(
    tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    stages = [{"frames": 12, "batch": 4, "steps": 50}, {"frames": 20, "batch": 2, "steps": 50}]
    recipe = make_recipe(stages=stages, checkpoint_minutes=1e-9)
    train(recipe.model_copy(update={"checkpoint_minutes": 1000.0}), tmp_path / "whole")

    run = tmp_path / "killed"
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["lightning.fabric", "torch.utils.tensorboard", loop.__name__])
    moments = random.Random(0)
    stopped_at = []
    for resume in (False, True, True):
        before = latest_checkpoint(run)
        process = processes.Process(target=train, args=(recipe, run, resume))
        process.start()
        while process.is_alive() and latest_checkpoint(run) in (before, None):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -9, "it ended before it could be killed"
        stopped_at.append(latest_checkpoint(run))
    assert len(set(stopped_at)) == 3
    train(recipe.model_copy(update={"checkpoint_minutes": 1000.0}), run, resume=True)
    assert_same_end(run, tmp_path / "whole")


# (function, number of its last call, whether that call still ends)
MOMENTS = {
    "in the first stage": ("dpcl.training.loop:batch_loss", 8, True),
    "at the boundary of the stages": ("dpcl.training.loop:batch_loss", 13, False),
    "in the second stage": ("dpcl.training.loop:batch_loss", 20, True),
    "in the last step": ("dpcl.training.loop:batch_loss", 24, False),
    "before a row is written": ("dpcl.training.checkpoint:RunLog.write", 2, False),
    "after a row is written": ("dpcl.training.checkpoint:RunLog.write", 3, True),
    "before the best weights are written": ("dpcl.training.loop:save_model", 1, False),
    "between best weights and checkpoint": ("dpcl.training.loop:save_model", 1, True),
    "before the first checkpoint": ("dpcl.training.checkpoint:torch.save", 1, False),
    "after the first checkpoint": ("dpcl.training.loop:save_checkpoint", 1, True),
    "within the last checkpoint": ("dpcl.training.checkpoint:torch.save", -1, False),
    "before the last checkpoint has its name": ("dpcl.training.checkpoint:Path.rename", -1, False),
    "when the last checkpoint has its name": ("dpcl.training.checkpoint:Path.rename", -1, True),
    "in the validation": ("dpcl.evaluation.validation:Validation.si_sdri", 4, False),
}


@pytest.mark.parametrize("minutes", [SOME_STEPS, NEVER])
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_this_moment_and_resumed_it_ends_the_same(
    tmp_path: Path,
    make_recipe: MakeRecipe,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    minutes: float,
) -> None:
    target, last, done = MOMENTS[moment]
    recipe = make_recipe(checkpoint_minutes=minutes)
    if last < 0:  # counted from the end: the calls of a whole run
        with monkeypatch.context() as patch:
            calls = kill(patch, target, 10**9, done)
            train(recipe, tmp_path / "counted")
        last = len(calls)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, target, last, done)
        train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", uninterrupted)


def test_killed_again_and_again_it_ends_the_same(
    tmp_path: Path,
    make_recipe: MakeRecipe,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = make_recipe(checkpoint_minutes=SOME_STEPS)
    for _ in range(100):
        try:
            with monkeypatch.context() as patch:
                kill(patch, "dpcl.training.loop:batch_loss", 6, True)
                train(recipe, tmp_path / "run", resume=True)
            break
        except Killed:
            pass
    assert_same_end(tmp_path / "run", uninterrupted)


def test_resumed_with_other_workers_and_checkpoints_it_ends_the_same(
    tmp_path: Path,
    make_recipe: MakeRecipe,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, "dpcl.training.loop:batch_loss", 9, True)
        train(make_recipe(checkpoint_minutes=EVERY_STEP), tmp_path / "run")
    train(make_recipe(workers=1), tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", uninterrupted)


def test_a_finished_run_is_resumed_without_a_change(
    make_recipe: MakeRecipe, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contents() -> dict[Path, tuple[int, bytes]]:
        files = [path for path in uninterrupted.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = contents()
    # nothing is even read: the recordings may be gone
    monkeypatch.setattr(loop, "prepare", None)
    weights = train(make_recipe(), uninterrupted, resume=True)
    assert weights == uninterrupted / "best.safetensors"
    assert contents() == before


def test_resuming_what_never_began_begins_it(
    tmp_path: Path, make_recipe: MakeRecipe, uninterrupted: Path
) -> None:
    train(make_recipe(), tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", uninterrupted)


def test_a_half_written_row_of_the_log_is_dropped(
    tmp_path: Path,
    make_recipe: MakeRecipe,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, "dpcl.training.loop:batch_loss", 13, True)
        train(make_recipe(checkpoint_minutes=EVERY_STEP), tmp_path / "run")
    with (tmp_path / "run" / "log.csv").open("a") as log:
        log.write("15,2")
    train(make_recipe(), tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("log", [None, ""])
def test_a_log_that_is_lost_is_begun_anew(
    tmp_path: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, log: str | None
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, "dpcl.training.loop:batch_loss", 13, True)
        train(make_recipe(checkpoint_minutes=EVERY_STEP), tmp_path)
    path = tmp_path / "log.csv"
    path.unlink() if log is None else path.write_text(log)
    train(make_recipe(), tmp_path, resume=True)
    assert [row["step"] for row in outcome(tmp_path)["log"]] == ["15", "20", "24"]


def test_tensorboard_shows_every_row_once(
    tmp_path: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = make_recipe(checkpoint_minutes=SOME_STEPS)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, "dpcl.training.loop:batch_loss", 16, True)
        train(recipe, tmp_path)
    train(recipe, tmp_path, resume=True)
    board = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    steps = [event.step for event in board.Scalars("si_sdri")]
    assert steps == [5, 10, 15, 20, 24]


def test_best_weights_are_never_replaced_by_worse_ones(
    tmp_path: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU may find other scores the second time; the kept score is still the one of the file."""
    scores = iter([1.0, 7.0, 2.0, 1.0, 4.0, 6.0, 5.0, 3.0])
    monkeypatch.setattr(Validation, "si_sdri", lambda self, model: next(scores))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, "dpcl.training.loop:batch_loss", 18, True)
        train(make_recipe(), tmp_path)  # checkpoint at step 0 alone
    best = load_model(train(make_recipe(), tmp_path, resume=True))
    assert best.notes["valid_si_sdri_db"] == 7.0
    assert best.notes["step"] == 10


def test_the_checkpoint_of_another_recipe_is_refused(
    make_recipe: MakeRecipe, uninterrupted: Path
) -> None:
    for change, key in [
        ({"seed": 4}, "seed"),
        ({"stages": [{"frames": 12, "batch": 4, "steps": 99}]}, "stages"),
        ({"validation": None}, "validation"),
    ]:
        with pytest.raises(InputError, match=f"another `{key}`;"):
            train(make_recipe(**change), uninterrupted, resume=True)


def test_recordings_that_have_changed_are_refused(
    tmp_path: Path, make_recipe: MakeRecipe, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    recipe = make_recipe(data={"corpora": [str(copy)], "cache": str(tmp_path / "cache")})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, "dpcl.training.loop:batch_loss", 3, True)
        train(recipe, tmp_path / "run")
    samples, rate = soundfile.read(copy / "s0" / "0.wav")
    soundfile.write(copy / "s0" / "0.wav", samples[:-100], rate)
    with pytest.raises(InputError, match="recordings have changed"):
        train(recipe, tmp_path / "run", resume=True)


def kill(patch: pytest.MonkeyPatch, target: str, last: int, done: bool) -> list[int]:
    """End the process in that call of `target`; returns a list that grows with every call."""
    module, _, path = target.partition(":")
    *parents, name = path.split(".")
    owner = functools.reduce(getattr, parents, importlib.import_module(module))
    real = getattr(owner, name)
    calls: list[int] = []

    def counting(*args: Any, **named: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == last and not done:
            raise Killed
        result = real(*args, **named)
        if len(calls) == last:
            raise Killed
        return result

    patch.setattr(owner, name, counting)
    return calls
