"""What each training step is given: the corpora decoded, and its share of the mixtures drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dpcl.io import Report
from dpcl.mixtures.corpus import Corpus, read_corpus
from dpcl.mixtures.packed import PackedCorpus, pack_corpus
from dpcl.mixtures.stream import TrainingMixtures
from dpcl.training.recipe import Recipe, Stage

if TYPE_CHECKING:
    from lightning.fabric import Fabric

STATISTICS = 200  # mixtures that the features' mean and standard deviation are taken of


def pack(recipe: Recipe, packing: Report) -> PackedCorpus:
    """All recordings that the recipe names, decoded once."""
    corpora = [
        corpus if c.speakers is None else corpus.of_speakers(c.speakers)
        for c in recipe.data.corpora
        for corpus in [read_corpus(c.path, c.split, c.only)]
    ]
    together = Corpus(corpora[0].root, tuple(u for c in corpora for u in c.utterances))
    return pack_corpus(together, recipe.model.signal.sample_rate, recipe.data.cache, packing)


def batches(recipe: Recipe, packed: PackedCorpus, fabric: Fabric, done: int) -> Iterator[Tensor]:
    """Sources (B, C, W, T) of every step from step `done` on, a function of the recipe alone.

    Of the recipe's batch, B are this device's; W windows of T samples.
    """
    for number, stage in enumerate(recipe.stages):
        first = min(done, stage.steps)
        done -= first
        if first == stage.steps:
            continue
        loader = DataLoader(
            _mixtures(recipe, packed, number),
            batch_sampler=Share(stage, first, fabric.global_rank, fabric.world_size),
            num_workers=recipe.workers,
        )
        for sources in loader:
            yield fabric.to_device(sources.unflatten(-1, (stage.windows, -1)))


@dataclass(frozen=True)
class Share:
    """Items of every step that fall to one device: devices take turns, together the whole batch."""

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


def statistics(recipe: Recipe, packed: PackedCorpus) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (F,) of the features, over mixtures of the first stage."""
    signal = recipe.model.signal
    stream = _mixtures(recipe, packed, 0)
    mixtures = (stream[i].sum(0) for i in range(min(STATISTICS, len(stream))))
    features = torch.cat([signal.features(signal.stft()(x)) for x in mixtures])  # (frames, F)
    return features.mean(0), features.std(0).clamp_min(1e-3)


def _mixtures(recipe: Recipe, packed: PackedCorpus, stage: int) -> TrainingMixtures:
    """The stream of one stage; the stage's number is its epoch, so no two stages repeat a draw."""
    settings, data = recipe.stages[stage], recipe.data
    stream = TrainingMixtures(
        packed,
        data.num_sources,
        # exactly `frames` frames a window: STFT.frames counts one more than whole hops
        settings.windows * (settings.frames - 1) * recipe.model.signal.hop,
        settings.steps * settings.batch,
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
