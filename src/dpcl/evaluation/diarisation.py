"""Reference timelines of recordings; scores of timelines and of outputs against them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpcl.errors import InputError
from dpcl.recordings.timeline import (
    FRAME,
    active_sources,
    check_timeline,
    frame_count,
    read_timelines,
    timeline_of,
)
from dpcl.separators.base import Timeline
from dpcl.signal.reader import AudioReader

LEAST = 0.5  # s, shortest stretch of one talker that counts for changes of identity
QUIET = -60.0  # dB, leakage without any sound
AUDIBLE = 1e-4  # power of a frame, relative to the loud frames, from which it counts


@dataclass(frozen=True)
class TimelineScore:
    """Errors of a timeline, in s of talker time.

    Attributes:
        total: talker time of the reference: overlapped speech counts once per talker.
        missed: time without a talker of the estimate.
        false_alarm: time with more talkers in the estimate than in the reference.
        confusion: time of talkers in the wrong place.
        jer: Jaccard error rate, mean over the talkers of the reference; NaN without any.
    """

    total: float
    missed: float
    false_alarm: float
    confusion: float
    jer: float

    @property
    def der(self) -> float:
        """Return the diarisation error rate; NaN for a reference without speech."""
        wrong = self.missed + self.false_alarm + self.confusion
        return wrong / self.total if self.total > 0 else math.nan


def score_timeline(
    reference: Timeline, estimate: Timeline, collar: float = 0.0, overlaps: bool = True
) -> TimelineScore:
    """Score a timeline against the true one, exactly, with the best mapping of talkers.

    Args:
        reference: true timeline.
        estimate: estimated timeline.
        collar: s on each side of every boundary of the reference that are not scored.
        overlaps: score overlapped speech too.

    Returns:
        The errors.

    Example:
        >>> from dpcl.separators.base import Segment
        >>> reference = Timeline((Segment(0, 6, "a"), Segment(6, 10, "b")))
        >>> estimate = Timeline((Segment(0, 7, "x"), Segment(7, 12, "y")))
        >>> score = score_timeline(reference, estimate)
        >>> score.confusion, score.false_alarm, score.missed, score.der
        (1.0, 2.0, 0.0, 0.3)

    Source: DER: NIST, RT-09 evaluation plan, 2009. JER: Ryant et al. 2019, "The Second DIHARD
    Diarization Challenge", section 4.2.
    """
    edges = {t for x in (*reference.segments, *estimate.segments) for t in (x.start, x.end)}
    bounds = [t for x in reference.segments for t in (x.start, x.end)]
    if collar:
        edges |= {t + side * collar for t in bounds for side in (-1, 1)}
    times = np.array(sorted(edges) or [0.0, 0.0])
    starts, durations = times[:-1], np.diff(times)
    middles = starts + durations / 2
    true, found = _active(reference, middles), _active(estimate, middles)
    for t in bounds if collar else ():
        durations = np.where(np.abs(middles - t) < collar, 0.0, durations)
    if not overlaps:
        durations = np.where(true.sum(0) > 1, 0.0, durations)
    speaking, estimated = true.sum(0), found.sum(0)
    shared = (true * durations) @ found.T  # (R, H), s
    rows, columns = _assign(shared)
    right = float(shared[rows, columns].sum())
    both = float(np.minimum(speaking, estimated) @ durations)
    own, other = true @ durations, found @ durations
    union = own[:, None] + other - shared
    jaccard = shared / np.where(union > 0, union, 1.0)
    counted = own > 0
    rows, columns = _assign(jaccard)
    return TimelineScore(
        total=float(speaking @ durations),
        missed=float(np.maximum(speaking - estimated, 0) @ durations),
        false_alarm=float(np.maximum(estimated - speaking, 0) @ durations),
        confusion=max(both - right, 0.0),
        jer=1 - float(jaccard[rows, columns].sum()) / counted.sum() if counted.any() else math.nan,
    )


@dataclass(frozen=True)
class AloneScore:
    """Outputs where exactly one talker speaks.

    Attributes:
        seconds: time with one talker.
        wrong: time in which another output than the talker's is the loudest, s.
        leak_db: power of the other outputs, relative to the talker's, in the time that is right.
        changes: number of times that a talker moves to another output.
        outputs: output of each talker of the reference; -1 for none.
    """

    seconds: float
    wrong: float
    leak_db: float
    changes: int
    outputs: tuple[int, ...]

    @property
    def share(self) -> float:
        """Return the share of the time with one talker that is at the wrong output."""
        return self.wrong / self.seconds if self.seconds else math.nan


def score_alone(reference: Timeline, levels: Tensor) -> AloneScore:
    """Score where the talkers are who speak alone, with the best output for each talker.

    Args:
        reference: true timeline.
        levels: levels (C, n) of the outputs in dB, in frames of a timeline.

    Returns:
        The scores.
    """
    active = reference.activity(FRAME, levels.shape[1])  # (R, n)
    if not len(levels):  # no talker was found
        seconds = int((active.sum(0) == 1).sum()) * FRAME
        return AloneScore(seconds, seconds, QUIET, 0, (-1,) * len(active))
    power = (levels.double() / 10 * math.log(10)).exp()
    total = power.sum(0)
    audible = total > AUDIBLE * total.quantile(0.95)  # in silence no output is the loudest
    alone = active & (active.sum(0) == 1) & audible
    loudest = torch.nn.functional.one_hot(levels.argmax(0), len(levels)).T  # (C, n)
    shared = (alone.double() @ loudest.double().T).numpy()  # (R, C), frames
    outputs = [-1] * len(active)
    for row, column in zip(*_assign(shared), strict=True):
        outputs[row] = int(column)
    right = sum(shared[row, column] for row, column in enumerate(outputs) if column >= 0)
    own = other = 0.0
    changes = 0
    for row, column in enumerate(outputs):
        if column >= 0:
            theirs = power[:, alone[row] & (loudest[column] > 0)]
            own += float(theirs[column].sum())
            other += float(theirs.sum() - theirs[column].sum())
        changes += _changes(alone[row], levels.argmax(0))
    leak = 10 * math.log10(max(other, 1e-30) / own) if own > 0 else math.nan
    frames = int(alone.sum())
    return AloneScore(
        frames * FRAME, (frames - right) * FRAME, max(leak, QUIET), changes, tuple(outputs)
    )


def reference_timeline(levels: Tensor, names: tuple[str, ...], seconds: float) -> Timeline:
    """Return the timeline of separate recordings of the talkers, from their levels (C, n) in dB."""
    active = torch.cat([active_sources(own[None]) for own in levels])
    found = timeline_of(active, seconds)
    called = dict(zip(found.names, names, strict=True))
    segments = tuple(type(x)(x.start, x.end, called[x.talker]) for x in found.segments)
    return Timeline(segments, seconds, names)


def sample_levels(samples: Tensor, sample_rate: int) -> Tensor:
    """Return levels (C, n) in dB of samples (C, T), in frames of a timeline.

    A difference of neighbouring samples damps hum and rumble.
    """
    size = round(FRAME * sample_rate)
    frames = frame_count(samples.shape[1] / sample_rate)
    bright = samples - torch.nn.functional.pad(samples[:, :-1], (1, 0))
    padded = torch.nn.functional.pad(bright, (0, max(0, frames * size - samples.shape[1])))
    power = padded[:, : frames * size].view(len(samples), frames, size).square().mean(-1)
    return 10 * power.clamp_min(1e-12).log10()


def read_meetings(place: Path, limit: int | None = None) -> dict[Path, Timeline]:
    """Find recordings and their timelines.

    Args:
        place: RTTM file, or folder with recordings and RTTM files.
        limit: number of recordings, from the first on; None for all.

    Returns:
        Timeline by recording, in the order of the names.

    Raises:
        InputError: There is no RTTM file, a recording is missing, or a timeline does not fit it.
    """
    folder = place if place.is_dir() else place.parent
    files = sorted(folder.glob("*.rttm")) if place.is_dir() else [place]
    if not files:
        raise InputError(f"{place}: holds no RTTM file; add one that names the recordings")
    audio: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix not in (".rttm", ".txt", ".json", ".md", ".csv"):
            audio.setdefault("_".join(path.stem.split()), path)
    found: dict[Path, Timeline] = {}
    for file in files:
        for name, timeline in read_timelines(file).items():
            if name not in audio:
                raise InputError(
                    f"{file}: names the recording {name}, which is not in {folder}; add the"
                    " recording, or remove its lines"
                )
            if audio[name] in found:
                raise InputError(f"{file}: {name} has lines in two RTTM files; join them")
            found[audio[name]] = timeline
    chosen = dict(sorted(found.items())[:limit])
    for path, timeline in chosen.items():
        with AudioReader(path) as reader:
            if reader.frames:
                seconds = reader.frames / reader.sample_rate
                check_timeline(timeline, f"{path.name} in the RTTM file", seconds)
    return chosen


def _active(timeline: Timeline, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 where a talker is active at a time, (talkers, n)."""
    rows = {talker: number for number, talker in enumerate(timeline.talkers)}
    active = np.zeros((len(rows), len(times)))
    for x in timeline.segments:
        first, last = np.searchsorted(times, [x.start, x.end])
        active[rows[x.talker], first:last] = 1.0
    return active


def _assign(gain: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of the assignment with the largest sum."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    rows, columns = linear_sum_assignment(gain, maximize=True)
    return rows, columns


def _changes(alone: Tensor, loudest: Tensor) -> int:
    """Count how often the output of one talker changes between stretches (n,) of at least LEAST."""
    edges = torch.nn.functional.pad(alone.to(torch.int8), (1, 1)).diff().nonzero()[:, 0].tolist()
    owners = [
        int(loudest[first:last].mode().values)
        for first, last in zip(edges[::2], edges[1::2], strict=True)
        if (last - first) * FRAME >= LEAST
    ]
    return sum(before != after for before, after in pairwise(owners))
