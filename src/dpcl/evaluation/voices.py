"""Scores of voice networks: errors in telling talkers apart by their voice vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpcl.errors import InputError
from dpcl.mixtures.conversation import in_room, take_turns
from dpcl.mixtures.corpus import Corpus
from dpcl.model import Model

# RT60 (s) and signal-to-noise ratio (dB) of each condition; None for clean speech
VOICE_CONDITIONS: Mapping[str, tuple[float, float] | None] = {
    "clean": None,
    "noise 10 dB": (0.15, 10.0),
    "room 0.3 s, noise 20 dB": (0.3, 20.0),
    "room 0.6 s, noise 15 dB": (0.6, 15.0),
}
SECONDS = 1.5  # length of a stretch, as in recordings (separators/talkers.py)
FALSE_ACCEPTANCE = 0.01  # share of other talkers that are accepted, for `rejected`


@dataclass(frozen=True)
class VoiceScore:
    """Scores of a voice network under one condition.

    Attributes:
        condition: name of the condition.
        seconds: length of a stretch.
        talkers: number of talkers.
        equal_error_rate: share of wrong decisions where both kinds of error are equally frequent.
        rejected: share of pairs of one talker that are rejected at FALSE_ACCEPTANCE.
    """

    condition: str
    seconds: float
    talkers: int
    equal_error_rate: float
    rejected: float


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


def rejected_at(
    same: NDArray[np.float64], different: NDArray[np.float64], accepted: float
) -> float:
    """Return the share of `same` below the threshold that accepts a share of `different`."""
    threshold = np.quantile(different, 1 - accepted)
    return float((same <= threshold).mean())


def score_voices(
    model: Model,
    corpus: Corpus,
    seconds: float = SECONDS,
    stretches: int = 6,
    conditions: Mapping[str, tuple[float, float] | None] = VOICE_CONDITIONS,
    seed: int = 0,
) -> list[VoiceScore]:
    """Score the voice network of a model on talkers that it did not learn.

    Every talker of the corpus speaks alone. Half of their stretches are in one room, half in
    another one; only pairs from two rooms are compared, as for an enrolled talker.

    Args:
        model: with a voice network.
        corpus: utterances of the talkers.
        seconds: length of a stretch.
        stretches: number of stretches of a talker, even.
        conditions: RT60 and signal-to-noise ratio by name; None for clean speech.
        seed: of all draws.

    Returns:
        One score per condition.

    Raises:
        InputError: The model has no voice network, or the corpus has fewer than two talkers.
    """
    if model.voice is None:
        raise InputError("the model has no voice network; fit one with the phase `fit: voice`")
    speakers = sorted({u.speaker for u in corpus.utterances})
    if len(speakers) < 2:
        raise InputError(f"{corpus.root}: has one speaker; give a corpus of two or more")
    found = []
    for name, condition in conditions.items():
        vectors = torch.stack(
            [
                _vectors(model, corpus.of_speakers([speaker]), condition, seconds, stretches, seed)
                for speaker in speakers
            ]
        )  # (S, stretches, D)
        first, second = vectors[:, ::2].flatten(0, 1), vectors[:, 1::2].flatten(0, 1)
        cosines = (first @ second.T).double().numpy()
        owners = np.arange(len(speakers)).repeat(stretches // 2)
        own = owners[:, None] == owners
        same, different = cosines[own], cosines[~own]
        error = equal_error_rate(same, different)
        rejected = rejected_at(same, different, FALSE_ACCEPTANCE)
        found.append(VoiceScore(name, seconds, len(speakers), error, rejected))
    return found


@torch.no_grad()
def _vectors(
    model: Model,
    corpus: Corpus,
    condition: tuple[float, float] | None,
    seconds: float,
    stretches: int,
    seed: int,
) -> Tensor:
    """Return the vectors (stretches, D) of one talker, from two rooms in turn."""
    assert model.voice is not None
    rate = model.settings.signal.sample_rate
    minutes = (seconds * stretches * 1.5 + 1) / 60
    _, speech = take_turns(corpus, 1, minutes, seed, rate)
    loud = speech[0].view(-1, rate // 50).square().mean(1).sqrt() if len(speech[0]) else speech[0]
    kept = (loud > 0.03 * loud.quantile(0.95)).repeat_interleave(rate // 50)
    own = speech[0, : len(kept)][kept]  # without pauses
    size = round(seconds * rate)
    own = own.repeat(-(-size * stretches // len(own)))
    vectors = []
    for number in range(stretches):
        part = own[None, number * size : (number + 1) * size]
        noise = torch.zeros(size)
        if condition is not None:
            part, noise = in_room(part, seed + number % 2, rate, *condition)
        magnitude = model.settings.signal.stft()(part[0] + noise).abs()
        levels, _ = model.voice.levels(magnitude[None][:0], magnitude)
        vectors.append(model.voice.pooled(levels, torch.ones(1, len(magnitude), 1))[0, 0])
    return torch.stack(vectors)


def voices_markdown(scores: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the scores, each as a dictionary of the values of VoiceScore."""
    first = VoiceScore(**scores[0])
    lines = [
        f"{first.talkers} talkers who were not in the training, stretches of {first.seconds:g} s;"
        " the two stretches of a pair are in two rooms.",
        "",
        f"| condition | equal error rate, % | rejected at {FALSE_ACCEPTANCE:.0%} accepted, % |",
        "|---|--:|--:|",
    ]
    for score in scores:
        x = VoiceScore(**score)
        lines.append(f"| {x.condition} | {100 * x.equal_error_rate:.1f} | {100 * x.rejected:.1f} |")
    return "\n".join(lines) + "\n"


def voice_notes(model: Model, corpus: Corpus) -> list[dict[str, Any]]:
    """Score a voice network, for the metadata of its model; see `score_voices`.

    Returns:
        Values of one VoiceScore per condition.
    """
    return [asdict(score) for score in score_voices(model, corpus)]
