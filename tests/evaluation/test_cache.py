"""What is the same score: another mixture and other weights have other words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from dpcl.errors import InputError
from dpcl.evaluation import cache
from dpcl.evaluation.cache import ScoreStore, row_key, score_all, separator_key, unknown_rows
from dpcl.evaluation.evaluate import score_mixture
from dpcl.mixtures.rows import MixtureRow
from dpcl.model import Model, load_model, save_model
from dpcl.separators.registry import find_method


def test_a_mixture_is_its_sources_and_not_its_name(
    noises: Path, noise_rows: list[MixtureRow], tmp_path: Path
) -> None:
    row = noise_rows[0]
    same = row_key(row, noises)
    assert row_key(replace(row, id="x", list="y", seed=3), noises) == same
    first, second = row.sources
    for other in (
        replace(row, seconds=0.5),
        replace(row, sources=(second, first)),
        replace(row, sources=(replace(first, gain_db=1.0), second)),
        replace(row, sources=(replace(first, start=0.5), second)),
        noise_rows[1],
    ):
        assert row_key(other, noises) != same
    assert row_key(row, noises, ["learned from"]) != same
    for path in noises.glob("*.wav"):
        soundfile.write(tmp_path / path.name, torch.zeros(100).numpy(), 8000)
    assert row_key(row, tmp_path) != same


def test_weights_count_by_content_and_not_by_place(tiny_model: Path, tmp_path: Path) -> None:
    copy, other = tmp_path / "copy.safetensors", tmp_path / "other.safetensors"
    copy.write_bytes(tiny_model.read_bytes())
    model = load_model(tiny_model)
    model.network.mean.add_(0.5)
    save_model(Model(model.settings, model.network, {}), other)
    words = [separator_key(str(path)) for path in (tiny_model, copy, other)]
    assert words[0] == words[1]
    assert words[0] != words[2]
    local = [separator_key(f"{tiny_model}:local{frames}") for frames in ("", 25, 50)]
    assert len({words[0], *local}) == 4


def test_the_causal_network_in_a_stream_by_either_name() -> None:
    assert separator_key("causal:live") == separator_key("live")
    assert separator_key("causal") != separator_key("live")


def test_every_separator_has_a_word_of_its_own() -> None:
    names = ["default", "default:local", "live", "nmf", "fhmm", "casa", "spectral", "ibm", "irm"]
    words = [separator_key(name) for name in names]
    assert len(set(words)) == len(names)
    assert [separator_key(name) for name in names] == words


pytest.importorskip("fast_bss_eval")


@pytest.fixture
def no_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*work: object) -> None:
        raise AssertionError("this was scored before")

    monkeypatch.setattr(cache, "_score", fail)


def test_scores_are_those_of_the_separator(
    noises: Path, noise_rows: list[MixtureRow], tmp_path: Path
) -> None:
    calls: list[tuple[int, int, str]] = []
    work = [("ibm", row) for row in noise_rows[:2]]
    store = ScoreStore(tmp_path, noises, ())
    found = score_all(
        work, store, report=lambda moved: calls.append((moved.done, moved.total, moved.note))
    )
    for row in noise_rows[:2]:
        assert found["ibm", row.id] == score_mixture(row, noises, find_method("ibm"))
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
    score = cache._score
    scored: list[str] = []

    def dies(name: str, row: MixtureRow, *rest: object) -> object:
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(row.id)
        return score(name, row, *rest)  # type: ignore[arg-type]

    work = [("ibm", row) for row in noise_rows]
    monkeypatch.setattr(cache, "_score", dies)
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
        noise_rows[3], noises, find_method("ibm")
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
