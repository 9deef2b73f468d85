"""Timelines: who speaks when, from the levels of the separated sources; and files of timelines.

Files are RTTM (NIST), label tracks of Audacity, and JSON.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import dpcl
from dpcl.errors import InputError
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

SLACK = 0.1  # s by which a segment may exceed its recording: times are rounded
MARK = f"dpcl {dpcl.__version__}"
OVERLAP = "overlap"  # label of overlapped speech
_FOREIGN = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


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
    if not link.num_sources:
        return Timeline((), seconds)
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


def rttm_text(timelines: Mapping[str, Timeline]) -> str:
    """Return timelines as RTTM, one SPEAKER line per segment.

    Spaces in names become underscores, since they separate the fields.

    Args:
        timelines: timeline of each recording by its name, without suffix.

    Example:
        >>> timeline = Timeline((Segment(0.5, 2.0, "s1"),), 3.0)
        >>> print(rttm_text({"a": timeline}).splitlines()[-1])
        SPEAKER a 1 0.500 1.500 <NA> <NA> s1 <NA> <NA>

    Source: NIST, "The 2009 (RT-09) Rich Transcription Meeting Recognition Evaluation Plan",
    appendix A.
    """
    lines = [f";; {MARK}"]
    for name, timeline in timelines.items():
        for x in timeline.segments:
            times = f"{x.start:.3f} {x.end - x.start:.3f}"
            lines.append(f"SPEAKER {_word(name)} 1 {times} <NA> <NA> {_word(x.talker)} <NA> <NA>")
    return "\n".join(lines) + "\n"


def label_text(timeline: Timeline) -> str:
    """Return a timeline as a label track of Audacity; overlapped speech has labels of its own.

    Example:
        >>> label_text(Timeline((Segment(0.5, 2.0, "s1"),))).split()
        ['0.500000', '2.000000', 's1']
    """
    overlaps = [Segment(x.start, x.end, OVERLAP) for x in timeline.overlaps()]
    lines = [f"{x.start:.6f}\t{x.end:.6f}\t{x.talker}" for x in (*timeline.segments, *overlaps)]
    return "".join(f"{line}\n" for line in lines)


def json_text(name: str, timeline: Timeline) -> str:
    """Return a timeline as JSON: length, talkers, segments and overlaps of one recording."""

    def rows(segments: Iterable[Segment]) -> list[dict[str, Any]]:
        return [{"talker": x.talker, "start": x.start, "end": x.end} for x in segments]

    document = {
        "software": MARK,
        "recording": name,
        "seconds": timeline.seconds,
        "talkers": list(timeline.talkers),
        "segments": rows(timeline.segments),
        "overlaps": rows(timeline.overlaps()),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def timeline_texts(name: str, timeline: Timeline) -> tuple[str, str, str]:
    """Return the files of the timeline of one recording: labels, RTTM and JSON."""
    return label_text(timeline), rttm_text({name: timeline}), json_text(name, timeline)


def read_timelines(path: Path) -> dict[str, Timeline]:
    """Read the timelines of a file, in the format of its suffix.

    Args:
        path: RTTM (.rttm), labels of Audacity (.txt) or JSON of this module (.json).

    Returns:
        Timeline by name of the recording; for labels, the name of the file without suffix.

    Raises:
        InputError: The file cannot be read, is not UTF-8, a line is malformed, or a talker overlaps
            with themselves.
    """
    text = _text(path)
    if path.suffix == ".json":
        return {path.stem: _parsed(text, path)}
    found: dict[str, list[Segment]] = {}
    labels = path.suffix == ".txt"
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{path}, line {number}"
        if not line.strip() or line.startswith((";", "\\")):
            continue
        fields = line.split("\t") if labels else line.split()
        if labels:
            if len(fields) != 3:
                raise InputError(f"{where}: has {len(fields)} fields; give start, end and label")
            start, end = _number(fields[0], where), _number(fields[1], where)
            name, talker = path.stem, fields[2].strip()
            if talker == OVERLAP:
                continue
        elif fields[0] != "SPEAKER":
            continue
        else:
            if len(fields) < 8:
                raise InputError(
                    f"{where}: has {len(fields)} fields; RTTM has 8 or more, the eighth names the"
                    " talker"
                )
            start = _number(fields[3], where)
            end, name, talker = start + _number(fields[4], where), fields[1], fields[7]
        segment = Segment(round(start, 6), round(end, 6), talker)
        found.setdefault(name, []).append(_checked(segment, where))
    timelines = {name: Timeline(tuple(sorted(segments))) for name, segments in found.items()}
    for name, timeline in timelines.items():
        check_timeline(timeline, f"{path}, {name}")
    return timelines


def check_timeline(timeline: Timeline, where: str, seconds: float | None = None) -> None:
    """Check that no talker overlaps with themselves, and that all segments lie in the recording.

    Args:
        timeline: the timeline.
        where: its file and recording, for the message.
        seconds: length of the recording in s; None if unknown.

    Raises:
        InputError: One of these does not hold.
    """
    last: dict[str, Segment] = {}
    for x in timeline.segments:
        before = last.get(x.talker)
        if before is not None and x.start < before.end - 1e-3:
            raise InputError(
                f"{where}: {x.talker} overlaps with themselves at {x.start:.2f} s; join the two"
                " segments"
            )
        if before is None or x.end > before.end:
            last[x.talker] = x
        if seconds is not None and x.end > seconds + SLACK:
            raise InputError(
                f"{where}: {x.talker} speaks until {x.end:.2f} s, but the recording ends at"
                f" {seconds:.2f} s; correct the times"
            )


def _word(name: str) -> str:
    """Return a name without white space."""
    return "_".join(name.split()) or "_"


def _text(path: Path) -> str:
    """Read a file of UTF-8 text."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the name") from error
    for mark, name in _FOREIGN.items():
        if data.startswith(mark):
            raise InputError(f"{path}: is {name} text; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8") from error


def _number(text: str, where: str) -> float:
    """Read a time in s."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {text!r} is no time; give seconds, such as 12.5")
    return value


def _checked(segment: Segment, where: str) -> Segment:
    """Check that a segment begins at 0 s or later, has a length and names a talker."""
    if segment.start < 0 or segment.end <= segment.start:
        raise InputError(
            f"{where}: a segment from {segment.start:g} to {segment.end:g} s is empty or begins"
            " before the recording; correct the times"
        )
    if not segment.talker:
        raise InputError(f"{where}: names no talker; add the name")
    return segment


def _parsed(text: str, path: Path) -> Timeline:
    """Read the JSON of `json_text`."""
    try:
        document = json.loads(text)
        segments = [
            Segment(float(x["start"]), float(x["end"]), str(x["talker"]))
            for x in document["segments"]
        ]
        seconds, names = document.get("seconds"), document.get("talkers", ())
        length = None if seconds is None else float(seconds)
        timeline = Timeline(tuple(sorted(segments)), length, tuple(map(str, names)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: is no timeline in JSON; give `segments` with talker, start and end"
        ) from error
    for segment in timeline.segments:
        _checked(segment, str(path))
    check_timeline(timeline, str(path), timeline.seconds)
    return timeline
