"""All phases of a recipe: killed at any moment and resumed, the result is the same."""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import dpcl
from dpcl.errors import InputError
from dpcl.model import load_model
from dpcl.training.phases import read_plan
from dpcl.training.run import describe, run_plan

pytest.importorskip("lightning")
pytest.importorskip("tensorboard")

SOURCE = Path(dpcl.__file__).parents[1]
RECIPE = """
model:
  signal: {sample_rate: 2000, window: 64, hop: 32}
  network: {layers: 1, width: 4, embedding: 3, dropout: 0.2}
data: {split: train, cache: CACHE}
stages: [{frames: 12, batch: 4, steps: STEPS}]
optimiser: {learning_rate: 0.01}
validation: {list: valid.csv, every: 20}
accelerator: cpu
checkpoint_minutes: 0.0001
phases:
  - {name: first}
  - {name: second, init: first, seed: 1, data: {num_sources: 3}, validation: null}
  - {name: both, average: [first, second], share: 0.25}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three phases, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return write(tmp_path / "tiny.yaml")


def write(path: Path, steps: int = 8) -> Path:
    cache = path.parent / "cache"
    text = RECIPE.replace("STEPS", str(steps)).replace("CACHE", str(cache))
    path.write_text(text, encoding="utf-8")
    return path


def start(recipe: Path, corpus: Path, run: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dpcl", "train", recipe, "--run", run, "--resume"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "DPCL_CORPUS": str(corpus)}
    return subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL)


def newest(run: Path) -> tuple[Path, ...]:
    """The work of a run that a resumed one does not repeat."""
    return tuple(sorted(run.glob("*/checkpoints/[0-9]*")))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_twice_and_resumed_the_result_is_the_same(recipe: Path, corpus: Path) -> None:
    write(recipe, steps=60)
    seldom = ("checkpoint_minutes=1000",)
    whole = run_plan(read_plan(recipe, seldom, [corpus]), Path("runs", "whole"))
    run, moments = Path("runs", "killed"), random.Random(0)
    for phase in ("first", "second"):
        process = start(recipe, corpus, run)
        seen = newest(run)
        while process.poll() is None and not (set(newest(run)) - set(seen)):
            time.sleep(0.01)
        while process.poll() is None and not (run / phase / "checkpoints").exists():
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
        assert newest(run) != seen
    assert start(recipe, corpus, run).wait() == 0
    ours, theirs = load_file(run / "killed.safetensors"), load_file(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in ("audio_hours", "valid_si_sdri_db", "data", "seed", "commit"):
        assert load_model(run / "killed.safetensors").notes[name] == load_model(whole).notes[name]


def test_the_result_holds_recipe_scores_data_and_cost(recipe: Path, corpus: Path) -> None:
    plan = read_plan(recipe, corpora=[corpus])
    result = run_plan(plan, Path("runs", "tiny"))
    assert result == Path("runs", "tiny", "tiny.safetensors")
    assert {path.name for path in result.parent.iterdir()} == {
        "first", "second", "both", "tiny.yaml", "tiny.md", "tiny.safetensors",
    }  # fmt: skip
    notes = load_model(result).notes
    copied = yaml.safe_load(result.with_suffix(".yaml").read_text())
    assert plan.document == copied
    assert "cache" in copied["data"]  # of this machine; the metadata keep what others can use
    machine = {"accelerator", "checkpoint_minutes"}
    assert copied.keys() - notes["recipe"].keys() == machine
    assert notes["recipe"] | {key: copied[key] for key in {*machine, "data"}} == copied
    assert notes["recipe"]["data"].items() < copied["data"].items()
    assert "cache" not in notes["recipe"]["data"]
    assert notes["core_hours"] > 0
    hop = 32 / 2000 / 3600
    assert notes["audio_hours"] == pytest.approx(2 * 8 * 4 * 11 * hop, abs=1e-4)
    assert set(notes["valid_si_sdri_db"]) == {"first", "both"}
    assert notes["data"] == [{"corpus": "x", "talkers": 4, "recordings": 8, "hours": 0.003}]
    card = result.with_suffix(".md").read_text()
    assert "| first |" in card
    assert "| x | 4 | 8 | 0.003 |" in card
    assert all(text in card for text in describe(load_model(result)).values())
    first, second, both = (
        load_model(next((result.parent / name).glob(pattern))).network.state_dict()
        for name, pattern in (
            ("first", "best.safetensors"),
            ("second", "checkpoints/*/model.safetensors"),
            ("both", "weights.safetensors"),
        )
    )
    for name, value in both.items():
        torch.testing.assert_close(value, 0.75 * first[name] + 0.25 * second[name])
    # The copy is a recipe itself, and a finished run is left as it is.
    assert read_plan(result.with_suffix(".yaml")).difference(plan) is None
    before = result.stat().st_mtime_ns
    assert run_plan(plan, result.parent, resume=True) == result
    assert result.stat().st_mtime_ns == before


def test_a_later_recipe_starts_from_the_result_of_an_earlier_one(
    recipe: Path, corpus: Path
) -> None:
    plan = read_plan(recipe, ("phases=[{name: first}]",), [corpus])
    result = run_plan(plan, Path("runs", "tiny"))
    changes = ("init=tiny", "optimiser.learning_rate=1e-12", "phases=[{name: more}]")
    other = run_plan(read_plan(recipe, changes, [corpus]), Path("runs", "other"))
    theirs = load_file(result)
    for name, value in load_file(other).items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-3)


def refused(recipe: Path, corpus: Path | None, *changes: str, **options: Any) -> str:
    plan = read_plan(recipe, changes, [] if corpus is None else [corpus])
    with pytest.raises(InputError) as caught:
        run_plan(plan, Path("runs", "tiny"), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_run_is_not_replaced_and_not_continued_with_another_recipe(
    recipe: Path, corpus: Path
) -> None:
    run_plan(read_plan(recipe, corpora=[corpus]), Path("runs", "tiny"))
    assert "--resume or --force" in refused(recipe, corpus)
    key = "phases.second.optimiser.learning_rate"
    change = "phases.1.optimiser={learning_rate: 0.5}"
    assert f"another `{key}`" in refused(recipe, corpus, change, resume=True)
    assert "choose one" in refused(recipe, corpus, resume=True, force=True)
    assert Path("runs", "tiny", "tiny.safetensors").exists()
    run_plan(read_plan(recipe, (change,), [corpus]), Path("runs", "tiny"), force=True)
    again = load_model(Path("runs", "tiny", "tiny.safetensors")).notes["recipe"]
    assert again["phases"][1]["optimiser"] == {"learning_rate": 0.5}


def test_what_is_missing_is_named_before_anything_is_written(recipe: Path, corpus: Path) -> None:
    assert "add --corpus CORPUS" in refused(recipe, None)
    assert "init: nothing: no such weights file" in refused(
        recipe, corpus, "phases.2={name: x, init: nothing}"
    )
    assert "no list nowhere.csv" in refused(recipe, corpus, "validation.list=nowhere.csv")
    message = refused(recipe, corpus, "data.split=other")
    assert "other" in message
    assert "train" in message  # the splits that it has
    assert not Path("runs", "tiny").exists()


def test_a_validation_list_of_another_corpus_is_drawn_anew(
    recipe: Path, corpus: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(corpus, other)
    (other / "valid.csv").unlink()
    changes = ("validation.list=valid2.csv", "validation.limit=2", "phases=[{name: first}]")
    assert "a split `valid`" in refused(recipe, other, *changes)
    with (other / "index.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    for row in rows[:4]:
        row[0] = "valid"
    with (other / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    slow = ("optimiser.learning_rate=1e-6",)
    # Its recordings are too short for the default lengths, so they are repeated.
    result = run_plan(read_plan(recipe, (*changes, *slow), [other]), Path("runs", "tiny"))
    assert set(load_model(result).notes["valid_si_sdri_db"]) == {"first"}


def test_a_file_of_a_newer_layout_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with safe_open(str(tiny_model), framework="pt") as file:
        metadata = file.metadata()
    path = tmp_path / "newer.safetensors"
    save_file(load_file(tiny_model), path, metadata | {"layout": "99"})
    with pytest.raises(InputError, match=r"layout 99.*install a newer dpcl"):
        load_model(path)
