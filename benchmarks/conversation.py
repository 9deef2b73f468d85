"""Does a source stay who it is? A long conversation of talkers who come and go, separated whole.

Talkers of a split speak for stretches of 8 to 30 s with pauses of 5 to 40 s between them; the last
one enters after a sixth of the time, and the first is silent for a sixth of it in the middle. The
score is SI-SDRi in segments of 6 s in which two or more talk, and how many segments have their
sources in another order than the recording as a whole. Beside it stands what the same segments
have when each is separated by itself, told how many talk: as short mixtures, in which nobody can be
taken for somebody else. Where one talks alone, the score is the share of seconds at the wrong
place.

python benchmarks/conversation.py --root CORPUS --minutes 30
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from dpcl.recordings.long import LongSeparation
from dpcl.separators.load import load_separator
from numpy.typing import NDArray
from torch import Tensor

from dpcl.evaluation.metrics import best_permutation, si_sdr
from dpcl.mixtures.corpus import Corpus, Utterance, read_corpus
from dpcl.mixtures.mixing import PEAK
from dpcl.recordings.recording import InMemory
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.signal.audio import read_mono
from dpcl.signal.level import active_level_db

SAMPLE_RATE = 16000
SEGMENT = 6.0  # s


@dataclass(frozen=True)
class Result:
    """Of one conversation."""

    seed: int
    talkers: list[str]
    segments: dict[int, int]  # by the number of talkers in them
    si_sdri: dict[int, float]  # dB, by the number of talkers, in the order of the whole recording
    best_si_sdri: dict[int, float]  # dB, in the best order of each segment
    short_si_sdri: dict[int, float]  # dB, of the same segments, each separated by itself
    swapped: int  # segments in which another order is better by more than 1 dB
    alone: int  # seconds in which one talks alone
    misplaced: float  # of these, the share in which another output is louder than the talker's


def converse(
    corpus: Corpus,
    talkers: int,
    minutes: float,
    seed: int,
    turns: tuple[float, float] = (8, 30),
    pauses: tuple[float, float] = (5, 40),
) -> tuple[list[str], Tensor]:
    """Names, and sources (C, T) at SAMPLE_RATE that add up to the conversation.

    turns, pauses: s, from the shortest to the longest.
    """
    rng = np.random.default_rng(seed)
    speakers: dict[str, list[Utterance]] = {}
    for utterance in corpus.utterances:
        speakers.setdefault(utterance.speaker, []).append(utterance)
    names = [str(name) for name in rng.choice(sorted(speakers), talkers, replace=False)]
    total = round(60 * minutes * SAMPLE_RATE)
    sources = np.zeros((talkers, total), np.float32)
    for number, (name, source) in enumerate(zip(names, sources, strict=True)):
        speech = _speech(speakers[name], rng)
        gain = 10 ** (rng.uniform(-2.5, 2.5) / 20)
        place = total // 6 if number == talkers - 1 else 0  # the last one enters late
        said = 0
        while place < total:
            stretch = round(rng.uniform(*turns) * SAMPLE_RATE)
            part = speech[(said + np.arange(stretch)) % len(speech)][: total - place]
            source[place : place + len(part)] = gain * part
            said += stretch
            place += stretch + round(rng.uniform(*pauses) * SAMPLE_RATE)
        if number == 0:
            source[total // 2 : total // 2 + total // 6] = 0
    peak = max(np.abs(sources).max(), np.abs(sources.sum(0)).max())
    return names, torch.from_numpy(sources * np.float32(PEAK / peak))


def _speech(utterances: list[Utterance], rng: np.random.Generator) -> NDArray[np.float32]:
    """All that a talker says, one after the other, at active level -26 dB."""
    said = []
    for i in rng.permutation(len(utterances)):
        samples = read_mono(utterances[i].path, SAMPLE_RATE)
        level = active_level_db(samples, SAMPLE_RATE)
        said.append(samples * np.float32(10 ** ((-26 - level) / 20)))
    return np.concatenate(said)


def separated(mixture: Tensor, separator: DeepClustering, num_sources: int) -> Tensor:
    """mixture (T,) -> its sources (C, T)."""
    recording = InMemory(mixture.unsqueeze(0).numpy(), SAMPLE_RATE)
    with LongSeparation(recording, separator, num_sources) as separation:
        return torch.cat([piece.sources[:, 0] for piece in separation.pieces()], -1)


def follow(
    estimates: Tensor, sources: Tensor, names: list[str], seed: int, separator: DeepClustering
) -> Result:
    """Estimates and sources (C, T): the whole in one order, against each segment in its best."""
    mixture = sources.sum(0)
    order = best_permutation(estimates, sources)  # (C,)
    estimates = estimates[order]
    length = round(SEGMENT * SAMPLE_RATE)
    kept: dict[int, list[float]] = {}
    best: dict[int, list[float]] = {}
    short: dict[int, list[float]] = {}
    swapped = 0
    for first in range(0, sources.shape[-1] - length + 1, length):
        part = slice(first, first + length)
        powers = sources[:, part].square().mean(-1)
        active = powers > 1e-2 * powers.max()  # at least a fifth of a second or so
        count = int(active.sum())
        if count < 2 or powers.max() == 0:
            continue
        references, heard = sources[active, part], mixture[part]
        before = si_sdr(heard, references)
        fixed = (si_sdr(estimates[active, part], references) - before).mean().item()
        freely = _in_best_order(estimates[:, part], references, before)
        kept.setdefault(count, []).append(fixed)
        best.setdefault(count, []).append(freely)
        by_itself = separated(heard, separator, count)
        short.setdefault(count, []).append(_in_best_order(by_itself, references, before))
        swapped += freely > fixed + 1
    alone, misplaced = _alone(estimates, sources)
    return Result(
        seed,
        names,
        {count: len(kept[count]) for count in sorted(kept)},
        _means(kept),
        _means(best),
        _means(short),
        swapped,
        alone,
        misplaced,
    )


def _in_best_order(estimates: Tensor, references: Tensor, before: Tensor) -> float:
    """SI-SDRi in dB."""
    order = best_permutation(estimates, references)
    return (si_sdr(estimates[order], references) - before).mean().item()


def _means(values: dict[int, list[float]]) -> dict[int, float]:
    return {count: round(float(np.mean(values[count])), 2) for count in sorted(values)}


def _alone(estimates: Tensor, sources: Tensor) -> tuple[int, float]:
    """Estimates and sources (C, T) in one order: how many seconds one talks alone, and in which
    share of them another output is the loudest."""
    seconds = sources.shape[-1] // SAMPLE_RATE
    powers, found = (
        x[:, : seconds * SAMPLE_RATE].unflatten(-1, (seconds, -1)).square().mean(-1)
        for x in (sources, estimates)
    )  # (C, seconds)
    loudest, talker = powers.max(0)
    others = powers.sum(0) - loudest
    alone = (loudest > 1e-2 * powers.max()) & (others < 1e-3 * loudest)
    wrong = found.argmax(0)[alone] != talker[alone]
    count = int(alone.sum())
    return count, round(int(wrong.sum()) / max(1, count), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", default="valid")
    parser.add_argument("--corpus", default="librispeech")
    parser.add_argument("--model", default="default")
    parser.add_argument("--talkers", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    arguments = parser.parse_args()
    corpus = read_corpus(arguments.root, arguments.split, [arguments.corpus])
    separator = load_separator(arguments.model)
    results = []
    for seed in arguments.seeds:
        names, sources = converse(corpus, arguments.talkers, arguments.minutes, seed)
        estimates = separated(sources.sum(0), separator, arguments.talkers)
        results.append(follow(estimates, sources, names, seed, separator))
        print(results[-1], flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
