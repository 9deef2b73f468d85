"""Timelines as files: RTTM (NIST), label tracks of Audacity, JSON."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dpcl
from dpcl.errors import InputError
from dpcl.separators.base import Segment, Timeline

SLACK = 0.1  # s by which a segment may exceed its recording: times are rounded
MARK = f"dpcl {dpcl.__version__}"
OVERLAP = "overlap"  # label of overlapped speech
_FOREIGN = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


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
