"""Fit a voice network: which of many talkers speaks, in rooms, noise, bands and codecs.

Mixtures of one talker under the conditions of the recipe; random spans of them, half a second and
longer, become voice vectors. The network learns to name the talkers of the corpus, with an angular
margin. The names are not kept: vectors of other talkers differ in the same way.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from dpcl.errors import InputError
from dpcl.io import Progress, Report
from dpcl.mixtures.conditions import ConditionedMixtures, prepare_conditions
from dpcl.mixtures.corpus import Corpus, pack_corpus
from dpcl.model import Model
from dpcl.networks.activity import VoiceNetwork
from dpcl.training.phases import Fit
from dpcl.training.recipe import DataSettings

WIDTH, SIZE = 256, 96  # channels and values of a vector
SECONDS = 3.2  # length of a mixture
SPANS, SHORTEST = 3, 0.5  # spans of a mixture that become vectors, and the shortest of them in s
BATCH = 48  # mixtures
MARGIN, SCALE = 0.2, 30.0  # of cosines. Source: CosFace, Wang et al. 2018
SMOOTHING = 0.05  # of the labels
RATE, DECAY = 4e-3, 1e-2  # learning rate and weight decay


class VoiceExamples(Dataset[tuple[Tensor, Tensor]]):
    """Mixtures (T,) of one talker under conditions, with the number of the talker."""

    def __init__(self, mixtures: ConditionedMixtures) -> None:
        self.mixtures = mixtures

    def __len__(self) -> int:
        return len(self.mixtures)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        return self.mixtures[item].mixture, torch.tensor(self.mixtures.talker(item))


def fit_voice(model: Model, fit: Fit, data: DataSettings, corpus: Corpus, report: Report) -> Model:
    """Fit the voice network of a model.

    Args:
        model: its signal settings define the spectrum.
        fit: `steps` and `workers` of the training.
        data: conditions of the mixtures, and the folder of decoded audio.
        corpus: utterances of the talkers.
        report: called after each step.

    Returns:
        The model with this voice network.

    Raises:
        InputError: The data have no conditions.
    """
    if data.conditions is None:
        raise InputError("fit voice: needs rooms and noise; set data.conditions")
    signal = model.settings.signal
    settings = data.conditions.model_copy(update={"talkers": (1.0,), "speed": 0.0})
    packed = pack_corpus(corpus, signal.sample_rate, data.cache, report)
    parts = prepare_conditions(
        settings, data.corpora[0], signal.sample_rate, data.cache, report=report
    )
    samples = round(SECONDS * signal.sample_rate)
    mixtures = ConditionedMixtures(settings, packed, parts, samples, fit.voice_steps * BATCH)
    network = VoiceNetwork(signal.stft().bins, WIDTH, SIZE)
    learn_voices(model, network, mixtures, fit.workers, report)
    return replace(model, voice=network)


def learn_voices(
    model: Model,
    network: VoiceNetwork,
    mixtures: ConditionedMixtures,
    workers: int,
    report: Report,
) -> None:
    """Train a voice network to name the talkers of mixtures, once over all items."""
    stft = model.settings.signal.stft()
    hops = model.settings.signal.sample_rate / stft.hop
    talkers = torch.nn.Parameter(0.1 * torch.randn(mixtures.num_talkers, SIZE))
    parameters = [*network.parameters(), talkers]
    steps = len(mixtures) // BATCH
    optimiser = torch.optim.AdamW(parameters, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, max(steps, 2))
    averaged = copy.deepcopy(network)
    rng = np.random.default_rng(0)
    loader = DataLoader(VoiceExamples(mixtures), BATCH, num_workers=workers, drop_last=True)
    network.train()
    for step, (mixture, talker) in enumerate(loader, 1):
        magnitude = stft(mixture).abs()
        levels = torch.stack([network.levels(x[None][:0], x)[0][0] for x in magnitude])
        weights = draw_spans(rng, levels.shape[1], SHORTEST * hops, len(levels))
        vectors = network.pooled(levels, weights)  # (B, SPANS, D)
        cosines = vectors.flatten(0, 1) @ functional.normalize(talkers, dim=-1).mT
        names = talker.repeat_interleave(SPANS)
        cosines = cosines - MARGIN * min(1, 3 * step / steps) * functional.one_hot(
            names, len(talkers)
        )
        loss = functional.cross_entropy(SCALE * cosines, names, label_smoothing=SMOOTHING)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        update_average(averaged, network, min(0.99, step / (step + 10)))
        report(Progress(step, steps, "steps", f"voice, loss {loss.item():.2f}"))
    network.load_state_dict(averaged.state_dict())
    network.eval()


def draw_spans(rng: np.random.Generator, frames: int, shortest: float, items: int) -> Tensor:
    """Draw SPANS spans of frames for each item: weights (items, frames, SPANS), 1 within a span."""
    lengths = rng.uniform(min(shortest, frames), frames, (items, SPANS))
    starts = rng.uniform(0, 1, (items, SPANS)) * (frames - lengths)
    places = np.arange(frames)[None, :, None]
    within = (places >= starts[:, None].round()) & (places < (starts + lengths)[:, None].round())
    return torch.from_numpy(within.astype(np.float32))


def update_average(averaged: VoiceNetwork, network: VoiceNetwork, share: float) -> None:
    """Move the averaged weights and statistics towards those of the network."""
    with torch.no_grad():
        for own, value in zip(
            averaged.state_dict().values(), network.state_dict().values(), strict=True
        ):
            if own.is_floating_point():
                own.lerp_(value, 1 - share)
            else:
                own.copy_(value)
