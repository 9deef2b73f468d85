"""Recipes: those that ship are whole, and one with a mistake is refused with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dpcl.errors import InputError
from dpcl.training.phases import read_plan
from dpcl.training.recipe import Recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))

GOOD = """
data: {corpora: [speech, more], split: train}
stages: [{frames: 100, batch: 4, steps: 10}, {frames: 400, batch: 2, steps: 5}]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    return path


def read_recipe(path: Path, changes: tuple[str, ...] = ()) -> Recipe:
    return read_plan(path, changes).recipe


def refusal(path: Path, *changes: str) -> str:
    """The one sentence that a bad recipe is refused with."""
    with pytest.raises(InputError) as caught:
        read_recipe(path, changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_papers_recipe_is_the_papers() -> None:
    recipe = read_recipe(next(path for path in RECIPES if path.stem == "hershey2016"))
    signal, network = recipe.model.signal, recipe.model.network
    assert (signal.sample_rate, signal.window, signal.hop) == (8000, 256, 64)
    assert (network.layers, network.width, network.embedding) == (2, 600, 40)
    assert network.activation == "tanh"
    assert [stage.frames for stage in recipe.stages] == [100]
    assert (recipe.objective.weighting, recipe.objective.floor_db) == ("threshold", -40)
    assert (recipe.model.masks.weighting, recipe.model.masks.sharpness) == ("threshold", None)
    assert recipe.data.num_sources == 2


def test_steps_of_all_stages_are_added_up(path: Path) -> None:
    assert read_recipe(path).steps == 15


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("seed=7", lambda r: r.seed == 7),
        ("model.network.width=50", lambda r: r.model.network.width == 50),
        ("stages.1.steps=9", lambda r: r.steps == 19),
        ("stages=[{frames: 2, batch: 1, steps: 1}]", lambda r: r.steps == 1),
        ("data.corpora.0=a", lambda r: r.data.corpora == ("a", "more")),
        ("data.only=[a, b]", lambda r: r.data.only == ("a", "b")),
        # YAML 1.1 reads 1e-5 as text
        ("optimiser.learning_rate=1e-5", lambda r: r.optimiser.learning_rate == 1e-5),
        ("optimiser.clip=null", lambda r: r.optimiser.clip is None),
        ("data.cache=a=b", lambda r: r.data.cache == "a=b"),
    ],
)
def test_set_changes_a_key(path: Path, change: str, read: Callable[[Recipe], bool]) -> None:
    assert read(read_recipe(path, (change,)))


def test_the_last_of_two_changes_holds(path: Path) -> None:
    assert read_recipe(path, ("seed=1", "seed=2")).seed == 2


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("sead=1", "sead"),
        ("optimizer.learning_rate=1", "optimizer"),
        ("model.network.widht=50", "model.network.widht"),
        ("stages.1.frame=3", "stages.1.frame"),
        ("data.splits=test", "data.splits"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(path: Path, change: str, key: str) -> None:
    assert refusal(path, change).startswith(f"{path}: unknown key {key};")


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ("model.network.width=0", "model.network.width", "not 0"),
        ("model.network.dropout=1", "model.network.dropout", "not 1"),
        ("model.network.activation=relu", "model.network.activation", "not 'relu'"),
        ("model.signal.hop=100", "model.signal", "hop 100"),
        ("data.num_sources=11", "data.num_sources", "not 11"),
        ("data.corpora=[{path: a}]", "data.corpora.0", "valid string"),
        (
            "data={same_speaker: true, num_sources: 2,"
            " kinds: {groups: {x: [y]}, mixtures: [{of: [x, x]}]}}",
            "data",
            "omit same_speaker",
        ),
        (
            "data={num_sources: 2, kinds: {groups: {x: [y]}, mixtures: [{of: [x, x]}, {of: [x]}]}}",
            "data",
            "kinds are of 1 and 2 sources",
        ),
        ("data.relative_level_db=.inf", "data.relative_level_db", "not inf"),
        ("objective.floor_db=3", "objective.floor_db", "not 3"),
        ("stages.0.frames=1", "stages.0.frames", "not 1"),  # a segment of no samples
        ("stages.1.batch=1.5", "stages.1.batch", "not 1.5"),
        ("stages=100", "stages", "not 100"),
        ("optimiser.learning_rate=-1", "optimiser.learning_rate", "not -1"),
        ("optimiser.learning_rate=.nan", "optimiser.learning_rate", "not nan"),
        ("precision=16", "precision", "not 16"),
        ("seed=-1", "seed", "not -1"),
        ("devices=3", "stages.0.batch 4", "devices 3"),
        ("validation={root: speech}", "validation.list", "required"),
        ("validation=yes", "validation", "not True"),
    ],
)
def test_an_impossible_value_is_named_with_its_key(
    path: Path, change: str, key: str, value: str
) -> None:
    message = refusal(path, change)
    assert message.startswith(f"{path}: {key}")
    assert value in message


def test_a_missing_key_is_named(path: Path) -> None:
    path.write_text("seed: 1")
    assert refusal(path).startswith(f"{path}: stages: ")


@pytest.mark.parametrize(
    "text", ["", "just text", "- a\n- list", "a: [1,\nb: 2", "a:\n\t- b", "\0", "1: 2"]
)
def test_what_is_no_recipe_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    assert str(path) in refusal(path)


def test_bytes_that_are_no_text_are_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x80RIFF")
    assert str(path) in refusal(path)


def test_a_recipe_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    assert "none.yaml" in refusal(tmp_path / "none.yaml")
    assert str(tmp_path) in refusal(tmp_path)


@pytest.mark.parametrize(
    "change",
    ["seed", "=1", "stages.2.steps=1", "stages.one.steps=1", "stages.0.steps.a=1", "seed=[1"],
)
def test_a_change_that_cannot_be_made_is_named(path: Path, change: str) -> None:
    assert refusal(path, change).startswith(f"--set {change}: ")


def test_recipes_are_told_apart_by_what_they_train_not_by_the_machine(path: Path) -> None:
    recipe = read_recipe(path)
    machine = ("workers=2", "devices=2", "checkpoint_minutes=1", "data.cache=x", "accelerator=cpu")
    machine += ("data.corpora=[elsewhere]",)
    assert recipe.difference(read_recipe(path, machine).model_dump_json()) is None
    assert recipe.difference(read_recipe(path, ("seed=1",)).model_dump_json()) == "seed"
    other = read_recipe(path, ("data.speed=0.1",)).model_dump_json()
    assert recipe.difference(other) == "data.speed"
    assert recipe.difference('{"of": "another version"}') == "version"
