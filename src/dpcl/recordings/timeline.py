"""Who speaks when: a timeline from the levels of the separated sources."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.separators.base import Link, Segment, Timeline

FRAME = 0.02  # s from one frame of a timeline to the next
SMOOTH = 3  # frames over which levels and probabilities are averaged
# Levels in dB. A source is active above all of these limits.
BELOW_OWN = -28.0  # relative to its own loud level
BELOW_ALL = -45.0  # relative to the loud level of all sources
BELOW_LOUDEST = -8.0  # relative to the loudest source of the frame: fainter is leakage
ABOVE_FLOOR = 6.0  # above the floor of the recording
BELOW_LOUD = -10.0  # highest limit that the floor sets, relative to the loud level
LOUD, QUIET = 0.95, 0.1  # quantiles of frames: loud level and floor
LONGEST_GAP = 0.3  # s, shorter pauses of a talker are closed
SHORTEST = 0.16  # s, shorter segments are omitted
SILENT, SEVERAL = 0.6, 0.4  # probabilities that decide for no talker, and for one more talker
FAINTEST, SILENCE = 1e-12, -110.0  # power and level (dB) that stand for digital silence


class LevelMeter:
    """Levels of the sources of a recording, gathered block by block.

    Args:
        hop: time between frames in s.
        first: first bin that counts; the bins below it hold hum and rumble.
    """

    def __init__(self, hop: float, first: int) -> None:
        self.hop, self.first = hop, first
        self.every = max(1, round(FRAME / hop))  # frames from one measured frame to the next
        self._powers: list[Tensor] = []
        self._seen = 0

    def measure(self, masks: Tensor, spectrum: Tensor) -> Tensor:
        """Return the power (C, l) of every frame of masks (C, l, F) and spectrum (ch, l, F)."""
        power = spectrum[..., self.first :].abs().square().mean(0)  # (l, F)
        return torch.einsum("clf,lf->cl", masks[..., self.first :].square(), power)

    def keep(self, powers: Tensor) -> None:
        """Append the power (C, l) of the next frames."""
        start = -self._seen % self.every
        self._powers.append(powers[:, start :: self.every].clone())
        self._seen += powers.shape[1]

    def levels(self, seconds: float) -> Tensor:
        """Return levels (C, n) in dB of the frames of a timeline of `seconds` s."""
        powers = torch.cat(self._powers, dim=1)
        return 10 * at_frames(powers, self.every * self.hop, seconds).clamp_min(FAINTEST).log10()


def at_frames(values: Tensor, hop: float, seconds: float) -> Tensor:
    """Return values (C, l) of frames `hop` s apart at the nearest frames of a timeline (C, n)."""
    times = torch.arange(frame_count(seconds), dtype=torch.float64) * FRAME
    nearest = (times / hop).round().long().clamp_max(values.shape[1] - 1)
    return values[:, nearest]


def frame_count(seconds: float) -> int:
    """Return the number of frames of a timeline of `seconds` s.

    Example:
        >>> frame_count(1.0)
        50
    """
    return max(1, math.ceil(round(seconds / FRAME, 6)))


def estimate_timeline(levels: Tensor, link: Link, hop: float, seconds: float) -> Timeline:
    """Estimate who speaks when.

    The activity of the link decides if there is one. Otherwise a source is active where it is loud
    enough: relative to its own loud level, to the loud level and the floor of the recording, and to
    the loudest source of the frame. Frame-wise numbers of talkers limit how many are active.

    Args:
        levels: (C, n) in dB, of the frames of the timeline.
        link: link of the recording.
        hop: time between the frames of the link in s.
        seconds: length of the recording.

    Returns:
        The timeline; its talkers have the names of the link, in the order of the sources.
    """
    if link.activity is not None:
        active = at_frames(link.activity, hop, seconds) > 0.5
        active &= levels > max(float(levels.amax()) + 2 * BELOW_ALL, SILENCE)
    else:
        counts = None if link.talkers is None else at_frames(link.talkers.T, hop, seconds)
        active = active_sources(levels, counts)
    return timeline_of(active, seconds, link.names)


def active_sources(levels: Tensor, counts: Tensor | None = None) -> Tensor:
    """Decide from levels which sources are active in each frame.

    Args:
        levels: (C, n) in dB.
        counts: (classes, n), probabilities of 0, 1, 2, … active talkers; None if unknown.

    Returns:
        bool (C, n).
    """
    power = _smooth((levels / 10 * math.log(10)).exp())
    levels = 10 * power.clamp_min(FAINTEST).log10()
    loudest = levels.amax(0)
    total = 10 * power.sum(0).clamp_min(FAINTEST).log10()
    loud, floor = float(total.quantile(LOUD)), float(total.quantile(QUIET))
    if loud <= SILENCE:
        return torch.zeros_like(levels, dtype=torch.bool)
    least = max(loud + BELOW_ALL, min(floor + ABOVE_FLOOR, loud + BELOW_LOUD))
    active = (levels >= loudest + BELOW_LOUDEST) & (levels >= least)
    for own, row in zip(levels, active, strict=True):
        first = own[own == loudest]  # frames in which no source is louder
        row &= own >= (float(first.quantile(LOUD)) + BELOW_OWN if len(first) else math.inf)
    if counts is None:
        return active
    counts = _smooth(counts)
    active &= counts[0] <= SILENT
    ranks = levels.argsort(0, descending=True).argsort(0)  # (C, n), 0 for the loudest
    several = counts.flip(0).cumsum(0).flip(0)  # probability of at least k talkers, (classes, n)
    allowed = 1 + (several[2:-1] > SEVERAL).sum(0) if len(counts) > 3 else 1
    unlimited = several[-1] > SEVERAL
    return active & ((ranks < allowed) | unlimited)


def timeline_of(active: Tensor, seconds: float, names: Sequence[str] = ()) -> Timeline:
    """Turn activity into segments: short gaps are closed, then short segments are omitted.

    Args:
        active: bool (C, n), in frames of a timeline.
        seconds: length of the recording in s.
        names: of the talkers; s1, s2, … if omitted.

    Returns:
        The timeline.

    Example:
        >>> active = torch.zeros(1, 100, dtype=torch.bool)
        >>> active[0, 10:50] = True
        >>> timeline_of(active, 2.0).segments
        (Segment(start=0.2, end=1.0, talker='s1'),)
    """
    names = tuple(names) or tuple(f"s{number + 1}" for number in range(len(active)))
    segments = []
    for name, row in zip(names, active, strict=True):
        runs: list[list[float]] = []
        edges = functional.pad(row.to(torch.int8), (1, 1)).diff().nonzero()[:, 0].tolist()
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            start, end = first * FRAME, min(last * FRAME, seconds)
            if runs and start - runs[-1][1] < LONGEST_GAP:
                runs[-1][1] = end
            else:
                runs.append([start, end])
        segments += [
            Segment(round(start, 3), round(end, 3), name)
            for start, end in runs
            if end - start >= min(SHORTEST, seconds / 2)
        ]
    return Timeline(tuple(sorted(segments)), seconds, names)


def _smooth(values: Tensor) -> Tensor:
    """Average (C, n) over SMOOTH frames."""
    reach = SMOOTH // 2
    padded = functional.pad(values[None], (reach, reach), mode="replicate")
    return functional.avg_pool1d(padded, SMOOTH, 1)[0]
