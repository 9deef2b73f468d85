"""Rows of a mixture list: sources, noise, room and channel of each mixture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dpcl.mixtures.channels import Channel

PINK, BABBLE = "pink=", "babble="  # prefixes of noise that is not one recording

Place = tuple[float, float, float]


@dataclass(frozen=True)
class SourceRow:
    """Source of a mixture: joined files, cut from `start`, with a gain."""

    speaker: str
    paths: tuple[str, ...]  # files or parts, in this order, relative to the corpus root, with /
    start: float  # s, beginning of the cut in the joined files
    gain_db: float  # dB, relative to an active level of 0 dB
    pause: float = 0.0  # s of silence after each joined file
    group: str = ""  # group of speakers or sound classes, in a list drawn by kind


@dataclass(frozen=True)
class NoiseRow:
    """Noise of a mixture: a file, or a part of a file, from `start`."""

    # relative to the corpus root, `pink=SEED`, or `babble=PATH|PATH|…` for the sum of all of them
    path: str
    start: float  # s, beginning of the noise in the file
    snr_db: float  # dB, ratio of the loudest talker to the noise


@dataclass(frozen=True)
class RoomRow:
    """Room of a mixture: a shoebox with a corner at the origin; lengths in m, RT60 in s."""

    size: Place
    rt60: float
    microphone: Place
    positions: tuple[Place, ...]  # places of the talkers
    array: tuple[Place, ...] = ()  # further microphones; lists of conditions alone have them


@dataclass(frozen=True)
class MixtureRow:
    """Mixture of a list; mixture and sources have the length `seconds`."""

    id: str
    list: str
    seed: int
    seconds: float
    corpora: str  # "within" one corpus or "across" several
    genders: str  # talkers' genders: "same", "different" or "unknown"
    sources: tuple[SourceRow, ...]
    # File of a rendered mixture, which is read as it is, like its sources; "" for other mixtures.
    mixture: str = ""
    noise: NoiseRow | None = None
    room: RoomRow | None = None
    channel: Channel | None = None

    @property
    def has_background(self) -> bool:
        """True if the mixture differs from the sum of its sources."""
        return self.noise is not None or (self.channel is not None and self.channel.distorts)

    @property
    def where(self) -> str:
        """Return the beginning of messages about this mixture."""
        return f"mixture {self.id} of list {self.list}"

    @property
    def kind(self) -> str:
        """Return the kind, such as speech+environment; "" if the list has no groups."""
        if not all(source.group for source in self.sources):
            return ""
        groups = [source.group for source in self.sources]
        same = len({(source.group, source.speaker) for source in self.sources}) == 1
        return kind_name(groups, same and len(groups) > 1)


def gender_condition(genders: Iterable[str]) -> str:
    """Return the condition "same", "different" or "unknown" of genders "f", "m" or ""."""
    found = set(genders)
    return "unknown" if "" in found else "same" if len(found) == 1 else "different"


def kind_name(groups: Sequence[str], same: bool) -> str:
    """Return the name of a kind: sources of these groups, of one class if `same`."""
    return "+".join(groups) + (":same" if same else "")
