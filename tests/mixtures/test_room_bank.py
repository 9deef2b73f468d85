from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from dpcl.mixtures.room_bank import (
    RoomSettings,
    decay_time,
    room_bank,
    room_responses,
    shortest_rt60,
)

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
