"""Drawing a mixture list: speakers evenly used, pairing conditions evenly filled."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations_with_replacement, cycle
from pathlib import Path
from typing import TypeVar

import numpy as np

from dpcl.errors import InputError
from dpcl.mixtures.corpus import Corpus, Utterance
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
) -> list[MixtureRow]:
    """Draw `count` mixtures, the same ones for the same corpus and seed.

    Half of them lie within one corpus, each corpus in turn, and half across corpora, where there
    are several. The speakers of a corpus are used equally often, give or take one where texts
    clash, and so are the recordings of a speaker. Lengths are uniform within `seconds`, to 1 ms;
    gains are those of draw_gains_db, to 0.01 dB. Recordings shorter than the mixture are joined,
    and repeated where the speaker has no more. No two talkers of a mixture share a text. With
    `same_speaker` all of them are one speaker, each with recordings of his own.
    Raises InputError if there are too few speakers, or too few different texts.
    """
    if not 0 < seconds[0] <= seconds[1] < math.inf:
        raise InputError(f"Mixtures cannot last {seconds[0]} to {seconds[1]} s: give two lengths.")
    if not 0 <= relative_level_db < math.inf:
        raise InputError(f"Relative levels of up to {relative_level_db} dB: give a finite number.")
    if not name or name != Path(name).name:
        raise InputError(f"{name!r} cannot name a list: its mixtures become files of that name.")
    rng = np.random.default_rng(seed)
    draw = _Draw(corpus, rng, num_sources if same_speaker else 1)
    rows = []
    for i, corpora in enumerate(draw.plan(count, 1 if same_speaker else num_sources), 1):
        length = round(float(rng.uniform(*seconds)), 3)
        talkers = draw.talkers(corpora, length)
        gains_db = draw_gains_db(rng, num_sources, relative_level_db)
        rows.append(
            MixtureRow(
                id=f"{name}-{i:04d}",
                list=name,
                seed=seed,
                seconds=length,
                corpora="within" if len(set(corpora)) == 1 else "across",
                genders="same"
                if same_speaker
                else gender_condition(recordings[0].gender for recordings, _ in talkers),
                sources=tuple(
                    SourceRow(
                        speaker=recordings[0].speaker,
                        paths=tuple(_name(u, corpus.root) for u in recordings),
                        start=start,
                        gain_db=round(float(gain_db), 2),
                    )
                    for (recordings, start), gain_db in zip(talkers, gains_db, strict=True)
                ),
            )
        )
    return rows


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

    def talkers(
        self, corpora: tuple[str, ...], seconds: float
    ) -> list[tuple[list[Utterance], float]]:
        """For each talker, in random order, the recordings to join and where to start (s)."""
        chosen: list[Speaker] = []
        texts: set[str] = set()
        talkers = []
        for corpus in corpora:
            free = [s for s in self.recordings if s[0] == corpus and s not in chosen]
            for speaker in self._least_used(free):
                fresh = [u for u in self.recordings[speaker] if u.text not in texts]
                if fresh:
                    break
            else:
                raise InputError(
                    f"No {len(corpora)} speakers of the corpus {corpus} have different texts: check"
                    " its text column, or give the files of different sentences different names."
                )
            chosen.append(speaker)
            self.uses.update([speaker])
            for share in self._shares(fresh):
                recordings, start = self._segment(share, seconds)
                texts.update(u.text for u in recordings)
                self.uses.update(set(recordings))
                talkers.append((recordings, start))
        return [talkers[k] for k in self.rng.permutation(len(talkers))]

    def _shares(self, fresh: list[Utterance]) -> list[list[Utterance]]:
        """The recordings for each voice of a speaker: the least used ones dealt out by text."""
        if self.voices == 1:
            return [fresh]
        by_text: dict[str, list[Utterance]] = {}
        for u in self._least_used(fresh):
            by_text.setdefault(u.text, []).append(u)
        dealt = list(by_text.values())
        return [
            [u for same in dealt[voice :: self.voices] for u in same]
            for voice in range(self.voices)
        ]

    def _segment(self, fresh: list[Utterance], seconds: float) -> tuple[list[Utterance], float]:
        joined: list[Utterance] = []
        total = 0.0
        for u in cycle(self._least_used(fresh)):  # again from the first where there are no more
            joined.append(u)
            total += u.seconds - ROUNDING
            if total >= seconds:
                break
        start = float(self.rng.uniform(0.0, total - seconds))
        while start >= joined[0].seconds:  # the cut begins behind it
            start -= joined.pop(0).seconds
        return joined, int(start * 1000) / 1000

    def _least_used(self, items: list[Item]) -> list[Item]:
        """Those used least first, in random order among equals."""
        shuffled = [items[i] for i in self.rng.permutation(len(items))]
        return sorted(shuffled, key=lambda item: self.uses[item])


def _name(u: Utterance, root: Path) -> str:
    path = u.path
    if not path.is_relative_to(root) or ".." in path.relative_to(root).parts or "|" in path.name:
        raise InputError(f"{path} cannot stand in a list: it lies outside {root} or has a | in it.")
    return u.part.name(root)
