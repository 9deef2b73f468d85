from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from dpcl.errors import InputError
from dpcl.evaluation.conditions import plain_condition
from dpcl.evaluation.descriptions import Condition, ConditionLists, derive_lists, read_conditions
from dpcl.mixtures.channels import Channel
from dpcl.mixtures.lists import write_list
from dpcl.mixtures.rows import MixtureRow, NoiseRow, RoomRow, SourceRow

LISTS = Path(__file__).resolve().parents[2] / "lists"
ROOM = RoomRow((6.0, 5.0, 3.0), 0.5, (3.0, 2.5, 1.5), ((4.0, 2.5, 1.5), (3.0, 0.5, 1.25)))


def talkers(*names: str) -> tuple[SourceRow, ...]:
    return tuple(SourceRow(name, (f"speech/{name}/0.wav",), 0.0, 1.0) for name in names)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise = NoiseRow("noises/x/0.wav", 0.5, 7.0)
    row = MixtureRow("m1", "two", 0, 2.0, "within", "same", talkers("a", "b"), "", noise, ROOM)
    write_list([row, replace(row, id="m2", sources=talkers("b", "c"))], tmp_path / "two.csv")
    one = MixtureRow("o1", "one", 0, 2.0, "within", "same", talkers("a"))
    write_list([one], tmp_path / "one.csv")
    voices = MixtureRow("v1", "voices", 0, 2.0, "within", "same", talkers("d", "e", "f"))
    write_list([voices], tmp_path / "voices.csv")
    return tmp_path


def derive(folder: Path, **condition: object) -> list[MixtureRow]:
    (lists,) = derive_lists(
        ConditionLists.model_validate(
            {"babble": "voices", "voices": 2, "conditions": [{"name": "it", **condition}]}
        ),
        folder,
    ).values()
    return lists


def test_a_condition_keeps_and_sets_what_it_says(folder: Path) -> None:
    plain = derive(folder, base="two")
    assert [row.id for row in plain] == ["m1", "m2"]
    assert all(row.list == "it" and not (row.room or row.noise or row.channel) for row in plain)
    for row in derive(folder, base="two", room=True, rt60=0.3):
        assert row.room == replace(ROOM, rt60=0.3) and row.noise is None
    for row in derive(folder, base="two", room=True, noise="drawn"):
        assert row.room == ROOM and row.noise == NoiseRow("noises/x/0.wav", 0.5, 7.0)
    for row in derive(folder, base="two", noise="drawn", snr_db=3):
        assert row.noise == NoiseRow("noises/x/0.wav", 0.5, 3.0)
    pink = derive(folder, base="two", noise="pink", snr_db=3)
    assert [row.noise and row.noise.path for row in pink] == ["pink=0", "pink=1"]
    babble = derive(folder, base="two", noise="babble", snr_db=0)
    assert [row.noise and row.noise.path for row in babble] == [
        "babble=speech/d/0.wav|speech/e/0.wav",
        "babble=speech/f/0.wav|speech/d/0.wav",
    ]
    for row in derive(folder, base="two", quieter_db=10, channel="clip=4"):
        assert [source.gain_db for source in row.sources] == [5.0, -5.0]
        assert row.channel == Channel(clip=4.0)


@pytest.mark.parametrize(
    ("condition", "problem"),
    [
        ({"base": "two", "room": True, "rt60": 0.1}, "it: the room of m1 cannot have an RT60 of"),
        ({"base": "one", "room": True}, "it: o1 has no room"),
        ({"base": "one", "noise": "drawn"}, "it: o1 has no noise"),
        ({"base": "one", "quieter_db": 5}, "it: o1 does not have two talkers"),
        ({"base": "six"}, r"six\.csv cannot be read"),
    ],
)
def test_what_a_list_lacks_is_named(
    condition: dict[str, object], problem: str, folder: Path
) -> None:
    with pytest.raises(InputError, match=problem):
        derive(folder, **condition)


def test_talkers_of_the_mixtures_are_no_babble(folder: Path) -> None:
    settings = ConditionLists.model_validate(
        {
            "babble": "one",
            "conditions": [{"name": "it", "base": "two", "noise": "babble", "snr_db": 0}],
        }
    )
    with pytest.raises(InputError, match="a of speech is also a talker of the mixtures"):
        derive_lists(settings, folder)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"rt60": 0.3}, "rt60 needs room: true"),
        ({"snr_db": 3}, "snr_db needs noise"),
        ({"noise": "pink"}, "noise: pink needs snr_db"),
        ({"channel": "codec=none"}, "'none' is no codec"),
    ],
)
def test_conditions_that_cannot_be_are_refused(wrong: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Condition.model_validate({"name": "it", "base": "two", **wrong})


def test_a_file_with_a_mistake_names_it(tmp_path: Path) -> None:
    path = tmp_path / "conditions.yaml"
    path.write_text("conditions: [{name: a, base: b}, {name: a, base: c}]")
    with pytest.raises(InputError, match="two conditions are called a"):
        read_conditions(path)
    path.write_text("conditions: [{name: a, base: b, noise: babble, snr_db: 1}]")
    with pytest.raises(InputError, match="give `babble`"):
        read_conditions(path)


@pytest.mark.parametrize(
    ("name", "count", "conditions"), [("conditions", 50, 37), ("conditions-valid", 20, 36)]
)
def test_the_committed_conditions_are_whole_and_paired(
    name: str, count: int, conditions: int
) -> None:
    settings = read_conditions(LISTS / f"{name}.yaml")
    lists = derive_lists(settings, LISTS)
    assert len(lists) == conditions and {len(rows) for rows in lists.values()} == {count}
    for condition in settings.conditions:
        plain = next(c for c in settings.conditions if c.plain and c.base == condition.base)
        for row, other in zip(lists[condition.name], lists[plain.name], strict=True):
            assert (row.id, row.seconds) == (other.id, other.seconds)
            for source, clean in zip(row.sources, other.sources, strict=True):
                assert replace(source, gain_db=clean.gain_db) == clean
    assert lists == derive_lists(settings, LISTS)


def test_a_condition_may_have_an_array(folder: Path) -> None:
    for row in derive(folder, base="two", room=True, rt60=0.3, microphones=3):
        assert row.room is not None and len(row.room.array) == 2
    one, other = derive(folder, base="two", room=True, microphones=2)
    assert one.room is not None and other.room is not None and one.room.array != other.room.array
    for wrong in ({}, {"room": True, "noise": "drawn"}, {"room": True, "channel": "clip=4"}):
        with pytest.raises(ValidationError, match="microphones needs room"):
            Condition.model_validate({"name": "x", "base": "two", "microphones": 2, **wrong})


def test_the_arrays_that_ship_are_compared_with_one_microphone() -> None:
    settings = read_conditions(LISTS / "arrays.yaml")
    plain = {c.name: plain_condition(settings, c) for c in settings.conditions}
    assert plain["one-0.4"] is None
    assert plain["two-0.4"] == plain["four-0.4"] == "one-0.4"
