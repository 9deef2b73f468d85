"""Scores of the voice encoder: errors in telling talkers apart by their voice vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpcl.errors import InputError
from dpcl.mixtures.conversation import in_room, take_turns
from dpcl.mixtures.corpus import Corpus
from dpcl.networks.voice import RATE, moments, shipped_voices

# RT60 (s) and signal-to-noise ratio (dB) of each condition; None for clean speech
VOICE_CONDITIONS: Mapping[str, tuple[float, float] | None] = {
    "clean": None,
    "noise 10 dB": (0.15, 10.0),
    "room 0.3 s, noise 20 dB": (0.3, 20.0),
    "room 0.6 s, noise 15 dB": (0.6, 15.0),
}
FALSE_ACCEPTANCE = 0.01  # share of other talkers that are accepted, for `rejected`


@dataclass(frozen=True)
class VoiceScore:
    """Scores of the voice encoder under one condition.

    Attributes:
        condition: name of the condition.
        seconds: length of a stretch.
        talkers: number of talkers.
        equal_error_rate: share of wrong decisions where both kinds of error are equally frequent.
        rejected: share of pairs of one talker that are rejected at FALSE_ACCEPTANCE.
        limit: cosine that this share of other talkers exceeds.
    """

    condition: str
    seconds: float
    talkers: int
    equal_error_rate: float
    rejected: float
    limit: float


def equal_error_rate(same: NDArray[np.float64], different: NDArray[np.float64]) -> float:
    """Return the error rate at the threshold where rejected `same` equal accepted `different`.

    Args:
        same: similarities of pairs from one talker.
        different: similarities of pairs from two talkers.

    Example:
        >>> round(equal_error_rate(np.array([0.9, 0.8, 0.3]), np.array([0.1, 0.2, 0.4])), 3)
        0.333
    """
    thresholds = np.unique(np.concatenate([same, different]))
    rejected = np.searchsorted(np.sort(same), thresholds) / len(same)
    accepted = 1 - np.searchsorted(np.sort(different), thresholds) / len(different)
    best = int(np.abs(rejected - accepted).argmin())
    return float(rejected[best] + accepted[best]) / 2


def score_voices(
    corpus: Corpus,
    seconds: float,
    stretches: int = 6,
    conditions: Mapping[str, tuple[float, float] | None] = VOICE_CONDITIONS,
    seed: int = 0,
) -> list[VoiceScore]:
    """Score the voice encoder that ships on the talkers of a corpus.

    Every talker speaks alone. Half of their stretches are in one room, half in another one; only
    pairs from two rooms are compared, as for an enrolled talker.

    Args:
        corpus: utterances of the talkers.
        seconds: length of a stretch.
        stretches: number of stretches of a talker, even.
        conditions: RT60 and signal-to-noise ratio by name; None for clean speech.
        seed: of all draws.

    Returns:
        One score per condition.

    Raises:
        InputError: The corpus has fewer than two talkers.
    """
    speakers = sorted({u.speaker for u in corpus.utterances})
    if len(speakers) < 2:
        raise InputError(f"{corpus.root}: has one speaker; give a corpus of two or more")
    found = []
    for name, condition in conditions.items():
        vectors = torch.stack(
            [
                _vectors(corpus.of_speakers([speaker]), condition, seconds, stretches, seed)
                for speaker in speakers
            ]
        )  # (S, stretches, D)
        first, second = vectors[:, ::2].flatten(0, 1), vectors[:, 1::2].flatten(0, 1)
        cosines = (first @ second.T).double().numpy()
        owners = np.arange(len(speakers)).repeat(stretches // 2)
        own = owners[:, None] == owners
        same, different = cosines[own], cosines[~own]
        error = equal_error_rate(same, different)
        limit = float(np.quantile(different, 1 - FALSE_ACCEPTANCE))
        rejected = float((same <= limit).mean())
        found.append(VoiceScore(name, seconds, len(speakers), error, rejected, limit))
    return found


@torch.no_grad()
def _vectors(
    corpus: Corpus,
    condition: tuple[float, float] | None,
    seconds: float,
    stretches: int,
    seed: int,
) -> Tensor:
    """Return the vectors (stretches, D) of one talker, from two rooms in turn."""
    minutes = (seconds * stretches * 1.5 + 1) / 60
    _, speech = take_turns(corpus, 1, minutes, seed, RATE)
    loud = speech[0].view(-1, RATE // 50).square().mean(1).sqrt() if len(speech[0]) else speech[0]
    kept = (loud > 0.03 * loud.quantile(0.95)).repeat_interleave(RATE // 50)
    own = speech[0, : len(kept)][kept]  # without pauses
    size = round(seconds * RATE)
    own = own.repeat(-(-size * stretches // len(own)))
    vectors = []
    for number in range(stretches):
        part = own[None, number * size : (number + 1) * size]
        noise = torch.zeros(size)
        if condition is not None:
            part, noise = in_room(part, seed + number % 2, RATE, *condition)
        encoded = shipped_voices().encode(part + noise)
        sums = moments(encoded, torch.ones(1, encoded.shape[-1], 1))
        vectors.append(shipped_voices().vectors(sums)[0, 0])
    return torch.stack(vectors)


def voices_markdown(scores: Sequence[VoiceScore]) -> str:
    """Return a table of the scores."""
    lines = [
        f"{scores[0].talkers} talkers; the two stretches of a pair are in two rooms.",
        "",
        "| condition | length, s | equal error rate, % |"
        f" rejected at {FALSE_ACCEPTANCE:.0%} accepted, % | cosine of this limit |",
        "|---|--:|--:|--:|--:|",
    ]
    for x in scores:
        lines.append(
            f"| {x.condition} | {x.seconds:g} | {100 * x.equal_error_rate:.1f} |"
            f" {100 * x.rejected:.1f} | {x.limit:.2f} |"
        )
    return "\n".join(lines) + "\n"
