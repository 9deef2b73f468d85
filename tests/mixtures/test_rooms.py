from __future__ import annotations

import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pydantic import ValidationError

from dpcl.errors import InputError
from dpcl.mixtures.lists import read_list, write_list
from dpcl.mixtures.render import render_mixture
from dpcl.mixtures.rooms import (
    RoomSettings,
    decay_time,
    draw_array,
    draw_rooms,
    images,
    reverberant,
    room_bank,
    room_responses,
    shortest_rt60,
)
from dpcl.mixtures.rows import MixtureRow, RoomRow, SourceRow
from dpcl.signal.level import active_level_db

ROOM = RoomRow((6.0, 5.0, 3.0), 0.25, (3.0, 2.5, 1.5), ((4.0, 2.5, 1.5), (3.0, 0.5, 1.25)))


@pytest.fixture
def rows() -> list[MixtureRow]:
    sources = (SourceRow("a", ("a.wav",), 0.0, 1.0), SourceRow("b", ("b.wav",), 0.0, -1.0))
    row = MixtureRow("m1", "m", 0, 1.0, "within", "same", sources)
    return [replace(row, id=f"m{k}") for k in range(50)]


def test_rooms_are_drawn_the_same_again_with_all_in_them(
    rows: list[MixtureRow], tmp_path: Path
) -> None:
    placed = draw_rooms(rows, 3)
    assert placed == draw_rooms(rows, 3) and placed != draw_rooms(rows, 4)
    assert [replace(row, room=None) for row in placed] == rows
    for row in placed:
        assert row.room is not None
        assert all(5.0 <= side <= 10.0 for side in row.room.size[:2])
        assert 0.2 <= row.room.rt60 <= 0.6 and len(row.room.positions) == 2
        for place in (row.room.microphone, *row.room.positions):
            assert all(0 < x < side for x, side in zip(place, row.room.size, strict=True))
            assert 0.9 <= place[2] <= 1.8
        for place in row.room.positions:
            assert 0.65 < math.dist(place[:2], row.room.microphone[:2]) < 2.01
    write_list(placed, tmp_path / "m.csv")
    assert read_list(tmp_path / "m.csv") == placed
    with pytest.raises(InputError, match="mixture m0 of list m is rendered"):
        draw_rooms([replace(rows[0], mixture="mix/m.wav")], 0)


def test_a_click_is_heard_after_the_way_and_dies_away_in_time() -> None:
    rate = 8000
    click = np.zeros(8000, np.float32)
    click[0] = 1.0
    near, far = reverberant([click, click], ROOM, rate)
    for heard, metres in ((near, 1.0), (far, math.hypot(2.0, 0.25))):
        assert heard.shape == (8000,) and heard.dtype == np.float32
        assert abs(np.argmax(np.abs(heard)) - metres / 343 * rate) <= 1
    assert np.abs(near).max() > 1.5 * np.abs(far).max()  # 2.02 m against 1 m
    # Schroeder: what is still to come has lost 20 dB after a third of the RT60 or so.
    left = np.cumsum(near[::-1].astype(np.float64) ** 2)[::-1]
    decay = 10 * np.log10(left / left[0])
    t5, t25 = (np.argmax(decay < level) / rate for level in (-5, -25))
    assert 0.2 < 3 * (t25 - t5) < 0.3


def test_references_are_reverberant_at_the_levels_of_the_list(
    rows: list[MixtureRow], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    signals = 0.1 * rng.standard_normal((2, 8000))
    for name, signal in zip("ab", signals, strict=True):
        soundfile.write(tmp_path / f"{name}.wav", signal, 8000)
    mixture, sources = render_mixture(replace(rows[0], room=ROOM), tmp_path, 8000)
    np.testing.assert_array_equal(mixture, sources.sum(axis=0))
    levels = [active_level_db(source, 8000) for source in sources]
    assert levels[0] - levels[1] == pytest.approx(2.0, abs=0.1)
    (image, _) = reverberant(list(signals.astype(np.float32)), ROOM, 8000)
    cosine = sources[0] @ image / np.linalg.norm(sources[0]) / np.linalg.norm(image)
    assert cosine == pytest.approx(1.0, abs=1e-3)
    _, dry = render_mixture(rows[0], tmp_path, 8000)
    assert abs(sources[0] @ dry[0]) < 0.9 * np.linalg.norm(sources[0]) * np.linalg.norm(dry[0])


def test_an_rt60_that_rooms_cannot_have_is_refused_and_another_changes_nothing_else(
    rows: list[MixtureRow],
) -> None:
    with pytest.raises(InputError, match=r"--rt60 0\.1 0\.3: not all of the rooms can have"):
        draw_rooms(rows, 0, (0.1, 0.3))
    short, long = (draw_rooms(rows[:5], 0, (rt60, rt60)) for rt60 in (0.2, 0.7))
    for one, other in zip(short, long, strict=True):
        assert one.room is not None and other.room is not None
        assert (one.room.rt60, other.room.rt60) == (0.2, 0.7)
        assert replace(one.room, rt60=0.7) == other.room


@pytest.mark.parametrize(
    ("column", "old", "new"),
    [
        ("room", "6 5 3", "6 5"),
        ("room", "6 5 3", "6 5 wide"),
        ("rt60", "0.25", "0.1"),
        ("rt60", "0.25", "0.11505"),  # 6 x 5 x 3 m cannot have less than 0.11508 s
        ("microphone", "3 2.5 1.5", ""),
        ("microphone", "3 2.5 1.5", "3 2.5 3.5"),
        ("position_2", "3 0.5 1.25", "3 -0.5 1.25"),
    ],
)
def test_a_wrong_field_is_named(
    rows: list[MixtureRow], tmp_path: Path, column: str, old: str, new: str
) -> None:
    write_list([replace(rows[0], room=ROOM)], tmp_path / "m.csv")
    text = (tmp_path / "m.csv").read_text()
    assert old in text
    (tmp_path / "m.csv").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=rf"row 2, column {column}: "):
        read_list(tmp_path / "m.csv")


def test_an_array_is_around_the_microphone_of_the_room() -> None:
    pair, square = draw_array(ROOM, 2, 0, 1), draw_array(ROOM, 4, 0, 1)
    assert pair == draw_array(ROOM, 2, 0, 1) != draw_array(ROOM, 2, 0, 2)
    assert square.array[:1] == pair.array and square.microphone == ROOM.microphone
    places = [ROOM.microphone, *square.array]
    sides = [math.dist(places[k], places[k - 1]) for k in range(4)]
    assert min(sides) >= 0.05 and max(sides) < 0.201 and max(sides) - min(sides) < 0.003
    assert math.dist(places[0], places[2]) == pytest.approx(sides[0] * 2**0.5, abs=0.003)


def test_the_first_microphone_of_an_array_records_what_one_alone_does(
    rows: list[MixtureRow], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(8000), 8000)
    signals = [soundfile.read(tmp_path / f"{name}.wav", dtype="float32")[0] for name in "ab"]
    room = draw_array(ROOM, 2, 0, 0)
    at_both = images(signals, room, 8000)
    assert at_both.shape == (2, 2, 8000)
    np.testing.assert_array_equal(at_both[0], reverberant(signals, ROOM, 8000))
    mixture, sources = render_mixture(replace(rows[0], room=room), tmp_path, 8000)
    assert mixture.shape == (2, 8000) and sources.shape == (2, 2, 8000)
    np.testing.assert_allclose(sources.sum(0), mixture, atol=1e-6)
    alone, _ = render_mixture(replace(rows[0], room=ROOM), tmp_path, 8000)
    np.testing.assert_allclose(mixture[0], alone, atol=1e-5)
    assert np.abs(mixture[1] - alone).max() > 0.05


SMALL = RoomSettings(count=3, positions=2, rt60=(0.1, 0.3))


def test_responses_have_the_rt60_and_the_delay_asked_for() -> None:
    size, microphone = (6.0, 5.0, 3.0), (3.0, 2.5, 1.5)
    for rt60 in (0.2, 0.4, 0.6):
        (response,) = room_responses(size, rt60, microphone, [(5.0, 3.5, 1.2)], 8000)
        assert decay_time(response, 8000) == pytest.approx(rt60, rel=0.1)
        direct = math.dist(microphone, (5.0, 3.5, 1.2)) / 343.0 * 8000
        first = int(np.argmax(np.abs(response) > 0.5 * np.abs(response).max()))
        assert first == pytest.approx(direct, abs=2)
        assert abs(response.sum()) < 0.05 * np.abs(response).sum()


def test_first_reflections_are_those_of_the_images() -> None:
    (response,) = room_responses((6.0, 5.0, 3.0), 0.3, (2.0, 2.5, 1.5), [(4.0, 2.5, 1.5)], 48000)
    # 2 m straight on; floor and ceiling alike over sqrt(4 + 9) m, both long walls over sqrt(29) m.
    direct, vertical = (round(m / 343.0 * 48000) for m in (2.0, math.sqrt(13.0)))
    amplitudes = [np.abs(response[n - 2 : n + 3]).max() for n in (direct, vertical)]
    quiet = np.abs(response[direct + 40 : vertical - 40]).max()
    assert min(amplitudes) > 5 * quiet


def test_a_decay_that_is_known_is_measured() -> None:
    noise = np.random.default_rng(0).standard_normal(16000)
    decay = noise * 10.0 ** (-3.0 * np.arange(16000) / 8000 / 0.5)
    assert decay_time(decay, 8000) == pytest.approx(0.5, rel=0.05)


def test_a_bank_is_computed_once_and_its_rooms_are_as_asked_for(tmp_path: Path) -> None:
    moves: list[tuple[int, int]] = []
    bank = room_bank(SMALL, 8000, tmp_path, lambda moved: moves.append((moved.done, moved.total)))
    assert moves == [(1, 3), (2, 3), (3, 3)] and len(bank) == 3
    assert all(0.05 < rt60 < 0.35 for rt60 in bank.rt60)
    assert bank.distances.shape == (3, 2)
    assert bank.distances.min() > 0.29 and bank.distances.max() < 4.01
    for room in range(3):
        responses = bank.responses(room)
        assert len(responses) == 2 and responses.dtype == np.float32
        np.testing.assert_allclose(np.square(responses).sum(axis=1), 1.0, rtol=0.01)
    # The probability does not change the rooms; everything else does.
    again = room_bank(SMALL.model_copy(update={"probability": 0.1}), 8000, tmp_path, fail)
    np.testing.assert_array_equal(again.samples, bank.samples)
    other = room_bank(SMALL.model_copy(update={"seed": 1, "count": 1}), 8000, tmp_path)
    assert other.path != bank.path
    copied = pickle.loads(pickle.dumps(bank))
    np.testing.assert_array_equal(copied.responses(2), bank.responses(2))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * 2 + [".npy"] * 2


@pytest.mark.parametrize("what", ["cut", "empty", "no index", "no JSON"])
def test_a_bank_that_is_damaged_is_computed_anew(what: str, tmp_path: Path) -> None:
    bank = room_bank(SMALL, 8000, tmp_path)
    whole = bank.path.read_bytes()
    if what == "cut":
        bank.path.write_bytes(whole[:-100])
    elif what == "empty":
        bank.path.write_bytes(b"")
    elif what == "no index":
        bank.path.with_suffix(".json").unlink()
    else:
        bank.path.with_suffix(".json").write_text('{"sample_rate": 8000')
    again = room_bank(SMALL, 8000, tmp_path)
    assert again.path == bank.path and bank.path.read_bytes() == whole


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"rt60": (0.03, 0.8)}, "rt60 0.03 s is too short for rooms of 2.5 x 2.5 x 2.2 m"),
        ({"rt60": (0.8, 0.3)}, "rt60 0.8 to 0.3 is no range"),
        ({"distance": (0.0, 1.0)}, "distance 0 to 1 is no range"),
        (
            {"smallest": (5.0, 2.5, 2.2), "largest": (4.0, 9.0, 4.0)},
            "smallest and largest are no rooms",
        ),
        ({"probability": 1.5}, "less than or equal to 1"),
    ],
)
def test_rooms_that_cannot_be_are_refused(wrong: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        RoomSettings.model_validate(wrong)


def test_sabine_limits_the_shortest_rt60() -> None:
    assert shortest_rt60((6.0, 5.0, 3.0)) == pytest.approx(0.11508, abs=1e-4)


def fail(done: int, total: int) -> None:
    raise AssertionError("the bank was computed again")
