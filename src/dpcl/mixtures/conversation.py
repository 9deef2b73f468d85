"""Conversations of any length, rendered from the utterances of a corpus."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpcl.errors import InputError
from dpcl.mixtures.corpus import Corpus
from dpcl.mixtures.mixing import PEAK
from dpcl.mixtures.parts import read_part
from dpcl.mixtures.utterance import Utterance
from dpcl.signal.level import active_level_db

TURNS = 8.0, 30.0  # s, shortest and longest turn
PAUSES = 5.0, 40.0  # s, shortest and longest pause of a talker
LEVEL_DB = -26.0  # active level of every utterance
SPREAD_DB = 2.5  # gain of a talker, uniform in +- this


def converse(
    corpus: Corpus,
    talkers: int,
    minutes: float,
    seed: int,
    sample_rate: int,
    turns: tuple[float, float] = TURNS,
    pauses: tuple[float, float] = PAUSES,
) -> tuple[list[str], Tensor]:
    """Render a conversation. The last talker enters late; the first pauses in the middle.

    Args:
        corpus: utterances of at least `talkers` speakers.
        talkers: number of talkers C.
        minutes: length.
        seed: of all draws.
        sample_rate: in Hz.
        turns: s, uniform from the first to the second.
        pauses: s between two turns of a talker, likewise.

    Returns:
        Names, each corpus/speaker, and sources (C, T) that sum to the conversation.

    Raises:
        InputError: The corpus has fewer speakers, or a file cannot be read.
    """
    rng = np.random.default_rng(seed)
    speakers: dict[str, list[Utterance]] = {}
    for utterance in corpus.utterances:
        speakers.setdefault(f"{utterance.corpus}/{utterance.speaker}", []).append(utterance)
    if len(speakers) < talkers:
        raise InputError(
            f"{corpus.root}: has {len(speakers)} speakers, too few for conversations of {talkers};"
            " give another --corpus"
        )
    names = [str(name) for name in rng.choice(sorted(speakers), talkers, replace=False)]
    total = round(60 * minutes * sample_rate)
    sources = np.zeros((talkers, total), np.float32)
    for number, (name, source) in enumerate(zip(names, sources, strict=True)):
        speech = _speech(speakers[name], rng, sample_rate)
        gain = 10 ** (rng.uniform(-SPREAD_DB, SPREAD_DB) / 20)
        place = total // 6 if number == talkers - 1 else 0
        used = 0
        while place < total:
            turn = round(rng.uniform(*turns) * sample_rate)
            part = speech[(used + np.arange(turn)) % len(speech)][: total - place]
            source[place : place + len(part)] = gain * part
            used += turn
            place += turn + round(rng.uniform(*pauses) * sample_rate)
        if number == 0:
            source[total // 2 : total // 2 + total // 6] = 0
    peak = max(np.abs(sources).max(), np.abs(sources.sum(0)).max())
    return names, torch.from_numpy(sources * np.float32(PEAK / peak))


def _speech(
    utterances: Sequence[Utterance], rng: np.random.Generator, sample_rate: int
) -> NDArray[np.float32]:
    """Return all utterances of a talker in random order, each at LEVEL_DB."""
    speech = []
    for i in rng.permutation(len(utterances)):
        samples = read_part(utterances[i].part, sample_rate)
        level = active_level_db(samples, sample_rate)
        speech.append(samples * np.float32(10 ** ((LEVEL_DB - level) / 20)))
    return np.concatenate(speech)
