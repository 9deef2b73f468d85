"""Conversations and meetings are scored: rendered ones with references, others with RTTM."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dpcl.errors import InputError
from dpcl.evaluation.descriptions import Conversations, Experiment, read_experiment
from dpcl.evaluation.diarisation import read_meetings
from dpcl.evaluation.meetings import (
    RECORDED,
    evaluate_timelines,
    meetings_markdown,
    meetings_report,
    score_meetings,
    timeline_files,
)

RATE = 8000


def experiment(**more: object) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "talk",
            "title": "Talk",
            "about": "Two sets.",
            "conversations": [
                {"name": "two", "talkers": 2, "minutes": 0.1, "count": 1},
                {"name": "room", "talkers": 2, "minutes": 0.05, "count": 1, "rt60": 0.2},
            ],
            "systems": [{"name": "ibm"}, {"name": "mixture"}],
            **more,
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recordings of noise, with a timeline of each."""
    rng = np.random.default_rng(0)
    lines = []
    for name in ("a", "b c"):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(4 * RATE), RATE)
        word = name.replace(" ", "_")
        lines += [
            f"SPEAKER {word} 1 0.0 2.5 <NA> <NA> x <NA> <NA>",
            f"SPEAKER {word} 1 2.0 2.0 <NA> <NA> y <NA> <NA>",
        ]
    (tmp_path / "truth.rttm").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_an_ideal_mask_has_everybody_at_their_output(noises: Path) -> None:
    talk = experiment()
    results = score_meetings(talk, {"ibm": "ibm", "mixture": "mixture"}, noises)
    assert [(r.system, r.set, r.way, r.recordings) for r in results] == [
        ("ibm", "two", "given", 1),
        ("ibm", "room", "given", 1),
        ("mixture", "two", "given", 1),
        ("mixture", "room", "given", 1),
    ]
    ideal, mixture = results[0], results[2]
    assert ideal.right == 1
    assert ideal.wrong < 0.02 < mixture.wrong
    assert ideal.si_sdri > 8 > mixture.si_sdri
    assert ideal.der < 0.3 < mixture.der
    assert ideal.leak_db < -10 and ideal.changes == 0
    table = meetings_markdown(talk, results)
    assert table.count("\n**") == 1 and table.startswith("**two** (1 recordings)")
    files = meetings_report(talk, results)
    assert len(files["report.csv"].splitlines()) == 5


def test_recordings_with_rttm_replace_the_conversations(folder: Path, tiny_model: Path) -> None:
    given, estimated = score_meetings(experiment(), {"tiny": str(tiny_model)}, folder, limit=1)
    assert (given.set, given.recordings, given.way, given.right) == (RECORDED, 1, "given", 1)
    assert estimated.way == "estimated"
    assert math.isnan(given.si_sdri)


def test_names_with_spaces_and_limits(folder: Path) -> None:
    assert [path.name for path in read_meetings(folder)] == ["a.wav", "b c.wav"]
    assert [path.name for path in read_meetings(folder / "truth.rttm", 1)] == ["a.wav"]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("SPEAKER z 1 0 1 <NA> <NA> x", "more.rttm: names the recording z, which is not in"),
        ("SPEAKER a 1 0 1 <NA> <NA> x", "truth.rttm: a has lines in two RTTM files; join them"),
    ],
)
def test_rttm_that_does_not_fit_the_folder(lines: str, problem: str, folder: Path) -> None:
    (folder / "more.rttm").write_text(lines)
    with pytest.raises(InputError, match=problem):
        read_meetings(folder)


def test_times_beyond_the_end(folder: Path) -> None:
    (folder / "truth.rttm").write_text("SPEAKER a 1 3.0 2.0 <NA> <NA> x")
    with pytest.raises(InputError, match=r"x speaks until 5.00 s, but the recording ends at 4.00"):
        read_meetings(folder)


def test_a_folder_without_rttm(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no RTTM file"):
        read_meetings(tmp_path)


def test_timelines_of_a_file_are_scored(folder: Path) -> None:
    document = evaluate_timelines(folder, "default", folder / "truth.rttm")
    assert (document["recordings"], document["right"]) == (2, 2)
    assert (document["der"], document["jer"]) == (0.0, 0.0)
    files = timeline_files(document)
    assert files["results.csv"].splitlines()[1].startswith("a,2,2,4.5000,0.0000")
    assert json.loads(files["summary.json"])["scores"][1]["name"] == "b c"
    other = folder / "other.rttm"
    other.write_text("SPEAKER a 1 0 4 <NA> <NA> x")
    with pytest.raises(InputError, match=r"other.rttm: has no timeline of b_c; add its lines"):
        evaluate_timelines(folder / "truth.rttm", "default", other)


def test_the_experiment_that_ships() -> None:
    shipped = read_experiment("meetings")
    assert all(isinstance(kind, Conversations) for kind in shipped.conversations)
    assert {kind.rt60 for kind in shipped.conversations} == {None, 0.4}
