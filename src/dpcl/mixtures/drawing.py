"""Drawing a mixture list: speakers evenly used, pairing conditions evenly filled."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import combinations_with_replacement, cycle
from pathlib import Path
from typing import TypeVar

import numpy as np

from dpcl.errors import InputError
from dpcl.mixtures.corpus import Corpus, Utterance
from dpcl.mixtures.kinds import Kind, Kinds
from dpcl.mixtures.mixing import draw_gains_db
from dpcl.mixtures.rows import MixtureRow, SourceRow, gender_condition

ROUNDING = 0.01  # s by which an index may overstate the length of a recording

Speaker = tuple[str, str]  # corpus and speaker
Item = TypeVar("Item", Speaker, Utterance)


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

    Half of them lie within one corpus, each corpus in turn, and half across corpora, where there
    are several. The speakers of a corpus are used equally often, give or take one where texts
    clash, and so are the recordings of a speaker. Lengths are uniform within `seconds`, to 1 ms;
    gains are those of draw_gains_db, to 0.01 dB. Recordings shorter than the mixture are joined,
    and repeated where the speaker has no more. No two talkers of a mixture share a text. With
    `same_speaker` all of them are one speaker, each with recordings of his own. With `kinds` the
    mixtures are of those of `num_sources`, in their shares, their sources in the order of the
    groups.
    Raises InputError if there are too few speakers, or too few different texts.
    """
    if not 0 < seconds[0] <= seconds[1] < math.inf:
        raise InputError(f"Mixtures cannot last {seconds[0]} to {seconds[1]} s: give two lengths.")
    if not 0 <= relative_level_db < math.inf:
        raise InputError(f"Relative levels of up to {relative_level_db} dB: give a finite number.")
    if not name or name != Path(name).name:
        raise InputError(f"{name!r} cannot name a list: its mixtures become files of that name.")
    if kinds and same_speaker:
        raise InputError("Kinds say themselves who is mixed with himself: leave out same_speaker.")
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
    """What one source is cut from."""

    recordings: list[Utterance]  # joined in this order
    start: float  # s
    pause: float = 0.0  # s behind each recording
    group: str = ""


class _Draw:
    """How often each speaker and recording was used so far."""

    def __init__(self, corpus: Corpus, rng: np.random.Generator, voices: int = 1) -> None:
        self.rng, self.voices = rng, voices  # of one speaker in a mixture
        self.recordings: dict[Speaker, list[Utterance]] = {}
        for u in sorted(corpus.utterances, key=lambda u: u.path):
            if u.seconds > ROUNDING:
                self.recordings.setdefault((u.corpus, u.speaker), []).append(u)
        if voices > 1:  # who has too little to say cannot talk with himself
            self.recordings = {
                speaker: recordings
                for speaker, recordings in self.recordings.items()
                if len({u.text for u in recordings}) >= voices
            }
        self.uses: Counter[Speaker | Utterance] = Counter()
        self.groups: dict[str, list[Speaker]] = {}
        self.pause = 0.0  # s at most, behind a recording

    def plan(self, count: int, num_sources: int) -> list[tuple[str, ...]]:
        """The corpora of the talkers of each mixture, in random order."""
        available = Counter(corpus for corpus, _ in self.recordings)
        if self.voices > 1 and not available:
            raise InputError(
                f"No speaker of the corpus has {self.voices} recordings of different texts to be"
                " mixed with one another: add recordings."
            )
        patterns = [
            pattern
            for pattern in combinations_with_replacement(sorted(available), num_sources)
            if all(available[corpus] >= n for corpus, n in Counter(pattern).items())
        ]
        if not patterns:
            raise InputError(
                f"The corpus has {len(self.recordings)} speakers, too few for mixtures of"
                f" {num_sources}: add speakers or mix fewer."
            )
        within = [pattern for pattern in patterns if len(set(pattern)) == 1]
        across = [pattern for pattern in patterns if len(set(pattern)) > 1]
        num_across = (count // 2 if within else count) if across else 0
        planned = [within[i % len(within)] for i in range(count - num_across)]
        planned += [across[i % len(across)] for i in range(num_across)]
        return [planned[i] for i in self.rng.permutation(count)]

    def talkers(self, corpora: tuple[str, ...], seconds: float) -> list[_Segment]:
        """What each talker says, in random order."""
        chosen: list[Speaker] = []
        texts: set[str] = set()
        talkers = []
        for corpus in corpora:
            free = [s for s in self.recordings if s[0] == corpus and s not in chosen]
            speaker, fresh = self._with_fresh_texts(free, texts)
            if not fresh:
                raise InputError(
                    f"No {len(corpora)} speakers of the corpus {corpus} have different texts: check"
                    " its text column, or give the files of different sentences different names."
                )
            chosen.append(speaker)
            talkers += [
                self._segment(speaker, share, seconds, texts)
                for share in self._shares(fresh, self.voices)
            ]
        return [talkers[k] for k in self.rng.permutation(len(talkers))]

    def plan_kinds(self, count: int, kinds: Kinds) -> list[Kind]:
        """The kind of each mixture, in random order; none is off its share by one mixture."""
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
        """What is heard of each source of a kind of mixture."""
        texts: set[str] = set()
        if kind.same:
            for speaker in self._least_used(self.groups[kind.of[0]]):
                shares = self._shares(self.recordings[speaker], len(kind.of))
                if all(shares):  # of several texts at least
                    return [
                        self._segment(speaker, share, seconds, texts, kind.of[0])
                        for share in shares
                    ]
            raise InputError(
                f"No class of the group {kind.of[0]} has {len(kind.of)} different recordings for"
                f" mixtures {kind.name}: leave them out, or add recordings."
            )
        chosen: list[Speaker] = []
        segments = []
        for group in kind.of:
            free = [s for s in self.groups[group] if s not in chosen]
            speaker, fresh = self._with_fresh_texts(free, texts)
            if not fresh:
                raise InputError(
                    f"The group {group} has too few speakers or classes with different texts for"
                    f" mixtures {kind.name}: add some to it."
                )
            chosen.append(speaker)
            segments.append(self._segment(speaker, fresh, seconds, texts, group))
        return segments

    def _with_fresh_texts(
        self, speakers: list[Speaker], texts: set[str]
    ) -> tuple[Speaker, list[Utterance]]:
        """The least used speaker who has recordings of other texts, and these; none if no one."""
        for speaker in self._least_used(speakers):
            if fresh := [u for u in self.recordings[speaker] if u.text not in texts]:
                return speaker, fresh
        return ("", ""), []

    def _shares(self, fresh: list[Utterance], voices: int) -> list[list[Utterance]]:
        """The recordings for each voice of a speaker: the least used ones dealt out by text."""
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
        """A segment of these recordings; their texts and uses are noted."""
        pause = round(float(self.rng.uniform(0.0, self.pause)), 3) if self.pause else 0.0
        joined: list[Utterance] = []
        total = 0.0
        for u in cycle(self._least_used(fresh)):  # again from the first where there are no more
            joined.append(u)
            total += u.seconds - ROUNDING + pause
            if total >= seconds:
                break
        start = float(self.rng.uniform(0.0, total - seconds))
        while start >= joined[0].seconds + pause:  # the cut begins behind it
            start -= joined.pop(0).seconds + pause
        texts.update(u.text for u in joined)
        self.uses.update([speaker, *set(joined)])
        return _Segment(joined, int(start * 1000) / 1000, pause, group)

    def _least_used(self, items: list[Item]) -> list[Item]:
        """Those used least first, in random order among equals."""
        shuffled = [items[i] for i in self.rng.permutation(len(items))]
        return sorted(shuffled, key=lambda item: self.uses[item])


def _name(u: Utterance, root: Path) -> str:
    path = u.path
    if not path.is_relative_to(root) or ".." in path.relative_to(root).parts or "|" in path.name:
        raise InputError(f"{path} cannot stand in a list: it lies outside {root} or has a | in it.")
    return u.part.name(root)
