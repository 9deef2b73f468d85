"""Conversations of any length, rendered from the utterances of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import oaconvolve
from torch import Tensor

from dpcl.errors import InputError
from dpcl.mixtures.corpus import Corpus, read_corpus
from dpcl.mixtures.noise import coloured_noise
from dpcl.mixtures.rooms import room_responses
from dpcl.mixtures.utterances import Utterance
from dpcl.signal.audio import read_part
from dpcl.signal.level import active_level_db, scale_to_peak

TURNS = 8.0, 30.0  # s, shortest and longest turn
PAUSES = 5.0, 40.0  # s, shortest and longest pause of a talker
LEVEL_DB = -26.0  # active level of every utterance
SPREAD_DB = 2.5  # dB, largest gain of a talker, in both directions

# Conversations in turns
_STREAM = 3  # number of the random stream
TALK = 0.8, 12.0  # s, shortest and longest turn; its logarithm is uniform
HANDOVER = -1.0, 1.0  # s from the end of a turn to the next one; negative: they overlap
INTERJECTED = 0.25  # share of the turns with an interjection of another talker
EVENNESS = 3.0  # parameter of the Dirichlet distribution of the shares of talk
WIDE_DB = 4.0  # dB, largest gain of a talker of `take_turns`, in both directions
APART = 0.2  # s between two turns of one talker, at least
FADE = 0.02  # s at either end of a turn


@lru_cache(maxsize=2)
def read_talkers(root: str, split: str, only: tuple[str, ...]) -> Corpus:
    """Read a corpus once in a process; of an index with these corpora only these."""
    corpus = read_corpus(Path(root), split)
    some = tuple(u for u in corpus.utterances if u.corpus in only)
    return Corpus(corpus.root, some) if some else corpus


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
        minutes: length in min.
        seed: seed of the random numbers.
        sample_rate: in Hz.
        turns: length of a turn in s, uniform from the first to the second value.
        pauses: length of a pause between two turns of a talker in s, uniform as well.

    Returns:
        Names, each corpus/speaker, and sources (C, T) that sum to the conversation.

    Raises:
        InputError: The corpus has fewer speakers, or a file cannot be read.
    """
    rng = np.random.default_rng(seed)
    chosen = _draw_talkers(corpus, talkers, rng)
    sources = np.zeros((talkers, round(60 * minutes * sample_rate)), np.float32)
    total = sources.shape[1]
    for number, (utterances, source) in enumerate(zip(chosen.values(), sources, strict=True)):
        speech = _speech(utterances, rng, sample_rate)
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
    return list(chosen), torch.from_numpy(scale_to_peak(sources))


def take_turns(
    corpus: Corpus, talkers: int, minutes: float, seed: int, sample_rate: int
) -> tuple[list[str], Tensor]:
    """Render a conversation in turns: short overlaps, uneven shares of talk, backchannels.

    One talker follows another after a pause or before the other ends. Some turns have a short
    interjection of a third person, or of the listener.

    Args:
        corpus: utterances of at least `talkers` speakers.
        talkers: number of talkers C.
        minutes: length in min.
        seed: seed of the random numbers.
        sample_rate: in Hz.

    Returns:
        Names, each corpus/speaker, and sources (C, T) that sum to the conversation.

    Raises:
        InputError: The corpus has fewer speakers, or a file cannot be read.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, _STREAM)))
    chosen = _draw_talkers(corpus, talkers, rng)
    speech = [_speech(utterances, rng, sample_rate) for utterances in chosen.values()]
    sources = np.zeros((talkers, round(60 * minutes * sample_rate)), np.float32)
    total = sources.shape[1]
    shares = np.maximum(rng.dirichlet([EVENNESS] * talkers), 0.3 / talkers)
    gains = 10 ** (rng.uniform(-WIDE_DB, WIDE_DB, talkers) / 20)
    used, free = [0] * talkers, [0.0] * talkers  # samples of speech; s from which a talker may talk

    def say(talker: int, start: float, seconds: float) -> float:
        """Write a turn; return its end in s."""
        start = max(start, free[talker], 0.0)
        first, count = round(start * sample_rate), round(seconds * sample_rate)
        own = speech[talker]
        part = own[(used[talker] + np.arange(count)) % len(own)][: max(0, total - first)]
        fade = np.minimum(1, np.arange(1, len(part) + 1) / (FADE * sample_rate))
        part = part * (fade * fade[::-1]).astype(np.float32) * np.float32(gains[talker])
        sources[talker, first : first + len(part)] += part
        used[talker] += count
        free[talker] = start + seconds + APART
        return start + seconds

    time, last = 0.0, -1
    first = [int(talker) for talker in rng.permutation(talkers)]  # all talkers speak
    while time * sample_rate < total:
        odds = shares * (np.arange(talkers) != last) if talkers > 1 else shares
        last = first.pop() if first else int(rng.choice(talkers, p=odds / odds.sum()))
        length = float(np.exp(rng.uniform(*np.log(TALK))))
        end = say(last, time + float(rng.uniform(*HANDOVER)), length)
        if talkers > 1 and rng.random() < INTERJECTED and length > 2:
            other = int(rng.choice([k for k in range(talkers) if k != last]))
            say(other, end - length * float(rng.uniform(0.3, 0.9)), float(rng.uniform(0.4, 1.0)))
        time = end
    return list(chosen), torch.from_numpy(scale_to_peak(sources))


def in_room(
    sources: Tensor, seed: int, sample_rate: int, rt60: float, snr_db: float
) -> tuple[Tensor, Tensor]:
    """Put the talkers of a conversation into a room, with noise.

    Args:
        sources: (C, T).
        seed: seed of the random numbers.
        sample_rate: in Hz.
        rt60: reverberation time in s.
        snr_db: level of the talkers over the coloured noise, where they speak.

    Returns:
        Sources (C, T) at the microphone, and the noise (T,); their sum is the recording.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, _STREAM, 1)))
    size = (float(rng.uniform(5, 8)), float(rng.uniform(4, 7)), float(rng.uniform(2.6, 3.5)))
    microphone = (size[0] / 2, size[1] / 2, 1.2)
    places = []
    for _ in range(len(sources)):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.8)
        x, y = distance * np.cos(angle), distance * np.sin(angle)
        height = float(rng.uniform(1.1, 1.7))
        places.append((float(microphone[0] + x), float(microphone[1] + y), height))
    responses = room_responses(size, rt60, microphone, places, sample_rate)
    wet = np.stack(
        [
            oaconvolve(source, response)[: len(source)]
            for source, response in zip(sources.numpy(), responses, strict=True)
        ]
    ).astype(np.float32)
    noise = coloured_noise(rng, sources.shape[1], sample_rate, float(rng.uniform(0.5, 2.0)))
    level = active_level_db(wet.sum(0), sample_rate) - snr_db
    noise = noise * np.float32(10 ** (level / 20) / np.sqrt(np.square(noise).mean() + 1e-12))
    scaled = scale_to_peak(np.concatenate([wet, noise[None]]))
    return torch.from_numpy(scaled[:-1]), torch.from_numpy(scaled[-1])


def _draw_talkers(
    corpus: Corpus, talkers: int, rng: np.random.Generator
) -> dict[str, list[Utterance]]:
    """Draw talkers; return their utterances by name, in the order of the draw."""
    speakers: dict[str, list[Utterance]] = {}
    for utterance in corpus.utterances:
        speakers.setdefault(f"{utterance.corpus}/{utterance.speaker}", []).append(utterance)
    if len(speakers) < talkers:
        raise InputError(
            f"{corpus.root}: has {len(speakers)} speakers, too few for conversations of {talkers};"
            " give another --corpus"
        )
    names = rng.choice(sorted(speakers), talkers, replace=False)
    return {str(name): speakers[str(name)] for name in names}


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
