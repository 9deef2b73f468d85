"""Who is voiced when, at which pitch: two tracks through a scene, and their contours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpcl.separators.classical.auditory import LAGS, Scene, best_tracks, explained

UNVOICED = len(LAGS)  # the grid index that stands for no pitch

# Chosen on the validation list.
EVIDENCE = 15.0  # what a periodicity of one in all channels is worth, in the units of all costs
VOICED = 0.2  # cost of a pitch in a frame
OCTAVE = 0.03  # periodicity taken off for every octave down: multiples of a period fit as well
GLIDE, START, STOP = 0.1, 0.3, 0.1  # a step of 3 %; the beginning and the end of a contour
APERIODIC = 0.4  # periodicity of a unit without pitch
LOUDNESS = 0.1  # exponent of a unit's power in its weight
REGISTER = (0.1, 0.15)  # weight and spread, in ln Hz, of a talker's own pitch
ROUNDS = 4
BLOCK = 2000  # frames, 32 s, whose states are held at once


@dataclass(frozen=True)
class Contour:
    """One voiced stretch of a track: frames start to stop, its end not included."""

    track: int
    start: int
    stop: int


def follow_voices(scene: Scene) -> Tensor:
    """The pitches of two talkers (L, 2), indices into LAGS or UNVOICED.

    As in the tandem algorithm, masks and pitches are found by turns, beginning with the best
    tracks on no assumption: each round learns a talker's register, the mean of his log pitch, and
    the next prefers for each track what lies near its register, so that a track stays with its
    talker over pauses. Sources: Hu and Wang 2010 (tandem); the tracks Wu, Wang and Brown 2003.
    """
    heights = -LAGS.log()
    tracks = _tracks(scene, torch.zeros(2, len(LAGS)))
    voiced = tracks[tracks < UNVOICED]
    if len(voiced) == 0:
        return tracks
    ordered = heights[voiced].sort().values
    half = (len(ordered) + 1) // 2
    registers = torch.stack([ordered[:half].mean(), ordered[-half:].mean()])
    weight, spread = REGISTER
    for _ in range(ROUNDS):
        distances = (heights - registers[:, None]) / spread  # (2, G)
        tracks = _tracks(scene, -weight / 2 * distances.square().clamp(max=16))
        for talker in range(2):
            own = tracks[tracks[:, talker] < UNVOICED, talker]
            registers[talker] = heights[own].mean() if len(own) else registers[talker]
    return tracks


def contours(tracks: Tensor, jump: int = 3) -> list[Contour]:
    """Voiced stretches of both tracks (L, 2), cut where the pitch leaps by more than `jump`."""
    found = []
    for track in range(2):
        pitches = [*tracks[:, track].tolist(), UNVOICED]
        start: int | None = None
        for frame, pitch in enumerate(pitches):
            leaps = abs(pitch - pitches[frame - 1]) > jump
            if start is not None and (pitch == UNVOICED or leaps):
                found.append(Contour(track, start, frame))
                start = None
            if start is None and pitch != UNVOICED:
                start = frame
    return found


def harmonicity(scene: Scene, tracks: Tensor) -> Tensor:
    """Periodicity of each unit at both tracks' pitches (2, channels, L); APERIODIC without one."""
    periodicity = torch.nn.functional.pad(scene.periodicity, (0, 1), value=APERIODIC)
    frames = torch.arange(len(tracks))
    return torch.stack([periodicity[:, frames, tracks[:, talker]] for talker in range(2)])


def _tracks(scene: Scene, preference: Tensor) -> Tensor:
    """Tracks (L, 2) under preferences (2, G) of either track for pitches, block by block."""
    weights = EVIDENCE / len(scene.power) * scene.heard * scene.power**LOUDNESS
    discounts = OCTAVE * (LAGS / LAGS[0]).log2()
    first, second = torch.nn.functional.pad(preference, (0, 1))
    found = []
    for start in range(0, scene.power.shape[1], BLOCK):
        frames = slice(start, start + BLOCK)
        part = scene.periodicity[:, frames] - discounts
        scores = explained(part, weights[:, frames], APERIODIC, VOICED)
        found.append(best_tracks(scores + first[:, None] + second, GLIDE, START, STOP))
    return torch.cat(found)
