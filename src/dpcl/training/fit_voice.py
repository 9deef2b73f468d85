"""Fit a voice network: vectors that identify talkers, for recordings of conversations.

The examples are mixtures of one talker under the conditions of the recipe. Random spans of at least
half a second become voice vectors. The network is trained to classify the talkers of the corpus,
with an angular margin. Only the vectors are kept: they differ between other talkers too.

A teacher is optional: another voice encoder, trained on more talkers. A file holds its vectors of
utterances. A linear map of the voice vectors is trained to predict the teacher's mean vector of
each talker.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from dpcl.errors import InputError
from dpcl.io import Progress, Report
from dpcl.mixtures.conditions import ConditionedMixtures, prepare_conditions
from dpcl.mixtures.corpus import Corpus, pack_corpus
from dpcl.model import Model
from dpcl.networks.activity import VoiceNetwork
from dpcl.networks.precision import fastest
from dpcl.training.phases import Fit
from dpcl.training.recipe import DataSettings

VOICE_WIDTH, VOICE_SIZE = 160, 96  # channels of the voice network, values of a vector
SECONDS = 3.2  # s, length of a mixture
SPANS, SHORTEST = 3, 0.5  # number of spans of a mixture, and length of the shortest in s
VOICE_BATCH, VOICE_RATE = 48, 4e-3  # number of mixtures of a step, learning rate
# Scale and margin of cosines. Source: CosFace, Wang et al. 2018.
VOICE_SCALE, MARGIN = 30.0, 0.2
SMOOTHING, DECAY = 0.05, 1e-2  # share of a label that all talkers get, weight decay
TAUGHT = 10.0  # weight of the teacher's loss


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
        The model with this voice network. One that it already has is trained further.

    Raises:
        InputError: The data have no conditions, or the teacher's file cannot be used.
    """
    if data.conditions is None:
        raise InputError("fit voice: needs rooms and noise; set data.conditions")
    signal = model.settings.signal
    settings = data.conditions.model_copy(update={"talkers": (1.0,), "speed": 0.0})
    packed = pack_corpus(corpus, signal.sample_rate, data.cache, report)
    parts = prepare_conditions(settings, data.corpora[0], signal.sample_rate, data.cache, report)
    samples = round(SECONDS * signal.sample_rate)
    mixtures = ConditionedMixtures(settings, packed, parts, samples, fit.voice_steps * VOICE_BATCH)
    network = VoiceNetwork(signal.stft().bins, VOICE_WIDTH, VOICE_SIZE)
    if model.voice is not None and model.voice.out.weight.shape == network.out.weight.shape:
        network.load_state_dict(model.voice.state_dict())  # more steps
    targets = None
    if fit.teacher is not None:
        place = Path(data.corpora[0])
        targets = read_targets(Path(fit.teacher), place if place.is_dir() else place.parent, corpus)
    learn_voices(model, network, mixtures, fit.workers, report, targets)
    return replace(model, voice=network)


def read_targets(path: Path, root: Path, corpus: Corpus) -> Tensor:
    """Read the vectors of a teacher.

    Args:
        path: .npz file with `names`, the paths of utterances relative to `root`, and `vectors`
            (N, D) of any encoder.
        root: folder of the corpus.
        corpus: utterances of the talkers.

    Returns:
        Mean vectors (S, D) of the talkers, in the order of the corpus, relative to the mean of all
        talkers and of unit length.

    Raises:
        InputError: The file cannot be read, or lacks a talker.
    """
    try:
        with np.load(path) as file:
            names, vectors = file["names"].tolist(), file["vectors"].astype(np.float32)
        known = dict(zip(names, functional.normalize(torch.from_numpy(vectors)), strict=True))
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise InputError(
            f"{path}: holds no `names` and `vectors` of utterances ({error}); write it again"
        ) from error
    talkers: dict[tuple[str, str], list[Tensor]] = {}
    for utterance in corpus.utterances:
        own = talkers.setdefault((utterance.corpus, utterance.speaker), [])
        name = utterance.part.name(root.resolve())
        own += [known[name]] if name in known else []
    for (name, speaker), own in talkers.items():
        if not own:
            raise InputError(f"{path}: has no utterance of {name}/{speaker}; write it again")
    means = functional.normalize(torch.stack([torch.stack(x).mean(0) for x in talkers.values()]))
    return functional.normalize(means - means.mean(0))


def learn_voices(
    model: Model,
    network: VoiceNetwork,
    mixtures: ConditionedMixtures,
    workers: int,
    report: Report,
    targets: Tensor | None = None,
) -> None:
    """Train a voice network to name the talkers of mixtures, once over all items.

    Args:
        model: its signal settings define the spectrum.
        network: changed in place.
        mixtures: of one talker each.
        workers: number of processes that draw them.
        report: called after each step.
        targets: (S, D), vector of a teacher for each talker; None without one.

    Source: cosine loss of a student, Sanh et al. 2019, "DistilBERT", section 3.
    """
    stft = model.settings.signal.stft()
    hops = model.settings.signal.sample_rate / stft.hop
    talkers = nn.Parameter(0.1 * torch.randn(mixtures.num_talkers, VOICE_SIZE))
    parameters = [*network.parameters(), talkers]
    if targets is not None:
        linear = nn.Linear(VOICE_SIZE, targets.shape[1], bias=False)
        parameters += linear.parameters()
    steps = len(mixtures) // VOICE_BATCH
    optimiser = torch.optim.AdamW(parameters, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, VOICE_RATE, max(steps, 2))
    averaged = copy.deepcopy(network)
    rng = np.random.default_rng(0)
    loader = DataLoader(VoiceExamples(mixtures), VOICE_BATCH, num_workers=workers, drop_last=True)
    network.train()
    for step, (mixture, talker) in enumerate(loader, 1):
        magnitude = stft(mixture).abs()
        levels = torch.stack([network.levels(x[None][:0], x)[0][0] for x in magnitude])
        weights = draw_spans(rng, levels.shape[1], SHORTEST * hops, len(levels))
        with torch.autocast("cpu", torch.bfloat16, enabled=fastest() == "bfloat16"):
            moments = network.moments(levels)
        vectors = network.finish(moments.float() @ weights).flatten(0, 1)  # (B * SPANS, D)
        cosines = vectors @ functional.normalize(talkers, dim=-1).mT
        names = talker.repeat_interleave(SPANS)
        cosines = cosines - MARGIN * min(1, 3 * step / steps) * functional.one_hot(
            names, len(talkers)
        )
        loss = functional.cross_entropy(VOICE_SCALE * cosines, names, label_smoothing=SMOOTHING)
        note = f"voice, loss {loss.item():.2f}"
        if targets is not None:
            taught = 1 - functional.cosine_similarity(linear(vectors), targets[names]).mean()
            loss = loss + TAUGHT * taught
            note += f", teacher {taught.item():.2f}"
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        update_average(averaged, network, min(0.99, step / (step + 10)))
        report(Progress(step, steps, "steps", note))
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
