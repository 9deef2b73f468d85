"""Utterances: recordings, or parts of them, with their speaker and text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dpcl.mixtures.parts import Part


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
