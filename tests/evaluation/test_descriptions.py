"""The experiments that there are, and the lists they are run on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from dpcl.errors import InputError
from dpcl.evaluation.descriptions import experiment_names, find_list, list_settings, read_experiment
from dpcl.mixtures.corpus import read_corpus
from dpcl.mixtures.drawing import draw_list
from dpcl.mixtures.lists import read_list, write_list
from dpcl.mixtures.rows import MixtureRow
from dpcl.separators.registry import find_method
from dpcl.training.phases import read_plan

REPOSITORY = Path(__file__).resolve().parents[2]


def test_there_is_an_experiment_for_every_condition() -> None:
    assert set(experiment_names()) == {
        "two-speakers", "three-speakers", "three-given-speakers", "same-speaker", "adaptation",
        "levels", "embedding-size", "layer-size", "activation", "local-clustering", "baselines",
        "conditions", "extensions", "meetings", "readme", "recognition", "enhancement",
        "arrays", "remix", "classes", "voices",
    }  # fmt: skip


@pytest.mark.parametrize("name", experiment_names())
def test_every_system_is_there_and_every_recipe_takes_its_changes(name: str) -> None:
    experiment = read_experiment(name)
    for system in experiment.systems:
        assert set(system.published) <= set(experiment.lists)
        if system.recipe is None:
            find_method(system.name)
            continue
        path = REPOSITORY / "recipes" / f"{system.recipe}.yaml"
        changes = [f"{key}={value}" for key, value in system.changes.items()]
        recipe = read_plan(path, changes, row=system.row).recipe
        for key, value in system.changes.items():
            of = recipe.model_dump()
            for part in key.split("."):
                of = of[part]
            assert of == value


@pytest.mark.parametrize("name", list_settings())
def test_committed_lists_are_what_the_settings_draw(name: str, shared_audio: Path) -> None:
    committed = read_list(REPOSITORY / "lists" / f"{name}.csv")
    settings = list_settings()[name]
    corpus = read_corpus(shared_audio, settings.split, settings.only)
    if settings.speakers:
        corpus = corpus.of_speakers(settings.speakers)
    drawn = draw_list(
        corpus, name, 0, settings.count, settings.sources, same_speaker=settings.same_speaker
    )
    assert drawn == committed


def test_three_given_speakers_are_those_with_the_most_minutes(shared_audio: Path) -> None:
    minutes: dict[str, float] = {}
    for utterance in read_corpus(shared_audio, "train", ["librispeech"]).utterances:
        minutes[utterance.speaker] = minutes.get(utterance.speaker, 0) + utterance.seconds / 60
    most = sorted(minutes, key=lambda speaker: -minutes[speaker])[:3]
    assert set(list_settings()["closed3given"].speakers or ()) == set(most)
    recipe = read_plan(REPOSITORY / "recipes" / "three-speakers.yaml", row="given").recipe
    assert set(recipe.data.speakers or ()) == set(most)


def test_a_frozen_list_is_for_its_own_corpus_only(
    noises: Path, noise_rows: list[MixtureRow], tmp_path: Path
) -> None:
    committed = tmp_path / "lists"
    committed.mkdir()
    write_list(noise_rows, committed / "open2.csv")
    assert find_list("open2", noises, committed, tmp_path / "drawn") == noise_rows
    assert not (tmp_path / "drawn").exists()
    # Of another corpus, whose parts have other names, everything is taken.
    other = find_list("open2", noises, tmp_path / "nowhere", tmp_path / "drawn")
    assert other != noise_rows
    assert len(other) == list_settings()["open2"].count
    assert read_list(tmp_path / "drawn" / "open2.csv") == other


def test_a_condition_is_a_list_with_ids_of_its_own(tmp_path: Path) -> None:
    lists = REPOSITORY / "lists"
    plain = read_list(lists / "conditions1.csv")
    soft, loud = (
        find_list(f"conditions/one-noise-{snr_db}", tmp_path, lists, tmp_path) for snr_db in (10, 0)
    )
    assert [row.id for row in loud] == [f"one-noise-0-{row.id}" for row in plain]
    assert not {row.id for row in soft} & {row.id for row in loud}
    assert {row.noise.snr_db for row in loud if row.noise} == {0}
    with pytest.raises(InputError, match=r"has no condition 'moon'; choose one of clean, room-0.2"):
        find_list("conditions/moon", tmp_path, lists, tmp_path)


def test_a_corpus_with_too_few_talkers_is_told(tmp_path: Path, noises: Path) -> None:
    lines = (noises / "index.csv").read_text().splitlines()
    rows = list(csv.reader(lines))
    with (tmp_path / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], [*rows[1][:4], str(noises / rows[1][4]), "a"]])
    with pytest.raises(InputError, match="1 speakers, too few for mixtures of 3"):
        find_list("open3", tmp_path, tmp_path, tmp_path / "drawn")
    with pytest.raises(InputError, match="closed"):
        find_list("closed2", noises, tmp_path, tmp_path / "drawn")


def test_some_systems_in_the_order_of_the_table_and_unknown_names() -> None:
    experiment = read_experiment("baselines", ("mixture", "ibm"))
    assert [system.name for system in experiment.systems] == ["ibm", "mixture"]
    with pytest.raises(InputError, match=r"no experiment is called 'nothing'.*two-speakers"):
        read_experiment("nothing")
    with pytest.raises(InputError, match=r"no system 'irm2'.*clean"):
        read_experiment("baselines", ("irm2",))
