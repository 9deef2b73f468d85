"""Parts of recordings: a time range of a long file, or one of its channels, named by one string.

A name is a path, optionally followed by a W3C media fragment: `meeting.flac#t=12.5,18` (12.5 to
18 s) or `call.wav#t=12.5,18&channel=1` (of the second channel).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpcl.signal.audio import cut_mono, read_mono

_FRAGMENT = re.compile(r"(.+)#t=([\d.]+),([\d.]+)(?:&channel=(\d+))?")


@dataclass(frozen=True)
class Part:
    """Recording, or its part from `start` for `seconds`."""

    path: Path
    start: float | None = None  # s; None for the whole recording
    seconds: float | None = None  # length in s
    channel: int | None = None  # counted from 0; None for the mean of all

    def name(self, root: Path) -> str:
        """Return the name, relative to `root`, that `parse_part` reads."""
        path = self.path.relative_to(root).as_posix()
        if self.start is None or self.seconds is None:
            return path
        channel = "" if self.channel is None else f"&channel={self.channel}"
        start, end = plain_seconds(self.start), plain_seconds(self.start + self.seconds)
        return f"{path}#t={start},{end}{channel}"


def plain_seconds(seconds: float) -> str:
    """Format seconds to the microsecond, without an exponent."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def parse_part(name: str, root: str | os.PathLike[str] = "") -> Part:
    """Return the part that a name stands for.

    A file whose own name ends like a fragment cannot be named.

    Raises:
        ValueError: the part ends before it begins.

    Example:
        >>> parse_part("meeting.flac#t=12.5,18").seconds
        5.5
    """
    match = _FRAGMENT.fullmatch(name)
    if match is None:
        return Part(Path(root) / name)
    start, end = float(match[2]), float(match[3])
    if not end > start:
        raise ValueError(f"{name} ends before it begins")
    channel = None if match[4] is None else int(match[4])
    return Part(Path(root) / match[1], start, end - start, channel)


def read_part(part: Part, sample_rate: int) -> NDArray[np.float32]:
    """Read the samples (T,) of a part at `sample_rate` Hz.

    Raises:
        InputError: as for `read_mono`.
    """
    if part.start is None:
        return read_mono(part.path, sample_rate)
    try:
        changed = part.path.stat().st_mtime_ns
    except OSError:
        changed = 0  # read_mono raises the error
    mono = _whole(part.path, sample_rate, part.channel, changed)
    return cut_mono(mono, part.path, sample_rate, part.start, part.seconds)


@lru_cache(maxsize=1)  # one recording, since its parts are mostly read in sequence
def _whole(path: Path, rate: int, channel: int | None, changed: int) -> NDArray[np.float32]:
    """Read a whole recording; `changed` is its time of change in ns, part of the cache's key."""
    return read_mono(path, rate, channel=channel)
