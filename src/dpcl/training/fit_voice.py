"""Fit a voice head: vectors that identify talkers, for recordings of conversations.

Mixtures of talkers in turns under the conditions of the recipe pass through the trunk, which stays
as it is. Spans of one talker, half a second and longer, become voice vectors. The head learns to
name the talkers of the corpus, with an angular margin. The names are not kept: vectors of other
talkers differ in the same way.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from dpcl.errors import InputError
from dpcl.io import Progress, Report
from dpcl.mixtures.conditions import ConditionedMixtures, prepare_conditions
from dpcl.mixtures.corpus import Corpus, pack_corpus
from dpcl.model import Model
from dpcl.networks.precision import fastest
from dpcl.networks.voice import VoiceHead
from dpcl.signal.level import draw_gains_db
from dpcl.training.phases import Fit
from dpcl.training.recipe import DataSettings

SECONDS = 6.4  # length of a mixture
TALKERS = (0.25, 0.45, 0.3)  # shares of mixtures of 1, 2 and 3 talkers
TURN = 0.5, 3.5  # s, range of a turn
OVERLAP, LONGEST = 0.3, 0.4  # probability that a turn begins before the last one ends, s at most
LEVELS_DB = 6.0  # levels of the talkers are uniform in +- this
ALONE = 1e-2  # power of the others, relative to a talker's, in a frame that is theirs alone
SPANS, SHORTEST = 6, 0.5  # spans of a mixture that become vectors, and the shortest of them in s
VOICE_BATCH, VOICE_RATE = 32, 3e-3  # mixtures; learning rate
VOICE_SCALE, SMOOTHING = 30.0, 0.05  # of cosines; of the labels
MARGIN, DECAY = 0.2, 1e-2  # of cosines, CosFace, Wang et al. 2018; weight decay


class Turns(ConditionedMixtures):
    """Mixtures of talkers who take turns, with short overlaps, under conditions."""

    def talkers(self, item: int, number: int) -> list[int]:
        """Return the numbers of the talkers of an item."""
        return [self._talkers[1].talker(item * len(TALKERS) + k) for k in range(number)]

    def _draw_talkers(
        self, rng: np.random.Generator, item: int, number: int
    ) -> NDArray[np.float32]:
        streams = [self._talkers[1][item * len(TALKERS) + k] for k in range(number)]
        sources = torch.cat(streams).numpy() * draw_turns(
            rng, number, self.samples, self.sample_rate
        )
        gains_db = draw_gains_db(rng, number, LEVELS_DB)
        sources = sources * (10.0 ** (gains_db / 20.0)).astype(np.float32)[:, None]
        if self.rooms is not None and rng.random() < self.settings.rooms.probability:
            sources = self._in_room(rng, sources)
        return sources


def draw_turns(
    rng: np.random.Generator, number: int, samples: int, sample_rate: int
) -> NDArray[np.float32]:
    """Draw who speaks when: gates (number, samples) in [0, 1] with soft edges."""
    gates = np.zeros((number, samples), np.float32)
    start, talker = 0, int(rng.integers(number))
    while start < samples:
        length = int(rng.uniform(*TURN) * sample_rate)
        early = int(rng.uniform(0, LONGEST) * sample_rate) if rng.random() < OVERLAP else 0
        gates[talker, max(0, start - early) : start + length] = 1.0
        start += length
        if number > 1:
            talker = (talker + int(rng.integers(1, number))) % number
    edge = np.hanning(sample_rate // 50 + 3).astype(np.float32)
    return np.stack([np.convolve(gate, edge / edge.sum(), "same") for gate in gates])


class VoiceExamples(Dataset[tuple[Tensor, Tensor]]):
    """Frames of the trunk (L, G, values) of mixtures, and who speaks alone in each (L,).

    A frame of several talkers or of none has the number -1.
    """

    def __init__(self, model: Model, mixtures: Turns) -> None:
        self.signal, self.mixtures = model.settings.signal, mixtures
        half = fastest(integers=False) == "bfloat16"
        self.trunk = model.network.in_bfloat16() if half else model.network

    def __len__(self) -> int:
        return len(self.mixtures)

    @torch.no_grad()
    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        found, stft = self.mixtures[item], self.signal.stft()
        number = int(found.num_talkers)
        magnitude = stft(found.mixture[None]).abs()
        encoded = self.trunk.encode(self.signal.features(magnitude).float())
        powers = stft(found.sources[:number]).abs().square().sum(-1)  # (C, L)
        talkers = torch.tensor(self.mixtures.talkers(item, number))
        return self.trunk.frame_values(encoded)[0], alone(powers, talkers)


def alone(powers: Tensor, talkers: Tensor) -> Tensor:
    """Return the number of the talker in frames with one talker, -1 in the others.

    Args:
        powers: (C, L), of each talker.
        talkers: (C,), their numbers.
    """
    loudest, place = powers.max(0)
    one = powers.sum(0) - loudest < ALONE * loudest
    speech = loudest > ALONE * loudest.quantile(0.9)
    return torch.where(one & speech, talkers[place], -1)


def fit_voice(model: Model, fit: Fit, data: DataSettings, corpus: Corpus, report: Report) -> Model:
    """Fit the voice head of a model.

    Args:
        model: its trunk stays as it is.
        fit: `voice_steps` and `workers` of the training.
        data: conditions of the mixtures, and the folder of decoded audio.
        corpus: utterances of the talkers.
        report: called after each step.

    Returns:
        The model with this voice head. One that it already has is trained further.

    Raises:
        InputError: The data have no conditions.
    """
    if data.conditions is None:
        raise InputError("fit voice: needs rooms and noise; set data.conditions")
    rate = model.settings.signal.sample_rate
    settings = data.conditions.model_copy(update={"talkers": TALKERS, "speed": 0.0})
    packed = pack_corpus(corpus, rate, data.cache, report)
    parts = prepare_conditions(settings, data.corpora[0], rate, data.cache, report=report)
    samples = round(SECONDS * rate)
    mixtures = Turns(settings, packed, parts, samples, fit.voice_steps * VOICE_BATCH)
    examples = VoiceExamples(model, mixtures)
    head = model.voice or VoiceHead(*examples[0][0].shape[1:])
    return replace(model, voice=learn_voices(head, examples, fit.workers, report))


def learn_voices(
    head: VoiceHead, examples: VoiceExamples, workers: int, report: Report
) -> VoiceHead:
    """Train a voice head to name the talkers of mixtures, once over all items.

    Args:
        head: where the training begins.
        examples: mixtures.
        workers: number of processes that draw and encode them.
        report: called after each step.

    Returns:
        The running average of the head.
    """
    stft = examples.signal.stft()
    shortest = max(1, round(SHORTEST * examples.signal.sample_rate / stft.hop))
    number = examples.mixtures.num_talkers
    talkers = nn.Parameter(0.1 * torch.randn(number, head.out.out_features))
    steps = len(examples) // VOICE_BATCH
    optimiser = torch.optim.AdamW([*head.parameters(), talkers], weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, VOICE_RATE, max(steps, 2))
    averaged = copy.deepcopy(head)
    rng = np.random.default_rng(0)
    loader = DataLoader(examples, VOICE_BATCH, num_workers=workers, drop_last=True)
    half = fastest(integers=False) == "bfloat16"
    head.train()
    for step, (frames, owners) in enumerate(loader, 1):
        weights, names = draw_spans(rng, owners, shortest)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            moments = head.moments(frames)
        vectors = head.finish(moments.float() @ weights).flatten(0, 1)  # (B * SPANS, D)
        vectors, names = vectors[names.flatten() >= 0], names[names >= 0]
        cosines = vectors @ functional.normalize(talkers, dim=-1).mT
        margin = MARGIN * min(1, 3 * step / steps)
        cosines = cosines - margin * functional.one_hot(names, number)
        loss = functional.cross_entropy(VOICE_SCALE * cosines, names, label_smoothing=SMOOTHING)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        update_average(averaged, head, min(0.99, step / (step + 10)))
        report(Progress(step, steps, "steps", f"voice, loss {loss.item():.2f}"))
    return averaged.eval()


def draw_spans(rng: np.random.Generator, owners: Tensor, shortest: int) -> tuple[Tensor, Tensor]:
    """Draw SPANS spans of the frames of one talker for each item.

    Args:
        rng: random numbers.
        owners: (B, L), who is alone in each frame; -1 for nobody.
        shortest: number of frames of the shortest span.

    Returns:
        Weights (B, L, SPANS), 1 within a span, and the talkers (B, SPANS); -1 where an item has
        nobody for that long.
    """
    weights = torch.zeros(*owners.shape, SPANS)
    names = torch.full((len(owners), SPANS), -1)
    for item, row in enumerate(owners):
        found, numbers = row[row >= 0].unique(return_counts=True)
        found = found[numbers >= shortest]
        for span in range(SPANS if len(found) else 0):
            talker = found[rng.integers(len(found))]
            own = (row == talker).nonzero()[:, 0]
            length = int(rng.integers(shortest, len(own) + 1))
            start = int(rng.integers(0, len(own) - length + 1))
            weights[item, own[start : start + length], span] = 1.0
            names[item, span] = talker
    return weights, names


def update_average(averaged: nn.Module, network: nn.Module, share: float) -> None:
    """Move the averaged weights and statistics towards those of the network."""
    with torch.no_grad():
        for own, value in zip(
            averaged.state_dict().values(), network.state_dict().values(), strict=True
        ):
            if own.is_floating_point():
                own.lerp_(value, 1 - share)
            else:
                own.copy_(value)
