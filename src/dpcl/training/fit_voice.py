"""Fit a voice network: vectors that identify talkers, for recordings of conversations.

The examples are mixtures of one talker under the conditions of the recipe. Random spans of at least
half a second become voice vectors.

A teacher is a voice encoder that was trained on more talkers. With one, the network is trained to
predict the vector that the teacher has for the talker alone, without conditions. Talkers at other
speeds are further voices. Without a teacher the network is trained to classify the talkers of the
corpus, with an angular margin. Only the vectors are kept: they differ between other talkers too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from dpcl.errors import InputError
from dpcl.io import Progress, Report
from dpcl.mixtures.conditions import ConditionedMixtures, TurnSettings, prepare_conditions
from dpcl.mixtures.corpus import Corpus, pack_corpus
from dpcl.model import Model
from dpcl.networks.activity import VoiceNetwork
from dpcl.networks.precision import fastest
from dpcl.signal.audio import resample
from dpcl.training.phases import Fit
from dpcl.training.recipe import DataSettings

VOICE_WIDTH, VOICE_SIZE = 128, 96  # channels of the voice network, values of a vector
SECONDS = 3.2  # length of a mixture
SPANS, SHORTEST = 3, 0.5  # spans of a mixture that become vectors, and the shortest of them in s
VOICE_BATCH, VOICE_RATE = 48, 4e-3  # mixtures; learning rate
DECAY = 1e-2  # of the weights
VOICE_SCALE, SMOOTHING = 30.0, 0.05  # without a teacher: of cosines; of the labels
MARGIN = 0.2  # of cosines, CosFace, Wang et al. 2018

TEACHER_RATE = 16000  # Hz
TAUGHT = 16384  # items that the teacher encodes; each is drawn again under many conditions
SPEED = 0.2  # with a teacher, the speeds of talkers are uniform in 1 +- this
TEACHER_BATCH = 32  # items in one call of the teacher


class VoiceExamples(Dataset[tuple[Tensor, Tensor]]):
    """Mixtures (T,) of one talker under conditions, with the number of the talker.

    With `taught`, the number is the row of the teacher's vector instead.
    """

    def __init__(self, mixtures: ConditionedMixtures, taught: bool) -> None:
        self.mixtures, self.taught = mixtures, taught

    def __len__(self) -> int:
        return len(self.mixtures)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        number = item % self.mixtures.distinct if self.taught else self.mixtures.talker(item)
        return self.mixtures[item].mixture, torch.tensor(number)


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
    settings = data.conditions.model_copy(
        update={
            "talkers": (1.0,),
            "speed": SPEED if fit.teacher else 0.0,
            "turns": TurnSettings(probability=0),  # a span of silence has no voice
        }
    )
    teacher = None if fit.teacher is None else load_teacher(Path(fit.teacher))
    packed = pack_corpus(corpus, signal.sample_rate, data.cache, report)
    parts = prepare_conditions(settings, data.corpora[0], signal.sample_rate, data.cache, report)
    samples, items = round(SECONDS * signal.sample_rate), fit.voice_steps * VOICE_BATCH
    distinct = None if teacher is None else min(TAUGHT, items)
    mixtures = ConditionedMixtures(settings, packed, parts, samples, items, distinct=distinct)
    network = VoiceNetwork(signal.stft().bins, VOICE_WIDTH, VOICE_SIZE, deep=True)
    own = {} if model.voice is None else model.voice.state_dict()
    if {k: v.shape for k, v in own.items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }:
        network.load_state_dict(own)  # more steps
    targets = None
    if teacher is not None:
        targets = in_space(teach(teacher, mixtures, report), VOICE_SIZE)
    learn_voices(model, network, mixtures, fit.workers, report, targets)
    return replace(model, voice=network)


def load_teacher(path: Path) -> Callable[[Tensor], Tensor]:
    """Load a voice encoder as ONNX.

    Args:
        path: file whose graph maps samples (B, T) at 16 kHz to vectors (B, D), for any B and T.

    Returns:
        A function that does so.

    Raises:
        InputError: onnxruntime is not installed, or the file is no such graph.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "teacher: needs onnxruntime, which is not installed; `pip install onnxruntime`"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options)
        (name,) = (node.name for node in session.get_inputs())
        vectors = session.run(None, {name: np.zeros((2, TEACHER_RATE), np.float32)})[0]
        if vectors.ndim != 2 or len(vectors) != 2:
            raise ValueError(f"vectors have the shape {vectors.shape}")
    except Exception as error:  # onnxruntime has errors of its own, without a base class
        raise InputError(
            f"{path}: is no voice encoder as ONNX ({str(error)[:200]}); see recipes/voices.yaml"
        ) from error
    return lambda samples: torch.from_numpy(session.run(None, {name: samples.numpy()})[0])


def teach(
    teacher: Callable[[Tensor], Tensor], mixtures: ConditionedMixtures, report: Report
) -> Tensor:
    """Return the vectors (N, 2, D) that a teacher gives both halves of the talkers alone."""
    vectors = []
    for first in range(0, mixtures.distinct, TEACHER_BATCH):
        items = range(first, min(first + TEACHER_BATCH, mixtures.distinct))
        alone = np.stack([mixtures.alone(item).numpy() for item in items])
        length = round(SECONDS * TEACHER_RATE)
        samples = torch.from_numpy(
            np.stack([resample(x, mixtures.sample_rate, TEACHER_RATE, length) for x in alone])
        )
        halves = samples.view(2 * len(samples), -1)
        vectors.append(functional.normalize(teacher(halves), dim=-1).view(len(items), 2, -1))
        report(Progress(items.stop, mixtures.distinct, "items", "teacher"))
    return torch.cat(vectors)


def in_space(vectors: Tensor, size: int) -> Tensor:
    """Return the targets of a network of `size` values from the vectors of a teacher.

    The vectors are centred, reduced to their principal components, and partly whitened: each
    component is divided by the root of its deviation, so that cosines depend on more than a few.

    Args:
        vectors: (N, 2, D), of both halves of each item.
        size: number of components.

    Returns:
        Mean direction (N, size) of both halves, of unit length; zeros after the Dth component.
    """
    flat = vectors.flatten(0, 1)
    centred = flat - flat.mean(0)
    variances, components = torch.linalg.eigh(centred.mT @ centred / len(centred))
    order = variances.argsort(descending=True)[:size]
    scale = variances[order].clamp_min(1e-6 * float(variances.max())) ** 0.25
    reduced = functional.normalize(centred @ components[:, order] / scale, dim=-1)
    means = functional.normalize(reduced.view(len(vectors), 2, -1).sum(1), dim=-1)
    return functional.pad(means, (0, size - means.shape[1]))


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
        targets: (items, VOICE_SIZE), vector of each item by a teacher; None without one.

    Source: the cosine loss of a student, Sanh et al. 2019, "DistilBERT", section 3.
    """
    stft = model.settings.signal.stft()
    hops = model.settings.signal.sample_rate / stft.hop
    talkers = nn.Parameter(0.1 * torch.randn(mixtures.num_talkers, VOICE_SIZE))
    parameters = [*network.parameters(), *([talkers] if targets is None else [])]
    steps = len(mixtures) // VOICE_BATCH
    optimiser = torch.optim.AdamW(parameters, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, VOICE_RATE, max(steps, 2))
    averaged = copy.deepcopy(network)
    rng = np.random.default_rng(0)
    examples = VoiceExamples(mixtures, targets is not None)
    loader = DataLoader(examples, VOICE_BATCH, num_workers=workers, drop_last=True)
    network.train()
    for step, (mixture, numbers) in enumerate(loader, 1):
        magnitude = stft(mixture).abs()
        levels = torch.stack([network.levels(x[None][:0], x)[0][0] for x in magnitude])
        weights = draw_spans(rng, levels.shape[1], SHORTEST * hops, len(levels))
        with torch.autocast("cpu", torch.bfloat16, enabled=fastest() == "bfloat16"):
            moments = network.moments(levels)
        vectors = network.finish(moments.float() @ weights)  # (B, SPANS, D)
        if targets is None:
            margin = MARGIN * min(1, 3 * step / steps)
            loss = talker_loss(vectors, functional.normalize(talkers, dim=-1), numbers, margin)
        else:
            loss = 1 - (vectors @ targets[numbers].unsqueeze(-1)).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        update_average(averaged, network, min(0.99, step / (step + 10)))
        report(Progress(step, steps, "steps", f"voice, loss {loss.item():.3f}"))
    network.load_state_dict(averaged.state_dict())
    network.eval()


def talker_loss(vectors: Tensor, talkers: Tensor, numbers: Tensor, margin: float) -> Tensor:
    """Return the cross entropy of naming talkers, with a margin.

    Args:
        vectors: (B, SPANS, D), of unit length.
        talkers: (S, D), of unit length, one for each talker.
        numbers: (B,), talker of each item.
        margin: by which the cosine of the right talker is reduced.

    Source: CosFace, Wang et al. 2018, equation 4.
    """
    cosines = vectors.flatten(0, 1) @ talkers.mT  # (B * SPANS, S)
    names = numbers.repeat_interleave(vectors.shape[1])
    cosines = cosines - margin * functional.one_hot(names, len(talkers))
    return functional.cross_entropy(VOICE_SCALE * cosines, names, label_smoothing=SMOOTHING)


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
