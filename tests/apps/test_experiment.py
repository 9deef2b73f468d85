"""`dpcl experiment` from the command line to its report, on noises that take a moment."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dpcl.evaluation import cache, conditions, descriptions, examples, experiment
from dpcl.mixtures.lists import write_list
from dpcl.mixtures.rows import MixtureRow, SourceRow

pytest.importorskip("fast_bss_eval")
pytest.importorskip("matplotlib")

Program = Callable[..., Any]

TABLE = """
title: A & B
about: What is shown.
lists: [open2]
systems:
  - {name: tiny, recipe: tiny}
  - {name: other, recipe: tiny, changes: {model.network.embedding: 3}}
  - {name: ibm, title: ideal, published: {open2: {sdri: 13.5, paper: X 2016}}}
  - {name: nmf}
"""
RECIPE = """
model: {network: {layers: 1, width: 4, embedding: 2, activation: none}}
data: {split: train}
stages: [{frames: 20, batch: 2, steps: 2}]
accelerator: cpu
"""


@pytest.fixture
def table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an experiment `tiny`, a corpus, its list open2, and a recipe."""
    described = folder / "descriptions"
    for name in ("descriptions", "corpus", "lists", "recipes"):
        (folder / name).mkdir()
    (described / "tiny.yaml").write_text(TABLE)
    monkeypatch.setattr(descriptions, "DESCRIPTIONS", described)
    (folder / "recipes" / "tiny.yaml").write_text(RECIPE)
    rng = np.random.default_rng(0)
    lines = ["split,corpus,speaker,gender,path,text"]
    for talker, gender in (("ann", "f"), ("bob", "m"), ("cy", "m"), ("dee", "f")):
        for number, split in enumerate(("test",) if talker == "dee" else ("test", "train")):
            # Dee says as much as her mixture holds: nobody can learn how she sounds.
            parts = 10 if talker == "dee" else 30
            samples = rng.standard_normal(parts * 800) * np.repeat(rng.random(parts) > 0.3, 800)
            name = f"{talker}{number}.wav"
            soundfile.write(folder / "corpus" / name, 0.1 * samples, 8000)
            lines.append(f"{split},x,{talker},{gender},{name},{talker}{number}")
    (folder / "corpus" / "index.csv").write_text("\n".join(lines) + "\n")
    rows = []
    for number, pair in enumerate((("ann", "dee"), ("ann", "bob"), ("bob", "cy"))):
        sources = tuple(SourceRow(talker, (f"{talker}0.wav",), 0.0, 0.0) for talker in pair)
        genders = "same" if number == 2 else "different"
        rows.append(MixtureRow(f"m{number}", "open2", 0, 1.0, "within", genders, sources))
    write_list(rows, folder / "lists" / "open2.csv")
    return folder


RUN = (
    *("experiment", "tiny", "--corpus", "corpus", "--out", "out", "--workers", 1),
    *("--lists", "lists", "--recipes", "recipes"),
)


def test_all_systems_are_trained_scored_and_shown_and_a_second_run_does_nothing(
    table: Path, dpcl: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "EXAMPLES", 1)
    run = (*RUN, "--train", "--systems", "tiny,ibm,nmf")
    ran = dpcl(*run)
    assert ran.status == 0, ran.err
    assert "1 of the 3 mixtures of open2 are omitted for all systems" in ran.err
    assert (table / "runs" / "tiny" / "tiny.safetensors").is_file()
    lines = list(csv.DictReader((table / "out" / "report.csv").open(newline="")))
    chosen = [line for line in lines if (line["group"], line["metric"]) == ("all", "sdri")]
    all_of = {line["system"]: line for line in chosen}
    assert list(all_of) == ["tiny", "ibm", "nmf"]
    assert {line["mixtures"] for line in all_of.values()} == {"2"}
    assert float(all_of["ibm"]["mean"]) > float(all_of["tiny"]["mean"])
    markdown = (table / "out" / "report.md").read_text()
    assert "# A & B" in markdown
    assert "13.5 SDRi (X 2016)" in markdown
    page = (table / "out" / "report.html").read_text()
    assert "A &amp; B" in page
    assert "http" not in page  # nothing beside it
    # A mixture and two references, and two estimates of three systems.
    assert page.count("<audio") == 3 + 3 * 2
    assert page.count("<img") == 1 + 3 + 1  # strips, and the embeddings of the network
    summary = json.loads((table / "out" / "open2-tiny" / "summary.json").read_text())
    assert summary["overall"]["mixtures"] == 2

    def fail(*work: object) -> None:
        raise AssertionError("this was done before")

    monkeypatch.setattr(cache, "_score", fail)
    monkeypatch.setattr(examples, "separate_row", fail)
    again = dpcl(*run, "--force")
    assert again.status == 0, again.err
    assert again.out == ran.out
    assert (table / "out" / "report.html").read_text() == page


def test_what_is_not_trained_stands_in_the_table_with_how_to_train_it(
    table: Path, dpcl: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "EXAMPLES", 0)
    ran = dpcl(*RUN, "--systems", "other,ibm", "--limit", 1)
    assert ran.status == 0, ran.err
    assert "| other | not trained |" in ran.out
    assert "--run runs/other --set model.network.embedding=3" in ran.err
    assert "Only the first 1 mixtures of open2" in ran.err
    assert "left out" not in ran.err  # neither of them must know the talkers


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("experiment", "nothing", "--corpus", "corpus", "--out", "out"), "'nothing'"),
        (("experiment", "tiny"), "--corpus and --out"),
        ((*RUN, "--systems", "tiny"), "--train"),
        ((*RUN, "--systems", "nobody"), "'nobody'"),
        ((*RUN, "--systems", "ibm", "--metrics", "visqol"), "visqol"),
        ((*RUN, "--systems", "ibm", "--recipes", "lists", "--limit", 0), "limit"),
    ],
)
def test_bad_arguments_are_one_sentence_and_leave_nothing(
    arguments: tuple[object, ...], what: str, table: Path, dpcl: Program
) -> None:
    ran = dpcl(*arguments)
    assert ran.status == 2
    assert ran.err.count("\n") == 1
    assert what in ran.err
    assert not (table / "out").exists()


def test_a_report_stays_and_a_missing_recording_is_named(table: Path, dpcl: Program) -> None:
    (table / "corpus" / "dee0.wav").unlink()
    ran = dpcl(*RUN, "--systems", "ibm")
    assert ran.status == 2
    assert "dee0.wav does not exist" in ran.err
    (table / "out").mkdir()
    (table / "out" / "report.md").write_text("mine")
    ran = dpcl(*RUN, "--systems", "ibm")
    assert ran.status == 2
    assert "--force" in ran.err


def test_without_a_name_all_are_listed(dpcl: Program) -> None:
    ran = dpcl("experiment")
    assert ran.status == 0
    assert "two-speakers  Two talkers, closed and open" in ran.out


CONDITIONS = """
babble: others
voices: 1
conditions:
  - {name: clean, base: open2}
  - {name: telephone, base: open2, title: a telephone, channel: band=300-3400|codec=ulaw}
  - {name: pink-0, base: open2, noise: pink, snr_db: 0}
"""


def test_conditions_are_scored_paired_and_kept(
    table: Path, dpcl: Program, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = f"[{{name: {tiny_model}}}, {{name: ibm}}]"
    text = f"title: Conditions\nabout: All.\nconditions: many\nsystems: {systems}"
    (table / "descriptions" / "tiny.yaml").write_text(text)
    (table / "lists" / "many.yaml").write_text(CONDITIONS)
    ran = dpcl(*RUN, "--metrics", "stoi")
    assert ran.status == 2 and "--metrics: experiment tiny has SI-SDR only" in ran.err
    ran = dpcl(*RUN)
    assert ran.status == 0, ran.err
    with Path("out", "report.csv").open(newline="") as file:
        lines = {(r["system"], r["condition"], r["measure"]): r for r in csv.DictReader(file)}
    name = str(tiny_model)
    assert {key[1:] for key in lines if key[0] == name} == {
        ("clean", "given"), ("clean", "estimated"),
        ("telephone", "given"), ("telephone", "difference"), ("telephone", "estimated"),
        ("pink-0", "given"), ("pink-0", "difference"), ("pink-0", "estimated"), ("pink-0", "more"),
    }  # fmt: skip
    assert {key[2] for key in lines if key[0] == "ibm"} == {"given", "difference"}
    ideal = lines["ibm", "telephone", "given"]
    assert float(ideal["low"]) <= float(ideal["mean"]) <= float(ideal["high"])
    difference = float(lines["ibm", "telephone", "difference"]["mean"])
    means = [
        float(lines["ibm", condition, "given"]["mean"]) for condition in ("telephone", "clean")
    ]
    assert difference == pytest.approx(means[0] - means[1], abs=2e-4)
    assert "a telephone" in ran.out and "of 3" in ran.out

    # A second run scores nothing.
    monkeypatch.setattr(conditions, "_score", None)
    first = Path("out", "report.csv").read_bytes()
    assert "exists; add --force" in dpcl(*RUN).err
    assert dpcl(*RUN, "--force").status == 0 and Path("out", "report.csv").read_bytes() == first
    (table / "corpus" / "cy0.wav").unlink()
    ran = dpcl(*RUN, "--force")
    assert ran.status == 2 and "cy0.wav does not exist" in ran.err
