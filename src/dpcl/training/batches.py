"""The data of each training step: decoded corpora, and the mixtures of each device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dpcl.errors import InputError
from dpcl.io import Report
from dpcl.mixtures.conditions import (
    ConditionedMixture,
    ConditionedMixtures,
    ConditionParts,
    prepare_conditions,
)
from dpcl.mixtures.corpus import Corpus, PackedCorpus, pack_corpus, read_corpus
from dpcl.mixtures.rows import MixtureRow
from dpcl.mixtures.stream import TrainingMixtures
from dpcl.training.recipe import DataSettings, Recipe, Stage

if TYPE_CHECKING:
    from lightning.fabric import Fabric

STATISTICS = 200  # mixtures for the mean and the standard deviation of the features


def read_data(data: DataSettings, split: str | None = None) -> Corpus:
    """Read the recordings of all corpora that the settings choose.

    Args:
        data: corpora and filters. A corpus without an index has no splits and is used whole, and so
            is one that has none of the names in `data.only`.
        split: in place of `data.split`.

    Raises:
        InputError: There is no corpus, or it lacks the split or a speaker.
    """
    if not data.corpora:
        raise InputError("no corpus: a recipe needs recordings; add --corpus CORPUS")
    split = split or data.split
    corpora = [_chosen(Path(path), split, data.only) for path in data.corpora]
    together = Corpus(corpora[0].root, tuple(u for c in corpora for u in c.utterances))
    return together if data.speakers is None else together.of_speakers(data.speakers)


def _chosen(path: Path, split: str | None, only: tuple[str, ...] | None) -> Corpus:
    if not has_index(path):
        return read_corpus(path)
    corpus = read_corpus(path, split)
    if only and {u.corpus for u in corpus.utterances} & set(only):
        corpus = replace(corpus, utterances=tuple(u for u in corpus.utterances if u.corpus in only))
    return corpus


def has_index(path: Path) -> bool:
    """Whether a corpus has an index, and so may have splits."""
    return (path / "index.csv").is_file() if path.is_dir() else path.suffix == ".csv"


@dataclass(frozen=True)
class TrainingData:
    """Decoded speech, and the sounds and rooms of the conditions where the recipe has them."""

    speech: PackedCorpus
    parts: ConditionParts | None = None

    @property
    def size(self) -> list[int]:
        """Numbers that change with the recordings."""
        sounds = self.parts and self.parts.sounds
        packed = [self.speech, *([sounds] if sounds else [])]
        return [number for one in packed for number in (len(one), int(one.offsets[-1]))]


def prepare(recipe: Recipe, packing: Report, held_out: Sequence[MixtureRow] = ()) -> TrainingData:
    """Decode the recordings of the recipe's corpora, and make its rooms, once.

    Args:
        recipe: its data settings.
        packing: called while recordings are decoded and rooms computed.
        held_out: mixtures whose talkers may not be among the sounds of the background.
    """
    data, rate = recipe.data, recipe.model.signal.sample_rate
    speech, conditions = pack_corpus(read_data(data), rate, data.cache, packing), data.conditions
    if conditions is None:
        return TrainingData(speech)
    corpus = data.corpora[0]
    parts = prepare_conditions(conditions, corpus, rate, data.cache, held_out, packing)
    return TrainingData(speech, parts)


def batches(
    recipe: Recipe, data: TrainingData, fabric: Fabric, done: int
) -> Iterator[Tensor | ConditionedMixture]:
    """Yield the mixtures of every step from step `done` on.

    They depend on the recipe alone: sources (B, C, W, T), or with conditions a ConditionedMixture.
    B is this device's part of the batch; W windows of T samples.
    """
    for number, stage in enumerate(recipe.stages):
        first = min(done, stage.steps)
        done -= first
        if first == stage.steps:
            continue
        loader = DataLoader(
            _mixtures(recipe, data, number),
            batch_sampler=Share(stage, first, fabric.global_rank, fabric.world_size),
            num_workers=recipe.workers,
        )
        for batch in loader:
            if recipe.data.conditions is None:
                batch = batch.unflatten(-1, (stage.windows, -1))
            yield fabric.to_device(batch)


@dataclass(frozen=True)
class Share:
    """The items of every step that one device gets; all devices together get the whole batch."""

    stage: Stage
    first: int  # step of the stage
    rank: int
    world: int

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.stage.batch
        for step in range(self.first, self.stage.steps):
            yield list(range(step * batch + self.rank, (step + 1) * batch, self.world))

    def __len__(self) -> int:
        return self.stage.steps - self.first


def statistics(recipe: Recipe, data: TrainingData) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (F,) of the features of mixtures of the first stage."""
    signal = recipe.model.signal
    stream = _mixtures(recipe, data, 0)
    drawn = (stream[i] for i in range(min(STATISTICS, len(stream))))
    mixtures = (x.mixture if isinstance(x, ConditionedMixture) else x.sum(0) for x in drawn)
    features = torch.cat([signal.features(signal.stft()(x)) for x in mixtures])  # (frames, F)
    return features.mean(0), features.std(0).clamp_min(1e-3)


def _mixtures(
    recipe: Recipe, prepared: TrainingData, stage: int
) -> TrainingMixtures | ConditionedMixtures:
    """Return the mixtures of one stage; its number is the epoch, so no two stages share a draw."""
    settings, data = recipe.stages[stage], recipe.data
    # `frames` frames per window: STFT.frames counts one more than whole hops
    samples = settings.windows * (settings.frames - 1) * recipe.model.signal.hop
    items = settings.steps * settings.batch
    if data.conditions is not None:
        assert prepared.parts is not None
        conditioned = ConditionedMixtures(
            data.conditions, prepared.speech, prepared.parts, samples, items, recipe.seed
        )
        conditioned.set_epoch(stage)
        return conditioned
    stream = TrainingMixtures(
        prepared.speech,
        data.num_sources,
        samples,
        items,
        recipe.seed,
        data.relative_level_db,
        data.within,
        data.speed,
        settings.windows,
        data.active,
        data.turns,
        same_speaker=data.same_speaker,
        kinds=data.kinds,
    )
    stream.set_epoch(stage)
    return stream
