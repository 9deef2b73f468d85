"""The other speech of the talkers of a list, and speaker-dependent separators that learn from it.

What a talker is learned from, always his own speech and never a sample of the mixture:

1. his recordings in other splits than the mixture's: for closed talkers, their training speech;
2. if there are none, his other recordings in the split of the mixture;
3. if there are none either, what the mixture leaves out of the recordings that it is cut from.

The first minute of it, in the order of the corpus. That is more than a separator of unknown
talkers is told, and the more so the further down this list it comes from: same room, same day.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dpcl.errors import InputError
from dpcl.mixtures.corpus import Utterance, read_corpus
from dpcl.mixtures.lists import MixtureRow, SourceRow
from dpcl.separators.registry import Method
from dpcl.signal.audio import read_mono

ENOUGH = 60.0  # s of speech to learn a talker from
LEAST = 2.0  # s, under which there is nothing to learn from
GUARD = 0.1  # s on either side of what the mixture holds


class Piece(NamedTuple):
    """A part of a recording, in s."""

    path: Path
    start: float
    seconds: float


class UnknownTalker(InputError):
    """A talker of a mixture of whom the corpus has no other speech."""


class KnownTalkers:
    """A speaker-dependent method for the rows of a list: models learned when they are needed.

    Raises UnknownTalker, naming the row and the talker, where the corpus has no other speech of
    one; for all of `rows` before any work begins.
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
        self._of_talker: dict[tuple[str, str], list[Utterance]] = {}
        for u in corpus.utterances:
            self._of_talker.setdefault((u.corpus, u.speaker), []).append(u)
        self._models: dict[tuple[Piece, ...], Any] = {}
        for row in rows:
            self.speech(row)

    def models(self, row: MixtureRow) -> list[Any]:
        """Return the models of the talkers of this row, in their order."""
        return [self._model(speech) for speech in self.speech(row)]

    def speech(self, row: MixtureRow) -> list[tuple[Piece, ...]]:
        """What each talker of a row is learned from."""
        return [self._other_speech(row, source) for source in row.sources]

    def _model(self, speech: tuple[Piece, ...]) -> Any:
        if speech not in self._models:
            rate = self.method.sample_rate
            recordings = [torch.from_numpy(read_mono(p.path, rate, *p[1:])) for p in speech]
            assert self.method.learn is not None
            self._models[speech] = self.method.learn(recordings)
        return self._models[speech]

    def _other_speech(self, row: MixtureRow, source: SourceRow) -> tuple[Piece, ...]:
        unlisted = [path for path in source.paths if path not in self._utterances]
        if unlisted:
            raise InputError(
                f"{row.where}: the corpus does not list {unlisted[0]}; is it the right one?"
            )
        heard = [self._utterances[path] for path in source.paths]
        mixed = {Path(path) for talker in row.sources for path in talker.paths}
        others = [
            u
            for u in self._of_talker[heard[0].corpus, heard[0].speaker]
            if u.path.relative_to(self._root) not in mixed
        ]
        splits = {u.split for u in heard}
        chosen = [u for u in others if u.split not in splits] or others
        pieces = [Piece(u.path, 0.0, u.seconds - GUARD) for u in chosen]
        left_out = _left_out(heard, source.start, row.seconds, source.pause)
        speech = _first(pieces or left_out, ENOUGH)
        if sum(piece.seconds for piece in speech) < LEAST:
            raise UnknownTalker(
                f"{row.where}: the corpus has no {LEAST:g} s of other speech of {source.speaker},"
                " whom this separator must know; leave the row out or add recordings"
            )
        return speech


def _left_out(
    joined: Sequence[Utterance], start: float, seconds: float, pause: float
) -> list[Piece]:
    """What a mixture leaves out of the recordings that were joined for it and cut from `start`.

    pause: silence behind each of them, s.
    """
    used: dict[Utterance, list[tuple[float, float]]] = {}  # from where to where, in s
    begin = 0.0  # of a recording among the joined
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
    """As many of the pieces, in their order, as it takes for so many seconds; no scraps."""
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
