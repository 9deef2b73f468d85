"""The corpus that ships for a first training: whole, small, and with talkers of one split each."""

from __future__ import annotations

from pathlib import Path

import soundfile

from dpcl.mixtures.corpus import read_corpus
from dpcl.mixtures.lists import read_list
from dpcl.training.phases import read_plan

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = REPOSITORY / "examples" / "quick"


def test_index_and_files_agree() -> None:
    utterances = read_corpus(QUICK).utterances
    assert {u.path for u in utterances} == set(QUICK.rglob("*.opus"))
    for u in utterances[::10]:
        info = soundfile.info(u.path)
        assert abs(info.frames / info.samplerate - u.seconds) < 0.01
    assert sum(path.stat().st_size for path in QUICK.rglob("*")) < 3e6


def test_no_talker_is_in_two_splits() -> None:
    talkers = [(u.corpus, u.speaker) for u in read_corpus(QUICK).utterances]
    assert len(talkers) == len(set(talkers)) == 90


def test_validation_list_holds_talkers_of_valid() -> None:
    valid = {u.speaker for u in read_corpus(QUICK, "valid").utterances}
    rows = read_list(QUICK / "valid.csv")
    assert {source.speaker for row in rows for source in row.sources} <= valid


def test_recipe_reads_the_corpus_of_this_repository() -> None:
    recipe = read_plan(REPOSITORY / "recipes" / "quick.yaml", corpora=[QUICK]).recipe
    assert recipe.data.corpora == (str(QUICK),)
    assert recipe.validation is not None
    assert (QUICK / recipe.validation.list).is_file()
