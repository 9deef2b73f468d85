"""Other speech of the talkers of a list, and speaker-dependent models learned from it.

The model of a talker is learned from their own speech, without any sample of the mixture:

1. their recordings in splits other than the mixture's (for closed talkers, training speech);
2. without such recordings, their other recordings in the split of the mixture;
3. without these, the parts of the mixture's own recordings that the mixture does not use.

The first minute is used, in the order of the corpus. Speaker-dependent methods thus have an
advantage over methods for unknown talkers. The advantage grows from 1 to 3, as the speech then
comes from the same room and the same day.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dpcl.errors import InputError
from dpcl.mixtures.corpus import Utterance, read_corpus
from dpcl.mixtures.rows import MixtureRow, SourceRow
from dpcl.separators.registry import Method
from dpcl.signal.audio import read_mono

ENOUGH = 60.0  # length of speech to learn a talker from, s
LEAST = 2.0  # shortest speech to learn a talker from, s
GUARD = 0.1  # gap on either side of the parts that the mixture uses, s


class Piece(NamedTuple):
    """Part of a recording.

    Attributes:
        path: file of the recording.
        start: start of the part, s.
        seconds: length of the part, s.
    """

    path: Path
    start: float
    seconds: float


class UnknownTalker(InputError):
    """Error for a talker of a mixture without other speech in the corpus."""


class KnownTalkers:
    """Models of talkers for a speaker-dependent method, learned at first use.

    Args:
        method: method that needs models of the talkers.
        rows: rows whose talkers are checked now; other rows may follow.
        root: folder of the corpus.

    Raises:
        UnknownTalker: The corpus has no other speech of a talker. The message names the row and
            the talker.
        InputError: The corpus cannot be read, or does not list a recording of a row.
    """

    def __init__(
        self, method: Method, rows: Sequence[MixtureRow], root: str | os.PathLike[str]
    ) -> None:
        self.method = method
        corpus = read_corpus(root)
        self._root = corpus.root
        self._utterances = {
            u.path.relative_to(corpus.root).as_posix(): u for u in corpus.utterances
        }
        self._by_talker: dict[tuple[str, str], list[Utterance]] = {}
        for u in corpus.utterances:
            self._by_talker.setdefault((u.corpus, u.speaker), []).append(u)
        self._models: dict[tuple[Piece, ...], Any] = {}
        for row in rows:
            self.speech(row)

    def models(self, row: MixtureRow) -> list[Any]:
        """Return the models of the talkers of a row, in the order of its sources.

        Raises:
            UnknownTalker: The corpus has no other speech of a talker.
        """
        return [self._model(speech) for speech in self.speech(row)]

    def speech(self, row: MixtureRow) -> list[tuple[Piece, ...]]:
        """Return the pieces of speech that each talker of a row is learned from.

        Raises:
            UnknownTalker: The corpus has no other speech of a talker.
        """
        return [self._other_speech(row, source) for source in row.sources]

    def _model(self, speech: tuple[Piece, ...]) -> Any:
        """Return the model learned from some pieces of speech, from the cache if possible."""
        if speech not in self._models:
            rate = self.method.sample_rate
            recordings = [torch.from_numpy(read_mono(p.path, rate, *p[1:])) for p in speech]
            assert self.method.learn is not None
            self._models[speech] = self.method.learn(recordings)
        return self._models[speech]

    def _other_speech(self, row: MixtureRow, source: SourceRow) -> tuple[Piece, ...]:
        """Return speech of the talker of a source, in the order of preference of this module."""
        unlisted = [path for path in source.paths if path not in self._utterances]
        if unlisted:
            raise InputError(
                f"{row.where}: the corpus does not list {unlisted[0]}; give the corpus of the list"
            )
        joined = [self._utterances[path] for path in source.paths]
        mixed = {Path(path) for talker in row.sources for path in talker.paths}
        others = [
            u
            for u in self._by_talker[joined[0].corpus, joined[0].speaker]
            if u.path.relative_to(self._root) not in mixed
        ]
        splits = {u.split for u in joined}
        chosen = [u for u in others if u.split not in splits] or others
        pieces = [Piece(u.path, 0.0, u.seconds - GUARD) for u in chosen]
        unused = _unused_parts(joined, source.start, row.seconds, source.pause)
        speech = _first(pieces or unused, ENOUGH)
        if sum(piece.seconds for piece in speech) < LEAST:
            raise UnknownTalker(
                f"{row.where}: the corpus has no {LEAST:g} s of other speech of {source.speaker},"
                " which this separator needs; remove the row or add recordings"
            )
        return speech


def _unused_parts(
    joined: Sequence[Utterance], start: float, seconds: float, pause: float
) -> list[Piece]:
    """Return the parts of joined recordings that a mixture does not use, GUARD removed.

    The mixture is cut from `start` (s) on for `seconds`. pause: silence after each recording, s.
    """
    used: dict[Utterance, list[tuple[float, float]]] = {}  # start and end of each used part, s
    begin = 0.0  # start of a recording within the joined signal, s
    for u in joined:
        first, last = max(start - begin, 0.0), min(start + seconds - begin, u.seconds)
        used.setdefault(u, []).extend([(first, last)] if first < last else [])
        begin += u.seconds + pause
    pieces = []
    for u, parts in used.items():
        end = -GUARD
        for first, last in [*sorted(parts), (u.seconds, u.seconds)]:
            pieces.append(Piece(u.path, end + GUARD, first - end - 2 * GUARD))
            end = max(end, last)
    return pieces


def _first(pieces: Sequence[Piece], seconds: float) -> tuple[Piece, ...]:
    """Return the first pieces that add up to `seconds`, without pieces shorter than GUARD."""
    total = 0.0
    first: list[Piece] = []
    for piece in pieces:
        if total >= seconds:
            break
        if piece.seconds < GUARD:
            continue
        first.append(piece)
        total += piece.seconds
    return tuple(first)
