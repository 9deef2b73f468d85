"""Two pitches at once: the harmonic explanation of a correlogram, followed through time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

JUMP = 4  # steps of the pitch grid that a voice may glide from one frame to the next
NEVER = -1e9


def lag_grid(lowest: float, highest: float, sample_rate: int, step: float = 0.03) -> Tensor:
    """Periods (G,) in samples, fractional, from that of `highest` to that of `lowest` (Hz).

    Neighbours differ by the ratio exp(step), so that a step is an interval, as pitch is heard.
    """
    ends = (math.log(sample_rate / highest), math.log(sample_rate / lowest))
    return torch.exp(torch.arange(*ends, step, dtype=torch.float64)).float()


def at_lags(correlograms: Tensor, lags: Tensor) -> Tensor:
    """correlograms (..., whole lags) at fractional lags (G,), by linear interpolation."""
    low = lags.floor().long()
    high = (low + 1).clamp(max=correlograms.shape[-1] - 1)
    return torch.lerp(correlograms[..., low], correlograms[..., high], lags - low)


def explained(periodicity: Tensor, weights: Tensor, aperiodic: float, voiced: float) -> Tensor:
    """How well each pair of pitches explains each frame, beyond what noise would.

    periodicity: (channels, L, G), the correlogram at the grid's lags; weights: (channels, L);
    aperiodic: the periodicity that a unit has without any pitch; voiced: the cost of a pitch.
    Returns (L, G + 1, G + 1), symmetric; index G stands for no pitch.

        score(a, b) = sum_c w_c (max(A_c(a), A_c(b), aperiodic) - aperiodic) - voiced * pitches

    Each unit goes to the pitch that fits it better: the mask and the pitches are found together.
    Sources: the three state spaces (no, one, two pitches) of Wu, Wang and Brown 2003.
    """
    channels, frames, lags = periodicity.shape
    gains = torch.nn.functional.pad((periodicity - aperiodic).clamp_min(0), (0, 1))
    scores = gains.new_empty(frames, lags + 1, lags + 1)
    for frame in range(frames):  # all at once would take channels times the memory
        gain = gains[:, frame]  # (channels, G + 1)
        pairs = torch.maximum(gain[:, :, None], gain[:, None])  # (channels, G + 1, G + 1)
        scores[frame] = (weights[:, frame] @ pairs.view(channels, -1)).view(lags + 1, lags + 1)
    costs = torch.full((lags + 1,), voiced)
    costs[-1] = 0
    return scores - costs[:, None] - costs


def best_tracks(scores: Tensor, glide: float, start: float, stop: float) -> Tensor:
    """The best two tracks through scores (L, G + 1, G + 1) -> grid indices (L, 2), G: no pitch.

    A track pays `glide` a step of the grid that it moves, at most JUMP a frame, `start` to begin
    and `stop` to end. The pair is one hidden state (Viterbi 1967; for pitch: Wu, Wang and Brown
    2003), but each track moves by itself, so a step maximises over one and then over the other.
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
    """One step of the track in dimension 0: the best scores (G + 1, S), and where from."""
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
