"""Draw mixture lists with evenly used speakers and pairing conditions; kinds of mixtures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations_with_replacement, cycle
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dpcl.errors import InputError
from dpcl.mixtures.corpus import Corpus, Utterance
from dpcl.mixtures.rows import MixtureRow, SourceRow, gender_condition, kind_name
from dpcl.settings import Settings
from dpcl.signal.level import draw_gains_db

ROUNDING = 0.01  # s, largest overstatement of a recording's length in an index

Speaker = tuple[str, str]  # corpus and speaker
Item = TypeVar("Item", Speaker, Utterance)


class Kind(Settings):
    """One kind of mixture: the group from which each of its sources is drawn."""

    of: tuple[str, ...] = Field(min_length=1, max_length=10)
    share: float = Field(default=1.0, gt=0, allow_inf_nan=False)  # relative share of mixtures
    same: bool = False  # all sources are of one class (or talker), from different recordings

    @property
    def name(self) -> str:
        """Return its name: speech+environment, sound+sound, sound+sound:same."""
        return kind_name(self.of, self.same)


class Kinds(Settings):
    """Groups of speakers and sound classes, and the kinds of mixtures to draw from them.

    A group lists corpora, or corpus/speaker; * stands for any characters. Entries that begin with !
    are excluded from it. Speakers and classes in no group are not drawn.
    """

    groups: dict[str, tuple[str, ...]]
    mixtures: tuple[Kind, ...] = Field(min_length=1)
    # Longest silence in s after each recording that is joined to a source. The silence is drawn
    # uniformly, once per source. It keeps one-shot sounds from becoming a rattle.
    pause: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_groups(self) -> Kinds:
        """Raise ValueError for names of groups that are wrong or unknown."""
        for kind in self.mixtures:
            if unknown := sorted(set(kind.of) - set(self.groups)):
                raise ValueError(f"there is no group {unknown[0]}; give groups.{unknown[0]}")
            if kind.same and len(set(kind.of)) > 1:
                raise ValueError(f"{'+'.join(kind.of)} cannot be the same class; name one group")
        if wrong := [name for name in self.groups if not name or set(name) & set("+: ")]:
            raise ValueError(f"a group cannot be called {wrong[0]!r}; omit spaces, + and :")
        return self

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of sources of the mixtures, ascending."""
        return sorted({len(kind.of) for kind in self.mixtures})

    def of_sources(self, number: int) -> Kinds:
        """Return only the kinds with this number of sources.

        Raises:
            InputError: there are none.
        """
        chosen = tuple(kind for kind in self.mixtures if len(kind.of) == number)
        if not chosen:
            raise InputError(
                f"the kinds of mixtures are of {' or '.join(map(str, self.numbers))} sources, not"
                f" of {number}; give one of these numbers, or add such a kind"
            )
        return self.model_copy(update={"mixtures": chosen})

    def members(self, speakers: Sequence[tuple[str, str]]) -> dict[str, NDArray[np.bool_]]:
        """Return the members of each group.

        Args:
            speakers: corpus and name of each of S speakers.

        Returns:
            Group -> (S,), true for the speakers in it.

        Raises:
            InputError: an entry of a group matches no speaker.
        """
        names = [f"{corpus}/{speaker}" for corpus, speaker in speakers]
        found = {}
        for group, entries in self.groups.items():
            found[group] = np.zeros(len(names), dtype=np.bool_)
            # Exclusions last, so that they prevail.
            for entry in sorted(entries, key=lambda entry: entry.startswith("!")):
                pattern = entry.removeprefix("!")
                pattern = pattern if "/" in pattern else f"{pattern}/*"
                named = np.array([fnmatchcase(name, pattern) for name in names])
                if not named.any():
                    raise InputError(
                        f"the corpus has no {pattern} for the group {group}; correct the group, or"
                        " the corpora and the split"
                    )
                found[group][named] = not entry.startswith("!")
        return found


def draw_list(
    corpus: Corpus,
    name: str,
    seed: int,
    count: int,
    num_sources: int,
    seconds: tuple[float, float] = (4.0, 8.0),
    relative_level_db: float = 5.0,
    same_speaker: bool = False,
    kinds: Kinds | None = None,
) -> list[MixtureRow]:
    """Draw `count` mixtures, the same ones for the same corpus and seed.

    If there are several corpora, half of the mixtures lie within one corpus, each corpus in turn,
    and half across corpora. The speakers of a corpus are used equally often, give or take one if
    texts clash, and so are the recordings of a speaker. Recordings shorter than the mixture are
    joined, and repeated if the speaker has no more. No two talkers of a mixture share a text.

    Args:
        corpus: the recordings.
        name: name of the list, the beginning of its mixtures' identifiers.
        seed: seed of the random numbers.
        count: number of mixtures.
        num_sources: number of sources in each mixture.
        seconds: range of the lengths, drawn uniformly, to 1 ms.
        relative_level_db: range of the gains in dB, see `draw_gains_db`; rounded to 0.01 dB.
        same_speaker: mix one speaker with themselves, each source from other recordings.
        kinds: draw only mixtures of these kinds with `num_sources` sources, in their shares. The
            sources have the order of the groups.

    Returns:
        One row per mixture.

    Raises:
        InputError: there are too few speakers or too few different texts, or an argument is wrong.
    """
    if not 0 < seconds[0] <= seconds[1] < math.inf:
        raise InputError(
            f"mixtures cannot last {seconds[0]} to {seconds[1]} s; give a positive range"
        )
    if not 0 <= relative_level_db < math.inf:
        raise InputError(
            f"relative levels of up to {relative_level_db} dB are impossible; give a finite number"
        )
    if not name or name != Path(name).name:
        raise InputError(f"{name!r} cannot name a list; give a name that a file can have")
    if kinds and same_speaker:
        raise InputError("kinds define which sources share a class; omit same_speaker")
    num_talkers = 1 if same_speaker else num_sources
    rng = np.random.default_rng(seed)
    draw = _Draw(corpus, rng, num_sources if same_speaker else 1)
    rows = []
    planned: list[Kind | tuple[str, ...]] = []
    if kinds:
        planned += draw.plan_kinds(count, kinds.of_sources(num_sources))
    else:
        planned += draw.plan(count, num_talkers)
    for i, plan in enumerate(planned, 1):
        length = round(float(rng.uniform(*seconds)), 3)
        if isinstance(plan, Kind):
            talkers = draw.of_kind(plan, length)
        else:
            talkers = draw.talkers(plan, length)
        gains_db = draw_gains_db(rng, num_sources, relative_level_db)
        first = [segment.recordings[0] for segment in talkers]
        rows.append(
            MixtureRow(
                id=f"{name}-{i:04d}",
                list=name,
                seed=seed,
                seconds=length,
                corpora="within" if len({u.corpus for u in first}) == 1 else "across",
                genders="same" if same_speaker else gender_condition(u.gender for u in first),
                sources=tuple(
                    SourceRow(
                        speaker=segment.recordings[0].speaker,
                        paths=tuple(_name(u, corpus.root) for u in segment.recordings),
                        start=segment.start,
                        gain_db=round(float(gain_db), 2),
                        pause=segment.pause,
                        group=segment.group,
                    )
                    for segment, gain_db in zip(talkers, gains_db, strict=True)
                ),
            )
        )
    return rows


@dataclass(frozen=True)
class _Segment:
    """Segment of one source: recordings to join, and a cut."""

    recordings: list[Utterance]  # recordings in the order of joining
    start: float  # s, beginning of the cut
    pause: float = 0.0  # s of silence after each recording
    group: str = ""


class _Draw:
    """Speakers and recordings with the number of their uses so far."""

    def __init__(self, corpus: Corpus, rng: np.random.Generator, voices: int = 1) -> None:
        self.rng, self.voices = rng, voices  # voices: number of sources of one speaker in a mixture
        self.recordings: dict[Speaker, list[Utterance]] = {}
        for u in sorted(corpus.utterances, key=lambda u: u.path):
            if u.seconds > ROUNDING:
                self.recordings.setdefault((u.corpus, u.speaker), []).append(u)
        if voices > 1:  # each voice of a speaker needs a text of its own
            self.recordings = {
                speaker: recordings
                for speaker, recordings in self.recordings.items()
                if len({u.text for u in recordings}) >= voices
            }
        self.uses: Counter[Speaker | Utterance] = Counter()
        self.groups: dict[str, list[Speaker]] = {}
        self.pause = 0.0  # s, longest silence after a recording

    def plan(self, count: int, num_sources: int) -> list[tuple[str, ...]]:
        """Return the corpora of the talkers of each mixture, in random order."""
        available = Counter(corpus for corpus, _ in self.recordings)
        if self.voices > 1 and not available:
            raise InputError(
                f"no speaker of the corpus has {self.voices} recordings of different texts to be"
                " mixed with one another; add recordings"
            )
        patterns = [
            pattern
            for pattern in combinations_with_replacement(sorted(available), num_sources)
            if all(available[corpus] >= n for corpus, n in Counter(pattern).items())
        ]
        if not patterns:
            raise InputError(
                f"the corpus has {len(self.recordings)} speakers, too few for mixtures of"
                f" {num_sources}; add speakers or mix fewer"
            )
        within = [pattern for pattern in patterns if len(set(pattern)) == 1]
        across = [pattern for pattern in patterns if len(set(pattern)) > 1]
        num_across = (count // 2 if within else count) if across else 0
        planned = [within[i % len(within)] for i in range(count - num_across)]
        planned += [across[i % len(across)] for i in range(num_across)]
        return [planned[i] for i in self.rng.permutation(count)]

    def talkers(self, corpora: tuple[str, ...], seconds: float) -> list[_Segment]:
        """Draw a segment for each talker, in random order."""
        chosen: list[Speaker] = []
        texts: set[str] = set()
        talkers = []
        for corpus in corpora:
            free = [s for s in self.recordings if s[0] == corpus and s not in chosen]
            speaker, fresh = self._with_fresh_texts(free, texts)
            if not fresh:
                raise InputError(
                    f"no {len(corpora)} speakers of the corpus {corpus} have different texts; check"
                    " its text column, or give the files of different sentences different names"
                )
            chosen.append(speaker)
            talkers += [
                self._segment(speaker, share, seconds, texts)
                for share in self._shares(fresh, self.voices)
            ]
        return [talkers[k] for k in self.rng.permutation(len(talkers))]

    def plan_kinds(self, count: int, kinds: Kinds) -> list[Kind]:
        """Return the kind of each mixture, in random order; shares are exact to one mixture."""
        speakers = list(self.recordings)
        self.groups = {
            group: [s for s, member in zip(speakers, members, strict=True) if member]
            for group, members in kinds.members(speakers).items()
        }
        self.pause = kinds.pause
        ends = np.cumsum([kind.share for kind in kinds.mixtures])
        counts = np.diff(np.rint(ends / ends[-1] * count).astype(int), prepend=0)
        planned = [k for k, n in zip(kinds.mixtures, counts, strict=True) for _ in range(n)]
        return [planned[i] for i in self.rng.permutation(count)]

    def of_kind(self, kind: Kind, seconds: float) -> list[_Segment]:
        """Draw a segment for each source of a kind of mixture."""
        texts: set[str] = set()
        if kind.same:
            for speaker in self._least_used(self.groups[kind.of[0]]):
                shares = self._shares(self.recordings[speaker], len(kind.of))
                if all(shares):  # every share has a text of its own
                    return [
                        self._segment(speaker, share, seconds, texts, kind.of[0])
                        for share in shares
                    ]
            raise InputError(
                f"no class of the group {kind.of[0]} has {len(kind.of)} different recordings for"
                f" mixtures {kind.name}; omit them, or add recordings"
            )
        chosen: list[Speaker] = []
        segments = []
        for group in kind.of:
            free = [s for s in self.groups[group] if s not in chosen]
            speaker, fresh = self._with_fresh_texts(free, texts)
            if not fresh:
                raise InputError(
                    f"the group {group} has too few speakers or classes with different texts for"
                    f" mixtures {kind.name}; add some to it"
                )
            chosen.append(speaker)
            segments.append(self._segment(speaker, fresh, seconds, texts, group))
        return segments

    def _with_fresh_texts(
        self, speakers: list[Speaker], texts: set[str]
    ) -> tuple[Speaker, list[Utterance]]:
        """Return the least used speaker with recordings of other texts, and these; else nothing."""
        for speaker in self._least_used(speakers):
            if fresh := [u for u in self.recordings[speaker] if u.text not in texts]:
                return speaker, fresh
        return ("", ""), []

    def _shares(self, fresh: list[Utterance], voices: int) -> list[list[Utterance]]:
        """Deal out the recordings to the voices of a speaker by text, the least used first."""
        if voices == 1:
            return [fresh]
        by_text: dict[str, list[Utterance]] = {}
        for u in self._least_used(fresh):
            by_text.setdefault(u.text, []).append(u)
        dealt = list(by_text.values())
        return [[u for same in dealt[voice::voices] for u in same] for voice in range(voices)]

    def _segment(
        self,
        speaker: Speaker,
        fresh: list[Utterance],
        seconds: float,
        texts: set[str],
        group: str = "",
    ) -> _Segment:
        """Cut a segment from these recordings, and record their texts and uses."""
        pause = round(float(self.rng.uniform(0.0, self.pause)), 3) if self.pause else 0.0
        joined: list[Utterance] = []
        total = 0.0
        for u in cycle(self._least_used(fresh)):  # repeated if there are no more
            joined.append(u)
            total += u.seconds - ROUNDING + pause
            if total >= seconds:
                break
        start = float(self.rng.uniform(0.0, total - seconds))
        while start >= joined[0].seconds + pause:  # the cut begins after this recording
            start -= joined.pop(0).seconds + pause
        texts.update(u.text for u in joined)
        self.uses.update([speaker, *set(joined)])
        return _Segment(joined, int(start * 1000) / 1000, pause, group)

    def _least_used(self, items: list[Item]) -> list[Item]:
        """Sort the items by use, the least used first, in random order among equals."""
        shuffled = [items[i] for i in self.rng.permutation(len(items))]
        return sorted(shuffled, key=lambda item: self.uses[item])


def _name(u: Utterance, root: Path) -> str:
    """Return the name of an utterance in a list; raise InputError if it has none."""
    path = u.path
    if not path.is_relative_to(root) or ".." in path.relative_to(root).parts or "|" in path.name:
        raise InputError(
            f"{path} cannot stand in a list: it lies outside {root} or has a | in it;"
            " move or rename it"
        )
    return u.part.name(root)
