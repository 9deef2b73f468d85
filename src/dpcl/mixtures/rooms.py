"""Rooms around the talkers of a mixture: a bank for training, and rooms of the rows of lists.

Rooms are simulated shoeboxes. A reference is the image of a talker at the microphone, with
reverberation, as in the "reverb" targets of WHAMR! (Maciejewski et al. 2020). So a separator need
not dereverberate.

Source: Allen and Berkley 1979, "Image method for efficiently simulating small-room acoustics".
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.signal import butter, fftconvolve, sosfilt

from dpcl.errors import InputError
from dpcl.io import Progress, Report, no_report, write_indexed
from dpcl.mixtures.rows import MixtureRow, Place, RoomRow
from dpcl.settings import Settings

VERSION = 1  # format of a stored bank; with another number every bank is computed again
SPEED_OF_SOUND = 343.0  # m/s
SABINE = 24.0 * math.log(10.0) / SPEED_OF_SOUND  # s/m, factor of Sabine's formula

_OVERSAMPLING = 8  # steps of a delay in a sample
_LEAD = 32  # samples before the direct sound while a response is computed
_KEPT = 8  # samples before the first direct sound of a room in the bank
_LOWEST = 20.0  # Hz, lowest frequency of a response: images of one sign add up to an offset
_WALL = 0.2  # m, smallest distance of a talker from a wall
_NEAREST = 0.05  # m, distance below which a source becomes no louder
_FITS = 4  # number of corrections of the walls' reflection
_ATTEMPTS = 1000  # number of draws of a room or a place, at most

_STREAM = 2  # number of the random stream: other draws of the same seed do not change
_ARRAYS = 3  # number of the random stream of the microphones of arrays
_APART = 0.05, 0.2  # m, distance of neighbouring microphones

# Geometry of WHAMR! in m, and reverberation times in s that are possible in all these rooms.
_SIDES, _HEIGHT, _RT60 = (5.0, 10.0), (3.0, 4.0), (0.2, 0.6)
_HEADS, _DISTANCE, _OFF_CENTRE = (0.9, 1.8), (0.66, 2.0), 0.2

Triple = tuple[float, float, float]
Range = tuple[float, float]


class RoomSettings(Settings):
    """Rooms around the talkers: shoeboxes whose walls absorb alike."""

    probability: float = Field(default=0.5, ge=0, le=1)  # of a mixture
    count: int = Field(default=600, ge=1)  # rooms of the bank
    positions: int = Field(default=6, ge=1, le=20)  # talkers' places in each room
    rt60: Range = (0.1, 0.8)  # s
    distance: Range = (0.3, 4.0)  # m, talker to microphone, log-uniform
    smallest: Triple = (2.5, 2.5, 2.2)  # m
    largest: Triple = (10.0, 9.0, 4.0)  # m
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _rooms_can_be_drawn(self) -> RoomSettings:
        for name, (low, high) in (("rt60", self.rt60), ("distance", self.distance)):
            if not 0 < low <= high < math.inf:
                raise ValueError(f"{name} {low:g} to {high:g} is no range; give the lower first")
        if not all(
            2 * _WALL < low <= high < math.inf
            for low, high in zip(self.smallest, self.largest, strict=True)
        ):
            raise ValueError("smallest and largest are no rooms; give three sides of 0.5 m or more")
        shortest = shortest_rt60(self.smallest)
        if self.rt60[0] <= shortest:
            raise ValueError(
                f"rt60 {self.rt60[0]:g} s is too short for rooms of"
                f" {' x '.join(f'{side:g}' for side in self.smallest)} m or more; ask for more than"
                f" {shortest:.3f} s, or make `smallest` smaller"
            )
        return self


def shortest_rt60(size: Triple) -> float:
    """Return the RT60 by Sabine's formula where the walls absorb everything, in s."""
    volume = math.prod(size)
    return SABINE * volume / (2.0 * sum(volume / side for side in size))


@dataclass(frozen=True)
class RoomBank:
    """Responses of R rooms at P places each, of equal energy, without their common delay."""

    path: Path  # of the .npy, float16
    sample_rate: int
    positions: int  # P
    offsets: NDArray[np.int64]  # (R + 1,)
    rt60: NDArray[np.float64]  # (R,) s, measured
    distances: NDArray[np.float64]  # (R, P) m

    @cached_property
    def samples(self) -> NDArray[np.float16]:
        """(T,) of all responses, mapped rather than read."""
        mapped: NDArray[np.float16] = np.load(self.path, mmap_mode="r")
        return mapped.view(np.ndarray)

    def __len__(self) -> int:
        return len(self.rt60)

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes map the file themselves.
        return {key: value for key, value in self.__dict__.items() if key != "samples"}

    def responses(self, room: int) -> NDArray[np.float32]:
        """Return the responses (P, n) of a room."""
        found = self.samples[self.offsets[room] : self.offsets[room + 1]]
        return found.reshape(self.positions, -1).astype(np.float32)


def room_bank(
    settings: RoomSettings,
    sample_rate: int,
    cache: str | os.PathLike[str],
    report: Report = no_report,
) -> RoomBank:
    """Compute a bank of rooms into a folder, or reuse the one of an earlier call.

    The name of the file holds a hash of the settings (without `probability`), the sample rate and
    VERSION. An empty or truncated file is computed again.

    Args:
        settings: number and sizes of the rooms.
        sample_rate: in Hz.
        cache: folder of the bank.
        report: called after each room.

    Raises:
        InputError: The folder cannot be written.
    """
    cache = Path(cache)
    key = json.dumps([VERSION, sample_rate, settings.model_dump(exclude={"probability"})])
    name = f"rooms-{hashlib.sha256(key.encode()).hexdigest()[:16]}-{sample_rate}"
    data, index = cache / f"{name}.npy", cache / f"{name}.json"
    found = _load(data, index)
    if found is not None:
        return found

    def write(file: BinaryIO) -> dict[str, Any]:
        entry, samples = _compute(settings, sample_rate, report)
        np.save(file, samples)
        return entry

    try:
        write_indexed(data, write)
    except OSError as error:
        raise InputError(
            f"{cache}: cannot hold the rooms ({error.strerror}); choose another folder"
        ) from error
    found = _load(data, index)
    assert found is not None
    return found


def _load(data: Path, index: Path) -> RoomBank | None:
    """Load the bank of these files; None if they are missing, truncated or of another kind."""
    try:
        entry = json.loads(index.read_text())
        length = len(np.load(data, mmap_mode="r"))
        bank = RoomBank(
            path=data,
            sample_rate=entry["sample_rate"],
            positions=entry["positions"],
            offsets=np.array(entry["offsets"], np.int64),
            rt60=np.array(entry["rt60"]),
            distances=np.array(entry["distances"]),
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    return bank if length == bank.offsets[-1] and len(bank) else None


def _compute(
    settings: RoomSettings, sample_rate: int, report: Report
) -> tuple[dict[str, Any], NDArray[np.float16]]:
    offsets, rt60s, distances, pieces = [0], [], [], []
    for number in range(settings.count):
        rng = np.random.default_rng(np.random.SeedSequence((settings.seed, number)))
        size, rt60, microphone, places = _draw_room(settings, rng)
        together = room_responses(size, rt60, microphone, places, sample_rate)
        first = min(int(np.argmax(np.abs(h) > 0.2 * np.abs(h).max())) for h in together)
        together = together[:, max(0, first - _KEPT) :]
        together /= np.sqrt(np.square(together).sum(axis=1, keepdims=True))
        rt60 = float(np.median([decay_time(h, sample_rate) for h in together]))
        pieces.append(together.astype(np.float16).reshape(-1))
        offsets.append(offsets[-1] + len(pieces[-1]))
        rt60s.append(rt60)
        distances.append([math.dist(microphone, place) for place in places])
        report(Progress(number + 1, settings.count, "rooms"))
    entry = {
        "sample_rate": sample_rate,
        "positions": settings.positions,
        "offsets": offsets,
        "rt60": rt60s,
        "distances": distances,
    }
    return entry, np.concatenate(pieces)


def _draw_room(
    settings: RoomSettings, rng: np.random.Generator
) -> tuple[Triple, float, Triple, list[Triple]]:
    """Draw a room that can have its RT60, and the places in it of a microphone and of talkers."""
    rt60 = float(rng.uniform(*settings.rt60))
    size = settings.smallest
    for _ in range(_ATTEMPTS):
        x, y, z = rng.uniform(settings.smallest, settings.largest)
        if shortest_rt60((x, y, z)) < rt60:
            size = (float(x), float(y), float(z))
            break
    low, high = (min(head, size[2] - _WALL) for head in (0.7, 1.7))
    x, y = (float(side * rng.uniform(0.15, 0.85)) for side in size[:2])
    microphone = (x, y, float(rng.uniform(low, high)))
    places: list[Triple] = []
    while len(places) < settings.positions:
        place = (size[0] / 2.0, size[1] / 2.0, microphone[2])  # where no draw lies in the room
        for _ in range(_ATTEMPTS):
            distance = math.exp(rng.uniform(*np.log(settings.distance)))
            height = float(rng.uniform(min(1.0, high), min(1.9, size[2] - _WALL)))
            across = distance**2 - (height - microphone[2]) ** 2
            if across < 0.0:
                continue
            angle = float(rng.uniform(0.0, 2.0 * math.pi))
            x = microphone[0] + math.sqrt(across) * math.cos(angle)
            y = microphone[1] + math.sqrt(across) * math.sin(angle)
            if _WALL < x < size[0] - _WALL and _WALL < y < size[1] - _WALL:
                place = (x, y, height)
                break
        places.append(place)
    return size, rt60, microphone, places


def room_responses(
    size: Triple, rt60: float, microphone: Triple, places: Sequence[Triple], sample_rate: int
) -> NDArray[np.float32]:
    """Compute impulse responses (P, n) of a shoebox from each place to the microphone.

    All images within the distance that sound travels in `rt60` seconds count. The reflection of the
    walls is fitted: the decay from -5 to -25 dB at the farthest place, extrapolated to 60 dB, takes
    `rt60` seconds. Formulas of diffuse fields are up to 70 % off in shoeboxes. Sound from d metres
    away arrives after d / 343 m/s.

    Args:
        size: sides of the room in m.
        rt60: reverberation time in s.
        microphone: place of the microphone in m.
        places: places of the P talkers in m.
        sample_rate: in Hz.

    Source: Allen and Berkley 1979.
    """
    (responses,) = array_responses(size, rt60, [microphone], places, sample_rate)
    return np.asarray(responses, np.float32)


def array_responses(
    size: Triple,
    rt60: float,
    microphones: Sequence[Triple],
    places: Sequence[Triple],
    sample_rate: int,
) -> NDArray[np.float32]:
    """Compute impulse responses (M, P, n) from each place to each microphone of an array.

    The walls are those of `room_responses` for the first microphone.
    """
    volume = math.prod(size)
    exponent = -SABINE * volume / (2.0 * sum(volume / side for side in size) * rt60) / 2.0
    farthest = max(places, key=lambda place: math.dist(place, microphones[0]))
    first = _images(size, rt60, microphones[0], farthest)
    response = _band_limited(_impulses(first, exponent, rt60, sample_rate), sample_rate)
    for _ in range(_FITS):  # the decay in dB is nearly proportional to the exponent
        exponent *= min(max(decay_time(response, sample_rate) / rt60, 0.5), 2.0)
        response = _band_limited(_impulses(first, exponent, rt60, sample_rate), sample_rate)

    def one(microphone: Triple, place: Triple) -> NDArray[np.float32]:
        axes = _images(size, rt60, microphone, place)
        return _band_limited(_impulses(axes, exponent, rt60, sample_rate), sample_rate)

    return np.stack([np.stack([one(m, place) for place in places]) for m in microphones])


def decay_time(response: NDArray[np.floating], sample_rate: int) -> float:
    """Measure the RT60 of a response (n,) in s, from its decay between -5 and -25 dB.

    Source: Schroeder 1965, "New method of measuring reverberation time".
    """
    left = np.cumsum(np.square(response[::-1], dtype=np.float64))[::-1]
    decay = 10.0 * np.log10(np.maximum(left / left[0], 1e-12))
    begin, end = int(np.argmax(decay < -5.0)), int(np.argmax(decay < -25.0))
    if end - begin < 2:
        return (end - begin + 1) * 3.0 / sample_rate
    slope = np.polyfit(np.arange(begin, end) / sample_rate, decay[begin:end], 1)[0]
    return float(-60.0 / slope)


_Axis = tuple[NDArray[np.float64], NDArray[np.int64]]  # squared distances, numbers of reflections


def _images(size: Triple, rt60: float, microphone: Triple, place: Triple) -> list[_Axis]:
    """Return the images along each axis that sound reaches within `rt60` seconds."""
    reach = SPEED_OF_SOUND * rt60
    axes = []
    for side, source, receiver in zip(size, place, microphone, strict=True):
        most = math.ceil(reach / side) + 1
        k = np.arange(-most, most + 1)  # reflections, signed by the side
        image = np.where(k % 2 == 0, k * side + source, (k + 1) * side - source)
        near = np.abs(image - receiver) < reach
        axes.append((np.square(image - receiver)[near], np.abs(k)[near]))
    return axes


def _impulses(
    axes: Sequence[_Axis], exponent: float, rt60: float, sample_rate: int
) -> NDArray[np.float64]:
    """Return the images as impulses at `_OVERSAMPLING` times the sample rate, `_LEAD` samples late.

    exponent: logarithm of the pressure that a wall reflects.
    """
    reach = SPEED_OF_SOUND * rt60
    (near, near_count), *others = axes
    plane = np.add.outer(*(squares for squares, _ in others))
    gains = np.exp(exponent * np.add.outer(*(counts for _, counts in others)))
    inside = plane < reach**2
    order = np.argsort(plane[inside])
    plane, gains = plane[inside][order], gains[inside][order]
    response = np.zeros((2 * _LEAD + math.ceil(sample_rate * rt60)) * _OVERSAMPLING)
    per_metre = sample_rate * _OVERSAMPLING / SPEED_OF_SOUND
    for square, count in zip(near, near_count, strict=True):
        last = int(np.searchsorted(plane, reach**2 - square))
        distances = np.sqrt(plane[:last] + square)
        index = (distances * per_metre + (_LEAD * _OVERSAMPLING + 0.5)).astype(np.int64)
        weights = gains[:last] * math.exp(exponent * count) / np.maximum(distances, _NEAREST)
        sums = np.bincount(index, weights)
        response[: len(sums)] += sums
    return response


def _band_limited(fine: NDArray[np.float64], sample_rate: int) -> NDArray[np.float32]:
    """Impulses (n * _OVERSAMPLING,) -> a response (n - _LEAD,) from _LOWEST Hz on."""
    length = len(fine) // _OVERSAMPLING
    spectrum = np.fft.rfft(fine)[: length // 2 + 1]
    share = np.arange(len(spectrum)) / (length / 2.0)  # of the Nyquist frequency
    rolloff = np.sin(0.5 * np.pi * np.clip((1.0 - share) / 0.1, 0.0, 1.0)) ** 2
    coarse = np.fft.irfft(spectrum * rolloff, length)
    sections = butter(2, _LOWEST / (sample_rate / 2.0), "highpass", output="sos")
    return np.asarray(sosfilt(sections, coarse), np.float32)[_LEAD:]


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
