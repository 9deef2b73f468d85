"""Files of recipes: bases, rows and phases, and one sentence for each mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from dpcl.errors import InputError
from dpcl.training.phases import ONLY, Average, Fit, read_plan
from dpcl.training.recipe import Recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))
ROWS = [
    (path, row)
    for path in RECIPES
    for row in (None, *yaml.safe_load(path.read_text(encoding="utf-8")).get("rows", {}))
]
LONG = {"base.yaml", "hershey2016.yaml", "extensions.yaml"}  # shared settings, the paper, a table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Recipes: base.yaml, and chain.yaml with a phase of every kind."""
    (tmp_path / "base.yaml").write_text(
        "model: {network: {layers: 2, width: 5}}\n"
        "stages: [{frames: 10, batch: 2, steps: 3}]\n"
        "rows: {other: {seed: 9}}\n"
    )
    (tmp_path / "chain.yaml").write_text(
        "base: base.yaml\n"
        "model: {network: {width: 7}}\n"
        "phases:\n"
        "  - {name: one, seed: 1}\n"
        "  - {name: two, init: one, model: {network: {dropout: 0.1}}}\n"
        "  - {name: both, average: [one, two], share: 0.6}\n"
        "  - {name: count, fit: count}\n"
        "rows: {wide: {model: {network: {width: 11}}}}\n"
    )
    return tmp_path


def refusal(path: Path | str, **options: str) -> str:
    with pytest.raises(InputError) as caught:
        read_plan(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("path", "row"), ROWS)
def test_every_recipe_in_the_repository_loads(path: Path, row: str | None) -> None:
    plan = read_plan(path, row=row)
    assert plan.phases
    assert plan.difference(read_plan(path, row=row)) is None


def test_recipes_are_short_and_name_no_folder() -> None:
    lines = {path.name: path.read_text(encoding="utf-8").splitlines() for path in RECIPES}
    assert sum(map(len, lines.values())) <= 350
    for name, text in lines.items():
        assert name in LONG or len(text) <= 15, name
        for line in text:
            code = line.partition(" #")[0]
            assert not re.search(r"\.\./|(?:^|[\s\[{:\"'])[/~]|[A-Za-z]:\\", code), line


def test_a_base_is_merged_deeply_and_its_rows_are_not_inherited(folder: Path) -> None:
    one, two, both, count = read_plan(folder / "chain.yaml").phases
    assert isinstance(one.work, Recipe)
    assert isinstance(two.work, Recipe)
    assert (one.work.seed, two.work.seed) == (1, 0)
    network = two.work.model.network
    assert (network.layers, network.width, network.dropout) == (2, 7, 0.1)
    assert one.work.model.network.dropout == 0.0
    assert (one.needs, two.needs, both.needs, count.needs) == (
        (),
        ("one",),
        ("one", "two"),
        ("both",),
    )
    assert isinstance(both.work, Average)
    assert isinstance(count.work, Fit)
    assert "rows.other: there" in refusal(folder / "chain.yaml", row="other").replace(
        "--row ", "rows."
    )


def test_a_row_and_a_change_hold_for_all_phases(folder: Path) -> None:
    plan = read_plan(folder / "chain.yaml", ("seed=5",), row="wide")
    assert plan.name == "chain-wide"
    assert [p.work.seed for p in plan.phases if isinstance(p.work, Recipe)] == [1, 5]
    assert {p.work.model.network.width for p in plan.phases if isinstance(p.work, Recipe)} == {11}


def test_a_recipe_without_phases_is_one_training(folder: Path) -> None:
    plan = read_plan(folder / "base.yaml", corpora=["somewhere"])
    assert [phase.name for phase in plan.phases] == [ONLY]
    assert plan.recipe.data.corpora == ("somewhere",)


def test_a_shipped_recipe_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_plan("chimera").recipe.model.network.masks == 2


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("base: none.yaml", "base: there is no file none.yaml"),
        ("base: [base.yaml]", "base: there is no file"),
        ("base: mine.yaml", "base: mine.yaml has mine.yaml as its own base"),
        ("base: circle.yaml", "base: mine.yaml has mine.yaml as its own base"),
        ("base: base.yaml\nrows: {a: {}}\nphases: x", "phases: must be a list"),
        ("base: base.yaml\nphases: [{seed: 1}]", "phases.0: name"),
        ("base: base.yaml\nphases: [{name: a/b}]", "phases.0: name"),
        ("base: base.yaml\nphases: [{name: a}, {name: a}]", "phases.a: the name occurs twice"),
        ("base: base.yaml\nphases: [{name: a, sead: 1}]", "phases.a: unknown key sead"),
        (
            "base: base.yaml\nphases: [{name: a}, {name: b, average: [a, c]}]",
            "phases.b: there is no earlier phase c; give one of a",
        ),
        (
            "base: base.yaml\nphases: [{name: b, average: [b, b]}]",
            "there is no earlier phase b; move it after a training",
        ),
        ("base: base.yaml\nphases: [{name: a, fit: count}]", "phases.a: fit count has no model"),
        ("base: base.yaml\nphases: [{name: a}, {name: b, fit: taste}]", "phases.b: fit"),
        ("base: base.yaml\nphases: [{name: a}, {name: b, average: [a]}]", "phases.b: average.1"),
    ],
)
def test_a_wrong_file_is_one_sentence(folder: Path, text: str, what: str) -> None:
    (folder / "circle.yaml").write_text("base: mine.yaml")
    (folder / "mine.yaml").write_text(text)
    assert what in refusal(folder / "mine.yaml")


def test_an_unknown_row_names_those_that_there_are(folder: Path) -> None:
    assert "choose one of wide" in refusal(folder / "chain.yaml", row="narrow")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ((), None),
        (("data.corpora=[elsewhere]",), None),
        (("accelerator=cpu",), None),
        (("phases.1.model.network.dropout=0.2",), "phases.two.model.network.dropout"),
        (("phases.2.share=0.4",), "phases.both.share"),
        (("phases.3.most=2",), "phases.count.most"),
        (("phases=[{name: one}]",), "phases"),
    ],
)
def test_the_first_key_that_differs_is_named(
    folder: Path, changes: tuple[str, ...], key: str | None
) -> None:
    plan = read_plan(folder / "chain.yaml")
    assert plan.difference(read_plan(folder / "chain.yaml", changes)) == key
