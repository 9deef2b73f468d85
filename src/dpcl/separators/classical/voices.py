"""Voices of two talkers: two pitch tracks through a scene, and their voiced stretches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpcl.separators.classical.auditory import LAGS, Scene

UNVOICED = len(LAGS)  # grid index that stands for no pitch

# The values below were chosen on the validation list.
EVIDENCE = 15.0  # score of a periodicity of one in all channels, in the units of all costs
VOICED = 0.2  # cost of a pitch in a frame
OCTAVE = 0.03  # periodicity subtracted for each octave down: multiples of a period fit too
GLIDE, START, STOP = 0.1, 0.3, 0.1  # costs of a step of 3 %, and of a contour's start and end
APERIODIC = 0.4  # periodicity of a unit without pitch
LOUDNESS = 0.1  # exponent of a unit's power in its weight
REGISTER = (0.1, 0.15)  # weight and spread, in ln Hz, of a talker's own pitch
ROUNDS = 4  # rounds of registers and tracks
BLOCK = 2000  # frames, 32 s, whose states are in memory at once

JUMP = 4  # largest glide of a voice from one frame to the next, in steps of the pitch grid
NEVER = -1e9  # score of an impossible move


@dataclass(frozen=True)
class Contour:
    """Voiced stretch of a track: frames from `start` up to, not including, `stop`."""

    track: int
    start: int
    stop: int


def follow_voices(scene: Scene) -> Tensor:
    """Track the pitches of two talkers.

    As in the tandem algorithm, masks and pitches are found in turns, starting with the best tracks
    on no assumption. Each round estimates a talker's register, the mean of their log pitch. The
    next round prefers pitches near the register of each track. So a track stays with its talker
    across pauses.

    Args:
        scene: scene of the mixture.

    Returns:
        Tracks (L, 2), indices into LAGS or UNVOICED.

    Sources: Hu and Wang 2010 (tandem); Wu, Wang and Brown 2003 (tracks).
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
    """Find the voiced stretches of both tracks.

    Args:
        tracks: (L, 2).
        jump: largest step of the pitch within a contour, in steps of the grid.

    Returns:
        Contours of the first track, then of the second, in order of time.
    """
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
    """Return the periodicity of each unit at the pitches of both tracks.

    Args:
        scene: scene of the mixture.
        tracks: (L, 2).

    Returns:
        Periodicity (2, channels, L); APERIODIC in frames without pitch.
    """
    periodicity = torch.nn.functional.pad(scene.periodicity, (0, 1), value=APERIODIC)
    frames = torch.arange(len(tracks))
    return torch.stack([periodicity[:, frames, tracks[:, talker]] for talker in range(2)])


def _tracks(scene: Scene, preference: Tensor) -> Tensor:
    """Find tracks (L, 2) with preferences (2, G) of each track for pitches, block by block."""
    weights = EVIDENCE / len(scene.power) * scene.audible * scene.power**LOUDNESS
    discounts = OCTAVE * (LAGS / LAGS[0]).log2()
    first, second = torch.nn.functional.pad(preference, (0, 1))
    found = []
    for start in range(0, scene.power.shape[1], BLOCK):
        frames = slice(start, start + BLOCK)
        part = scene.periodicity[:, frames] - discounts
        scores = explained(part, weights[:, frames], APERIODIC, VOICED)
        found.append(best_tracks(scores + first[:, None] + second, GLIDE, START, STOP))
    return torch.cat(found)


def explained(periodicity: Tensor, weights: Tensor, aperiodic: float, voiced: float) -> Tensor:
    """Score how well each pair of pitches explains each frame, beyond the score of noise.

        score(a, b) = sum_c w_c (max(A_c(a), A_c(b), aperiodic) - aperiodic) - voiced * pitches

    Each unit belongs to the pitch that fits it better: the mask and the pitches are found together.

    Args:
        periodicity: (channels, L, G), correlogram at the lags of the grid.
        weights: (channels, L).
        aperiodic: periodicity of a unit without pitch.
        voiced: cost of a pitch.

    Returns:
        Scores (L, G + 1, G + 1), symmetric; index G stands for no pitch.

    Source: the three state spaces (no, one, two pitches) of Wu, Wang and Brown 2003.
    """
    channels, frames, lags = periodicity.shape
    gains = torch.nn.functional.pad((periodicity - aperiodic).clamp_min(0), (0, 1))
    scores = gains.new_empty(frames, lags + 1, lags + 1)
    for frame in range(frames):  # all frames at once would take `channels` times the memory
        gain = gains[:, frame]  # (channels, G + 1)
        pairs = torch.maximum(gain[:, :, None], gain[:, None])  # (channels, G + 1, G + 1)
        scores[frame] = (weights[:, frame] @ pairs.view(channels, -1)).view(lags + 1, lags + 1)
    costs = torch.full((lags + 1,), voiced)
    costs[-1] = 0
    return scores - costs[:, None] - costs


def best_tracks(scores: Tensor, glide: float, start: float, stop: float) -> Tensor:
    """Find the best two pitch tracks through scores.

    The pair is one hidden state, but each track moves by itself. So a step maximises over one track
    and then over the other.

    Args:
        scores: (L, G + 1, G + 1).
        glide: cost of one step of the grid; a track moves at most JUMP steps a frame.
        start: cost of the start of a track.
        stop: cost of the end of a track.

    Returns:
        Grid indices (L, 2); G stands for no pitch.

    Sources: Viterbi 1967; for pitch, Wu, Wang and Brown 2003.
    """
    frames, states, _ = scores.shape
    best = scores[0]
    before: list[tuple[Tensor, Tensor]] = []
    for frame in range(1, frames):
        best, first = _move(best, glide, start, stop)
        best, second = _move(best.T, glide, start, stop)
        best = best.T + scores[frame]
        before.append((first, second.T))
    a, b = divmod(int(best.argmax()), states)
    path = [(a, b)]
    for first, second in reversed(before):
        b = int(second[a, b])
        a = int(first[a, b])
        path.append((a, b))
    return torch.tensor(path[::-1])


def _move(best: Tensor, glide: float, start: float, stop: float) -> tuple[Tensor, Tensor]:
    """Move the track in dimension 0 by one frame: the best scores (G + 1, S) and their origins."""
    voiced, silent = best[:-1], best[-1]
    grid = len(voiced)
    padded = torch.nn.functional.pad(voiced, (0, 0, JUMP, JUMP), value=NEVER)
    moves = [padded[k : k + grid] - glide * abs(k - JUMP) for k in range(2 * JUMP + 1)]
    value, move = torch.stack([*moves, (silent - start).expand(grid, -1)]).max(0)
    origin = torch.arange(grid)[:, None] + move - JUMP
    origin = torch.where(move == 2 * JUMP + 1, grid, origin)
    ended, which = (voiced - stop).max(0)
    stay = silent >= ended
    value = torch.cat([value, torch.where(stay, silent, ended)[None]])
    return value, torch.cat([origin, torch.where(stay, grid, which)[None]]).to(torch.int16)
