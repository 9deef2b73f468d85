"""Rooms around the talkers of a mixture: drawn for the rows of any list, and simulated.

A reference is the image of a talker at the microphone, with reverberation, as in the "reverb"
targets of WHAMR! (Maciejewski et al. 2020). So a separator need not dereverberate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from dpcl.errors import InputError
from dpcl.mixtures.room_bank import array_responses, shortest_rt60
from dpcl.mixtures.rows import MixtureRow, Place, RoomRow

_STREAM = 2  # number of the random stream: other draws of the same seed do not change
_ARRAYS = 3  # the same for the microphones of arrays
_APART = 0.05, 0.2  # m, distance of neighbouring microphones

# Geometry of WHAMR! in m, and reverberation times in s that are possible in all these rooms.
_SIDES, _HEIGHT, _RT60 = (5.0, 10.0), (3.0, 4.0), (0.2, 0.6)
_HEADS, _DISTANCE, _OFF_CENTRE = (0.9, 1.8), (0.66, 2.0), 0.2


def draw_rooms(
    rows: Sequence[MixtureRow], seed: int, rt60: tuple[float, float] = _RT60
) -> list[MixtureRow]:
    """Draw a room for each row, the same ones for the same seed, rounded to 1 cm and 1 ms.

    A room is a shoebox of 5 to 10 by 5 to 10 by 3 to 4 m. The microphone is near its centre, and
    talkers are 0.66 to 2 m from it in any direction. Microphone and talkers are at the heights of
    heads.

    Args:
        rows: the list.
        seed: seed of the random numbers.
        rt60: range of the RT60 in s, drawn uniformly; it changes nothing else.

    Returns:
        The rows with rooms.

    Raises:
        InputError: a row is rendered, or not all such rooms can have such an RT60.
    """
    shortest = shortest_rt60((_SIDES[1], _SIDES[1], _HEIGHT[1]))
    if not shortest < rt60[0] <= rt60[1] < math.inf:
        raise InputError(
            f"--rt60 {rt60[0]:g} {rt60[1]:g}: not all of the rooms can have this RT60; give the"
            f" lower limit first, {math.ceil(shortest * 100) / 100:g} s or more"
        )
    rng = np.random.default_rng(np.random.SeedSequence((seed, _STREAM)))

    def uniform(bounds: tuple[float, float], digits: int = 2) -> float:
        """Draw a rounded number."""
        return round(float(rng.uniform(*bounds)), digits)

    placed = []
    for row in rows:
        if row.mixture:
            raise InputError(f"{row.where} is rendered already; draw rooms before rendering")
        size = (uniform(_SIDES), uniform(_SIDES), uniform(_HEIGHT))
        seconds = uniform(rt60, 3)
        middle = tuple(side / 2.0 for side in size)
        off = (-_OFF_CENTRE, _OFF_CENTRE)
        microphone = (
            round(middle[0] + uniform(off), 2), round(middle[1] + uniform(off), 2), uniform(_HEADS),
        )  # fmt: skip
        positions: list[Place] = []
        for _ in row.sources:
            angle, distance = float(rng.uniform(0.0, 2.0 * math.pi)), uniform(_DISTANCE)
            x = round(microphone[0] + distance * math.cos(angle), 2)
            y = round(microphone[1] + distance * math.sin(angle), 2)
            positions.append((x, y, uniform(_HEADS)))
        placed.append(replace(row, room=RoomRow(size, seconds, microphone, tuple(positions))))
    return placed


def reverberant(
    signals: Sequence[NDArray[np.float32]], room: RoomRow, sample_rate: int
) -> list[NDArray[np.float32]]:
    """Simulate each talker's signal at the microphone; reverberation after the end is cut off.

    Args:
        signals: one (T,) for each talker.
        room: the room.
        sample_rate: in Hz.

    Returns:
        One (T,) for each talker.

    Source: the image method; see `room_responses`.
    """
    return list(images(signals, room, sample_rate)[0])


def images(
    signals: Sequence[NDArray[np.float32]], room: RoomRow, sample_rate: int
) -> NDArray[np.float32]:
    """Simulate each talker's signal at each microphone of a room.

    Args:
        signals: one (T,) for each of C talkers.
        room: the room with M - 1 further microphones.
        sample_rate: in Hz.

    Returns:
        (M, C, T); reverberation after the end is cut off.
    """
    microphones = [room.microphone, *room.array]
    responses = array_responses(
        room.size, room.rt60, microphones, list(room.positions), sample_rate
    )
    return np.stack(
        [
            [
                fftconvolve(signal, response)[: len(signal)].astype(np.float32)
                for signal, response in zip(signals, rows, strict=True)
            ]
            for rows in responses
        ]
    )


def draw_array(room: RoomRow, microphones: int, seed: int, number: int) -> RoomRow:
    """Draw further microphones of a room, at the corners of a level regular polygon.

    Two microphones are a pair. Neighbours are 5 to 20 cm apart; an array of four contains the pair
    of the same seed and number.

    Args:
        room: the room; its microphone is the first.
        microphones: number of all microphones.
        seed: seed of the random numbers.
        number: number of the room.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, _ARRAYS, number)))
    side, angle = float(rng.uniform(*_APART)), float(rng.uniform(0.0, 2.0 * math.pi))
    places = [room.microphone]
    for step in range(microphones - 1):
        x, y, z = places[-1]
        turned = angle + 2.0 * math.pi * step / microphones
        x, y = x + side * math.cos(turned), y + side * math.sin(turned)
        places.append((round(x, 3), round(y, 3), z))
    return replace(room, array=tuple(places[1:]))
