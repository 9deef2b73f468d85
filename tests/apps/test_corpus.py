"""`dpcl corpus` from the command line: the index, the summary, and nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dpcl.apps.corpus import Layout
from dpcl.mixtures import index as dpcl_index
from dpcl.mixtures.corpus import read_corpus
from dpcl.mixtures.layouts import LAYOUTS

Program = Callable[..., Any]


@pytest.fixture
def librispeech(folder: Path) -> Path:
    """Two talkers of LibriSpeech, and a file that is no audio."""
    root = folder / "LibriSpeech"
    for part, speaker in (("train-clean-100", "19"), ("test-clean", "61")):
        chapter = root / part / speaker / "1"
        chapter.mkdir(parents=True)
        soundfile.write(chapter / f"{speaker}-1-0000.flac", np.full(8000, 0.1), 8000)
    (chapter / "61-1-0001.flac").write_text("no audio")
    (root / "SPEAKERS.TXT").write_text("19 | F | train-clean-100\n61 | M | test-clean\n")
    return root


def test_command_offers_every_layout() -> None:
    assert [layout.value for layout in Layout] == list(LAYOUTS)


def test_index_is_written_and_summarised(librispeech: Path, dpcl: Program) -> None:
    ran = dpcl("corpus", "librispeech", "LibriSpeech", "--out", "data/index.csv")
    assert (ran.status, ran.out) == (0, "data/index.csv\n"), ran.err
    assert "train       1 talkers        1 recordings      0.00 h" in ran.err
    assert "omitted 1: no readable audio" in ran.err and "61-1-0001.flac" in ran.err
    found = read_corpus("data/index.csv", split="train").utterances
    assert [(u.speaker, u.gender, u.seconds) for u in found] == [("19", "f", 1.0)]


def test_json_goes_to_standard_output(librispeech: Path, dpcl: Program) -> None:
    ran = dpcl("corpus", "librispeech", "LibriSpeech", "-o", "index.csv", "--json")
    document = json.loads(ran.out)
    assert document["layout"] == "librispeech"
    assert document["splits"]["test"] == {"speakers": 1, "recordings": 1, "hours": 0.0}
    assert [(o["reason"], o["count"]) for o in document["omitted"]] == [("no readable audio", 1)]
    assert document["omitted"][0]["files"][0].endswith("61-1-0001.flac")


def test_existing_index_needs_force(librispeech: Path, dpcl: Program) -> None:
    Path("index.csv").write_text("mine")
    arguments = ("corpus", "librispeech", "LibriSpeech", "--out", "index.csv")
    ran = dpcl(*arguments)
    assert ran.status == 2 and "index.csv: exists; add --force" in ran.err
    assert Path("index.csv").read_text() == "mine"
    assert dpcl(*arguments, "--force").status == 0
    assert Path("index.csv").read_text().startswith("split,")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("librispeech", "none"), "none: is not a folder; "),
        (("vctk", "LibriSpeech"), "LibriSpeech: wav48_silence_trimmed is missing; "),
        (("librispeach", "LibriSpeech"), "librispeach"),
        (("librispeech", "LibriSpeech", "--split-by", "other"), "other"),
    ],
)
def test_wrong_input_is_one_sentence(
    librispeech: Path, dpcl: Program, arguments: tuple[str, ...], words: str
) -> None:
    ran = dpcl("corpus", *arguments, "--out", "index.csv")
    assert ran.status == 2 and words in ran.err
    assert ran.out == "" and len(ran.err.splitlines()) == 1
    assert not Path("index.csv").exists()


def test_out_that_is_a_folder(librispeech: Path, dpcl: Program) -> None:
    ran = dpcl("corpus", "librispeech", "LibriSpeech", "--out", "LibriSpeech", "--force")
    assert ran.status == 2 and "is a folder" in ran.err


def test_interrupted_index_leaves_the_old_one(
    librispeech: Path, dpcl: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("index.csv").write_text("mine")

    def full(*arguments: object, **options: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dpcl_index, "plain_seconds", full)
    ran = dpcl("corpus", "librispeech", "LibriSpeech", "--out", "index.csv", "--force")
    assert ran.status == 2 and "cannot be written (No space left on device)" in ran.err
    assert sorted(path.name for path in Path().iterdir()) == ["LibriSpeech", "index.csv"]
    assert Path("index.csv").read_text() == "mine"


def test_split_by_name(librispeech: Path, dpcl: Program) -> None:
    arguments = ("corpus", "librispeech", "LibriSpeech", "--out", "index.csv")
    assert dpcl(*arguments, "--split-by", "name").status == 0
    for utterance in read_corpus("index.csv").utterances:
        assert utterance.split == dpcl_index.split_of_name(utterance.speaker)
