"""Corpora that Lhotse's recipes prepared: recordings with supervisions, or cuts, as JSON lines.

We read the documented JSON ourselves: it takes json and gzip, where lhotse brings a dozen packages
for features, augmentation and loaders that have no part in this. What needs lhotse to come out
right (transforms, sources other than files, mixed cuts) is refused.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpcl.errors import InputError
from dpcl.mixtures.utterance import Utterance

_GENDERS = {"f": "f", "female": "f", "m": "m", "male": "m"}  # by their first word
Line = tuple[str, dict[str, Any]]  # where it stands, for messages, and what


def read_manifest(path: Path) -> tuple[Path, tuple[Utterance, ...]]:
    """The folder that holds all recordings, and the supervised segments of a Lhotse manifest.

    path: cuts (CUTS.jsonl.gz), or either of a pair named …_recordings_… and …_supervisions_…
    Each supervision is an utterance: a part of its recording, or all of it. The corpus is named by
    what stands before the first _ of the file. Speech of others in the same segment stays in it.
    Raises InputError naming the line that has no speaker, no recording, or what we do not read.
    """
    kind = _kind(path)
    if kind == "recordings":
        path = _partner(path, "recordings", "supervisions")
    try:
        segments = list(_of_cuts(path) if kind == "cuts" else _of_supervisions(path))
    except (AttributeError, TypeError) as error:  # a list, object or text where another must be
        raise InputError(
            f"{path} is not as Lhotse writes it ({error}): prepare it again."
        ) from error
    if not segments:
        raise InputError(f"{path} holds no supervisions: choose another manifest.")
    root = Path(os.path.commonpath([u.path.parent for u in segments]))
    return root, tuple(segments)


def _kind(path: Path) -> str:
    for where, line in _lines(path):
        if "sources" in line:
            return "recordings"
        if "recording_id" in line:
            return "supervisions"
        if str(line.get("type", "")).endswith("Cut"):
            return "cuts"
        raise InputError(f"{where} is no Lhotse recording, supervision or cut: give a manifest.")
    raise InputError(f"{path} is empty: prepare it again.")


def _partner(path: Path, own: str, other: str) -> Path:
    partner = path.with_name(path.name.replace(own, other))
    if partner == path or not partner.is_file():
        raise InputError(
            f"{path} needs its {other} beside it, in a file of the same name with {other} for"
            f" {own}; or give cuts."
        )
    return partner


def _of_supervisions(path: Path) -> Iterator[Utterance]:
    recordings = {
        str(line.get("id")): (where, line)
        for where, line in _lines(_partner(path, "supervisions", "recordings"))
    }
    for where, line in _lines(path):
        identity = str(line.get("recording_id"))
        if identity not in recordings:
            raise InputError(f"{where}: there is no recording {identity}; prepare both again.")
        yield _utterance(where, path, line, recordings[identity], 0.0, math.inf)


def _of_cuts(path: Path) -> Iterator[Utterance]:
    for where, cut in _lines(path):
        if cut.get("type") not in ("MonoCut", "MultiCut"):
            raise InputError(
                f"{where} is a {cut.get('type')}, no MonoCut of one recording: leave it out."
            )
        if not isinstance(cut.get("recording"), dict):
            raise InputError(f"{where} has no recording: make the cuts from recordings.")
        start, seconds = _number(where, cut, "start", 0.0), _number(where, cut, "duration")
        recording = (where, cut["recording"])
        for supervision in cut.get("supervisions") or []:
            yield _utterance(where, path, supervision, recording, start, start + seconds)


def _utterance(
    where: str, manifest: Path, line: dict[str, Any], recording: Line, begin: float, end: float
) -> Utterance:
    """The supervision `line`, whose start counts from `begin`, as far as it lies before `end`."""
    speaker = line.get("speaker")
    if not speaker:
        raise InputError(f"{where} has no speaker: fill it in or leave the line out.")
    start = begin + _number(where, line, "start", -begin)
    seconds = _number(where, line, "duration")
    total = _number(recording[0], recording[1], "duration")
    first, last = max(start, begin), min(start + seconds, end, total)
    if not last > first:
        raise InputError(f"{where} lies outside of its recording or cut: correct or remove it.")
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
    """The file of the supervision's channel, and which of its channels that is if not all."""
    recorded = recording[1]
    if recorded.get("transforms"):
        raise InputError(f"{recording[0]} has transforms: save the recording as it shall be heard.")
    channels = line.get("channel", 0)
    wanted = channels if isinstance(channels, list) else [channels]
    for source in recorded.get("sources") or []:
        held = source.get("channels") or [0]
        if not wanted or wanted[0] not in held:
            continue
        if source.get("type") != "file":
            raise InputError(
                f"{recording[0]} has a source of type {source.get('type')}: save it as a file."
            )
        given = str(source.get("source"))
        # Lhotse means the working folder; a manifest may have moved with its audio.
        for folder in (Path.cwd(), manifest.parent.absolute()):
            path = Path(os.path.normpath(folder / given))
            if path.is_file():
                one = len(held) > 1 and len(wanted) == 1
                return path, held.index(wanted[0]) if one else None
        raise InputError(
            f"{recording[0]}: {given} exists neither from the working folder nor from the"
            " manifest's: go to the folder it counts from, or correct the line."
        )
    raise InputError(f"{where}: its recording has no channel {channels}; correct the line.")


def _number(where: str, line: dict[str, Any], key: str, low: float | None = None) -> float:
    """A number from `low` on; without it, above zero."""
    try:
        value = float(line[key])
    except (KeyError, TypeError, ValueError):
        value = math.nan
    if not (value > 0.0 if low is None else value >= low) or value == math.inf:
        raise InputError(f"{where}: {key} is {line.get(key)!r}, not a number that can be.")
    return value


def _lines(path: Path) -> Iterator[Line]:
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
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path} cannot be read after line {number} ({error}).") from error
