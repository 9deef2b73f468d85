"""Scores are computed once: a second run, a killed run, several processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dpcl.errors import InputError
from dpcl.evaluation import cached
from dpcl.evaluation.cached import ScoreStore, score_all, unknown_rows
from dpcl.evaluation.evaluate import score_mixture
from dpcl.mixtures.lists import MixtureRow
from dpcl.separators.oracle import ORACLES

pytest.importorskip("fast_bss_eval")


@pytest.fixture
def no_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*work: object) -> None:
        raise AssertionError("this was scored before")

    monkeypatch.setattr(cached, "_score", fail)


def test_scores_are_those_of_the_separator(
    noises: Path, noise_rows: list[MixtureRow], tmp_path: Path
) -> None:
    calls: list[tuple[int, int, str]] = []
    work = [("ibm", row) for row in noise_rows[:2]]
    store = ScoreStore(tmp_path, noises, ())
    found = score_all(work, store, report=lambda *moved: calls.append(moved))
    for row in noise_rows[:2]:
        assert found["ibm", row.id] == score_mixture(row, noises, ORACLES["ibm"], True)
    assert calls == [(1, 2, "ibm"), (2, 2, "ibm")]


def test_what_was_scored_is_not_scored_again_in_another_run(
    noises: Path, noise_rows: list[MixtureRow], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    work = [(name, row) for name in ("ibm", "mixture") for row in noise_rows]
    first = score_all(work, ScoreStore(tmp_path, noises, ()))
    request.getfixturevalue("no_scoring")
    assert score_all(work, ScoreStore(tmp_path, noises, ())) == first
    with pytest.raises(AssertionError):  # of another metric nothing is known
        score_all(work, ScoreStore(tmp_path, noises, ("stoi",)))


def test_kinds_and_groups_are_those_of_the_row(
    noises: Path, noise_rows: list[MixtureRow], tmp_path: Path
) -> None:
    sources = tuple(replace(source, group="sound") for source in noise_rows[0].sources)
    work = [("mixture", replace(noise_rows[0], sources=sources))]
    first = score_all(work, ScoreStore(tmp_path, noises, ()))
    (again,) = score_all(work, ScoreStore(tmp_path, noises, ())).values()
    assert [again] == list(first.values())
    assert {(result.kind, result.group) for result in again} == {("sound+sound", "sound")}


def test_a_run_that_was_killed_goes_on_where_it_was(
    noises: Path, noise_rows: list[MixtureRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = cached._score
    scored: list[str] = []

    def dies(name: str, row: MixtureRow, *rest: object) -> object:
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(row.id)
        return score(name, row, *rest)  # type: ignore[arg-type]

    work = [("ibm", row) for row in noise_rows]
    monkeypatch.setattr(cached, "_score", dies)
    with pytest.raises(KeyboardInterrupt):
        score_all(work, ScoreStore(tmp_path, noises, ()))
    (path,) = tmp_path.glob("*.jsonl")
    with path.open("a") as file:
        file.write('{"row": "cut of')  # as if it had died while it wrote
    scored.clear()
    score_all(work[:3], ScoreStore(tmp_path, noises, ()))
    assert scored == [noise_rows[2].id]
    scored.clear()
    found = score_all(work, ScoreStore(tmp_path, noises, ()))
    assert scored == [noise_rows[3].id]
    assert found["ibm", noise_rows[3].id] == score_mixture(
        noise_rows[3], noises, ORACLES["ibm"], True
    )


def test_several_processes_find_the_same(
    noises: Path, noise_rows: list[MixtureRow], tmp_path: Path
) -> None:
    work = [(name, row) for name in ("ibm", "mixture") for row in noise_rows[:2]]
    alone = score_all(work, ScoreStore(tmp_path / "1", noises, ()))
    found = score_all(work, ScoreStore(tmp_path / "2", noises, ()), workers=2)
    for piece, results in alone.items():  # as text: one NaN is no other NaN
        assert str(found[piece]) == str(results)


def test_what_goes_wrong_is_told_and_what_was_done_is_kept(
    noises: Path, noise_rows: list[MixtureRow], tmp_path: Path
) -> None:
    work = [("ibm", noise_rows[0]), ("nmf", noise_rows[2])]  # nobody knows Dee
    with pytest.raises(InputError, match="dee"):
        score_all(work, ScoreStore(tmp_path, noises, ()))
    assert ScoreStore(tmp_path, noises, ()).get(work[0]) is None  # it is not even begun


def test_mixtures_of_unknown_talkers_are_found(noises: Path, noise_rows: list[MixtureRow]) -> None:
    assert unknown_rows(["ibm", "nmf"], noise_rows, noises) == {noise_rows[2].id}
    assert unknown_rows(["ibm", "casa"], noise_rows, noises) == set()


def test_a_folder_that_cannot_be_written(noises: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"):
        ScoreStore(tmp_path / "file", noises, ())
