"""Utterances: recordings, or parts of them, with speaker and text; and Lhotse manifests of them.

Manifests are recordings with supervisions, or cuts, as JSON lines. This module reads the documented
JSON itself, which takes json and gzip. The package lhotse would bring a dozen packages for
features, augmentation and loaders, which are not needed here. Lines that need lhotse (transforms,
sources other than files, mixed cuts) are refused.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpcl.errors import InputError
from dpcl.signal.audio import Part


@dataclass(frozen=True)
class Utterance:
    """One recording of one speaker; two with the same `text` are never in one mixture."""

    path: Path
    speaker: str
    corpus: str
    gender: str  # "f", "m" or ""
    seconds: float
    split: str
    text: str
    start: float | None = None  # s, start of a part of a long recording; None for all of it
    channel: int | None = None  # channel of a part, counted from 0; None for the mean of all

    @property
    def part(self) -> Part:
        """Return the part of the recording to read."""
        if self.start is None:
            return Part(self.path)
        return Part(self.path, self.start, self.seconds, self.channel)


_GENDERS = {"f": "f", "female": "f", "m": "m", "male": "m"}  # gender by its first word
LONGEST = 1e9  # largest time in a manifest, s
Line = tuple[str, dict[str, Any]]  # file and line number for messages, and the JSON object


def read_manifest(path: Path) -> tuple[Path, tuple[Utterance, ...]]:
    """Read the supervised segments of a Lhotse manifest.

    Each supervision is an utterance: all or a part of its recording. Speech of other talkers in the
    same segment stays in it. The name of the corpus is the file's name up to the first _.

    Args:
        path: cuts (CUTS.jsonl.gz), or one of a pair named …_recordings_… and …_supervisions_….

    Returns:
        The folder that holds all recordings, and the utterances.

    Raises:
        InputError: a line has no speaker or recording, or is not supported; the message names it.
    """
    kind = _kind(path)
    if kind == "recordings":
        path = _partner(path, "recordings", "supervisions")
    try:
        segments = list(_of_cuts(path) if kind == "cuts" else _of_supervisions(path))
    except (AttributeError, TypeError) as error:  # a list, object or text in the wrong place
        raise InputError(
            f"{path} is not as Lhotse writes it ({error}); prepare it again"
        ) from error
    if not segments:
        raise InputError(f"{path} holds no supervisions; choose another manifest")
    root = Path(os.path.commonpath([u.path.parent for u in segments]))
    return root, tuple(segments)


def _kind(path: Path) -> str:
    """Return the kind of a manifest: "recordings", "supervisions" or "cuts"."""
    for where, line in _lines(path):
        if "sources" in line:
            return "recordings"
        if "recording_id" in line:
            return "supervisions"
        if str(line.get("type", "")).endswith("Cut"):
            return "cuts"
        raise InputError(f"{where} is no Lhotse recording, supervision or cut; give a manifest")
    raise InputError(f"{path} is empty; prepare it again")


def _partner(path: Path, own: str, other: str) -> Path:
    """Return the manifest that belongs to a manifest of recordings or supervisions."""
    partner = path.with_name(path.name.replace(own, other))
    if partner == path or not partner.is_file():
        raise InputError(
            f"{path} needs its {other} beside it, in a file of the same name with {other} for"
            f" {own}; add it, or give cuts"
        )
    return partner


def _of_supervisions(path: Path) -> Iterator[Utterance]:
    """Yield the utterances of supervisions and their recordings."""
    recordings = {
        str(line.get("id")): (where, line)
        for where, line in _lines(_partner(path, "supervisions", "recordings"))
    }
    for where, line in _lines(path):
        identity = str(line.get("recording_id"))
        if identity not in recordings:
            raise InputError(f"{where}: there is no recording {identity}; prepare both again")
        yield _utterance(where, path, line, recordings[identity], 0.0, math.inf)


def _of_cuts(path: Path) -> Iterator[Utterance]:
    """Yield the utterances of cuts."""
    for where, cut in _lines(path):
        if cut.get("type") not in ("MonoCut", "MultiCut"):
            raise InputError(
                f"{where} is a {cut.get('type')}, no MonoCut of one recording; omit it"
            )
        if not isinstance(cut.get("recording"), dict):
            raise InputError(f"{where} has no recording; make the cuts from recordings")
        start, seconds = _number(where, cut, "start", 0.0), _number(where, cut, "duration")
        recording = (where, cut["recording"])
        for supervision in cut.get("supervisions") or []:
            yield _utterance(where, path, supervision, recording, start, start + seconds)


def _utterance(
    where: str, manifest: Path, line: dict[str, Any], recording: Line, begin: float, end: float
) -> Utterance:
    """Convert a supervision whose start counts from `begin`, cut off at `end` (s)."""
    speaker = line.get("speaker")
    if not speaker:
        raise InputError(f"{where} has no speaker; fill it in or omit the line")
    start = begin + _number(where, line, "start", -begin)
    seconds = _number(where, line, "duration")
    total = _number(recording[0], recording[1], "duration")
    first, last = max(start, begin), min(start + seconds, end, total)
    if not last > first:
        raise InputError(f"{where} lies outside of its recording or cut; correct or remove it")
    path, channel = _source(where, manifest, line, recording)
    whole = first == 0.0 and last == total and channel is None
    gender = str(line.get("gender") or "").lower().replace("_", " ").split(" ")[0]
    return Utterance(
        path=path,
        speaker=str(speaker),
        corpus=manifest.name.split("_")[0].split(".")[0],
        gender=_GENDERS.get(gender, ""),
        seconds=last - first,
        split="",
        text=str(line.get("text") or line.get("id") or where),
        start=None if whole else first,
        channel=channel,
    )


def _source(
    where: str, manifest: Path, line: dict[str, Any], recording: Line
) -> tuple[Path, int | None]:
    """Return the file of the supervision's channel, and its number there, None for all."""
    recorded = recording[1]
    if recorded.get("transforms"):
        raise InputError(f"{recording[0]} has transforms; save the transformed recording")
    channels = line.get("channel", 0)
    wanted = channels if isinstance(channels, list) else [channels]
    for source in recorded.get("sources") or []:
        held = source.get("channels") or [0]
        if not wanted or wanted[0] not in held:
            continue
        if source.get("type") != "file":
            raise InputError(
                f"{recording[0]} has a source of type {source.get('type')}; save it as a file"
            )
        given = str(source.get("source"))
        # Lhotse's paths are relative to the working folder; a manifest may move with its audio.
        for folder in (Path.cwd(), manifest.parent.absolute()):
            path = Path(os.path.normpath(folder / given))
            if path.is_file():
                one = len(held) > 1 and len(wanted) == 1
                return path, held.index(wanted[0]) if one else None
        raise InputError(
            f"{recording[0]}: {given} exists neither from the working folder nor from the"
            " manifest's; change to the folder it is relative to, or correct the line"
        )
    raise InputError(f"{where}: its recording has no channel {channels}; correct the line")


def _number(where: str, line: dict[str, Any], key: str, low: float | None = None) -> float:
    """Return a number of at least `low`, or above zero without `low`."""
    try:
        value = float(line[key])
    except (KeyError, TypeError, ValueError, OverflowError):
        value = math.nan
    if not (value > 0.0 if low is None else value >= low) or value > LONGEST:
        given = repr(line.get(key))[:80]
        raise InputError(f"{where}: {key} is {given}, not a possible number; correct it")
    return value


def _lines(path: Path) -> Iterator[Line]:
    """Yield the JSON objects of a manifest."""
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                if not text.strip():
                    continue
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise ValueError("no JSON object")
                yield f"{path} line {number}", line
    # JSON of thousands of brackets exceeds the recursion that Python allows.
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read after line {number} ({error}); prepare it again"
        ) from error
