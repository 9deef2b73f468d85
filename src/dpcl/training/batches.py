"""Batches of a training: their mixtures, and the recipe's objective of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from dpcl.errors import InputError
from dpcl.io import Report
from dpcl.mixtures.conditions import (
    ConditionedMixture,
    ConditionedMixtures,
    ConditionParts,
    prepare_conditions,
)
from dpcl.mixtures.corpus import Corpus, PackedCorpus, has_index, pack_corpus, read_corpus
from dpcl.mixtures.stream import TrainingMixtures
from dpcl.networks.base import EmbeddingNetwork, Predictions
from dpcl.objectives import OBJECTIVES, affinity_loss
from dpcl.objectives.attractor import anchored_attractor_loss, attractors, deep_attractor_loss
from dpcl.objectives.masks import (
    Norm,
    background_loss,
    count_loss,
    mask_inference_loss,
    phase_sensitive_targets,
    waveform_approximation_loss,
)
from dpcl.signal.features import (
    bin_weights,
    first_bin,
    ideal_assignments,
    level_log_magnitude,
    level_weights,
    loud_level,
)
from dpcl.signal.stft import STFT
from dpcl.training.recipe import DataSettings, MaskObjective, Recipe, Stage

if TYPE_CHECKING:
    from lightning.fabric import Fabric

STATISTICS = 200  # mixtures for the mean and the standard deviation of the features

ACTIVE = 0.03  # lowest level of an active talker's frame, relative to the level of the talker
AUDIBLE = 0.01  # lowest level of such a frame, relative to the level of the mixture
SILENT = 1e-8  # largest power of a talker who is not in the mixture
BACKGROUND, COUNTS, WAVEFORM = 0.3, 0.1, 0.1  # weights of the parts beside the affinity
TINY = 1e-8  # energy that keeps ratios finite
WORST, BEST = -20.0, 30.0  # dB between which the waveforms' SI-SDR counts


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


@dataclass(frozen=True)
class TrainingData:
    """Decoded speech, and the sounds and rooms of the conditions where the recipe has them."""

    speech: PackedCorpus
    parts: ConditionParts | None = None

    @property
    def size(self) -> list[int]:
        """Return numbers that change with the recordings."""
        sounds = self.parts and self.parts.sounds
        packed = [self.speech, *([sounds] if sounds else [])]
        return [number for one in packed for number in (len(one), int(one.offsets[-1]))]


def prepare(recipe: Recipe, packing: Report) -> TrainingData:
    """Decode the recordings of the recipe's corpora, and make its rooms, once.

    Args:
        recipe: its data settings.
        packing: called while recordings are decoded and rooms computed.
    """
    data, rate = recipe.data, recipe.model.signal.sample_rate
    speech, conditions = pack_corpus(read_data(data), rate, data.cache, packing), data.conditions
    if conditions is None:
        return TrainingData(speech)
    corpus = data.corpora[0]
    parts = prepare_conditions(conditions, corpus, rate, data.cache, packing)
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
            batch_sampler=DeviceBatches(stage, first, fabric.global_rank, fabric.world_size),
            num_workers=recipe.workers,
        )
        for batch in loader:
            if recipe.data.conditions is None:
                batch = batch.unflatten(-1, (stage.windows, -1))
            yield fabric.to_device(batch)


@dataclass(frozen=True)
class DeviceBatches:
    """Items of every step for one device; all devices together get the whole batch."""

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


def batch_loss(
    recipe: Recipe, network: EmbeddingNetwork, stft: STFT, batch: Tensor | ConditionedMixture
) -> Tensor:
    """Return the mean objective of a batch, a number with a gradient.

    Args:
        recipe: its objective and signal settings.
        network: with the heads that the objective needs.
        stft: of the recipe.
        batch: sources (B, C, W, T), or mixtures under many conditions.
    """
    if isinstance(batch, ConditionedMixture):
        return conditioned_loss(recipe, network, stft, batch)
    return _clean_loss(recipe, network, stft, batch)


def _clean_loss(recipe: Recipe, network: EmbeddingNetwork, stft: STFT, sources: Tensor) -> Tensor:
    """Return the mean objective of sources (B, C, W, T).

    With both heads it is share * (loss of the embeddings) + (1 - share) * (loss of the masks), as
    in chimera++ (Wang, Le Roux, Hershey 2018, eq. 12).
    """
    objective = recipe.objective
    spectra = stft(sources.transpose(1, 2))  # (B, W, C, L, F)
    mixture = spectra.sum(2)  # (B, W, L, F); the STFT is linear
    features = recipe.model.signal.features(mixture).flatten(0, 1)  # (B*W, L, F)
    if recipe.input_noise:
        deviation = math.sqrt(recipe.input_noise) * network.std  # (F,)
        features = features + deviation * torch.randn_like(features)
    settings = objective.masks
    together = sources.shape[2] if settings is not None and settings.across_windows else 1
    embeddings, masks = network(features, sources.shape[1], together)
    losses = []
    if objective.kind != "none":
        loss = _embedding_loss(recipe, network, embeddings, spectra, mixture)
        losses.append(loss if settings is None else objective.share * loss)
    if settings is not None:
        loss = _mask_loss(settings, masks.flatten(2).mT, spectra, sources, together, stft)
        losses.append(loss if objective.kind == "none" else (1 - objective.share) * loss)
    return torch.stack(losses).sum()


def _embedding_loss(
    recipe: Recipe, network: EmbeddingNetwork, embeddings: Tensor, spectra: Tensor, mixture: Tensor
) -> Tensor:
    """Return the loss of embeddings (B*W, N, K) of sources (B, W, C, L, F)."""
    objective = recipe.objective
    # The bins of all windows together, so that pairs across windows count as well.
    spectra, mixture = _joined(spectra, spectra.shape[1]), mixture.flatten(1, 2)
    weights = bin_weights(mixture, objective.weighting, objective.floor_db)  # (B, W*N)
    together = embeddings.reshape(*weights.shape, -1)  # (B, W*N, K)
    if objective.kind in OBJECTIVES:
        loss = OBJECTIVES[objective.kind](together, ideal_assignments(spectra), weights)
        return loss.mean()
    targets, magnitude = phase_sensitive_targets(spectra, mixture), mixture.abs().flatten(1)
    if objective.kind == "attractor":
        assignments = ideal_assignments(spectra)
        return deep_attractor_loss(together, assignments, magnitude, targets, weights).mean()
    return anchored_attractor_loss(together, network.anchors, magnitude, targets, weights).mean()


def _joined(windows: Tensor, together: int) -> Tensor:
    """Join windows: (B, W, C, n, ...) -> (B*W/together, C, together*n, ...)."""
    groups = windows.reshape(-1, together, *windows.shape[2:])
    return groups.transpose(1, 2).flatten(2, 3)


def _mask_loss(
    settings: MaskObjective,
    masks: Tensor,
    spectra: Tensor,
    sources: Tensor,
    together: int,
    stft: STFT,
) -> Tensor:
    """Return the loss of masks (M, N, C) on spectra (B, W, C, L, F) and samples (B, C, W, T).

    `together` windows form one item with one order: M is B*W/together, N all their bins.
    """
    spectra = _joined(spectra, together)  # (M, C, W'*L, F)
    samples = _joined(sources.transpose(1, 2), together)  # (M, C, W'*T)

    def spectrum(x: Tensor) -> Tensor:  # (..., W'*T) -> (..., W'*L, F): windows do not overlap
        return stft(x.reshape(*x.shape[:-1], together, -1)).flatten(-3, -2)

    def inverse(x: Tensor, length: int) -> Tensor:
        windows = x.reshape(*x.shape[:-2], together, -1, x.shape[-1])
        return stft.inverse(windows, length // together).flatten(-2)

    if settings.order == "strongest":  # louder sources first, the only accepted order
        ranks = samples.square().sum(-1).argsort(-1, descending=True)  # (M, C)
        items = torch.arange(len(ranks), device=ranks.device).unsqueeze(-1)
        spectra, samples = spectra[items, ranks], samples[items, ranks]
    if settings.targets == "waveform":
        return waveform_approximation_loss(
            masks,
            samples.sum(1),
            samples,
            spectrum,
            inverse,
            settings.distance,
        ).mean()
    mixture = spectra.sum(1)
    targets = phase_sensitive_targets(spectra, mixture)
    norm: Norm = 1 if settings.distance == "l1" else 2
    return mask_inference_loss(
        masks, mixture.abs().flatten(1), targets, norm, any_order=settings.order == "best"
    ).mean()


def conditioned_loss(
    recipe: Recipe, network: EmbeddingNetwork, stft: STFT, batch: ConditionedMixture
) -> Tensor:
    """Return the mean objective of a batch, a number with a gradient.

    It is the affinity objective on the bins of talkers plus three weighted terms: cross-entropy of
    the background on all audible bins, cross-entropy of the number of talkers per frame, and the
    negative SI-SDR (dB) of the talkers. Their masks are soft, around the centroids of their bins.

    Args:
        recipe: its objective and signal settings.
        network: with a background head and a head for counts.
        stft: of the recipe.
        batch: sources (B, C, T), mixtures (B, T), level factors (B,).
    """
    objective, signal = recipe.objective, recipe.model.signal
    first = first_bin(signal.sample_rate, signal.window)
    spectra, mixture = stft(batch.sources), stft(batch.mixture)  # (B, C, L, F), (B, L, F)
    level = loud_level(mixture.abs(), first) * batch.level_factor[:, None, None]
    magnitudes = spectra.abs()
    background = (mixture - spectra.sum(1)).abs()  # (B, L, F)
    dominates = (background > magnitudes.amax(1)).flatten(1)  # (B, N)
    weights = level_weights(mixture.abs(), level, first, objective.floor_db)  # (B, N)
    of_talkers = weights * ~dominates

    predicted: Predictions = network(level_log_magnitude(mixture, first, level), detect=True)
    embeddings = predicted.embeddings  # (B, N, K)
    assignments = ideal_assignments(spectra)  # (B, N, C)
    loss = affinity_loss(embeddings, assignments, of_talkers).mean()
    log_odds = predicted.background  # (B, N)
    assert log_odds is not None
    loss = loss + BACKGROUND * background_loss(log_odds, dominates, weights).mean()
    assert predicted.counts is not None
    counts = active_talkers(magnitudes, level, first)  # (B, L)
    loss = loss + COUNTS * count_loss(predicted.counts, counts).mean()
    present = batch.sources.square().mean(-1) > SILENT  # (B, C)
    if not present.any():  # a batch may be silent
        return loss
    centroids = functional.normalize(attractors(embeddings, assignments, of_talkers), dim=-1)
    sharpness = recipe.model.masks.sharpness or 1.0
    logits = sharpness * centroids @ embeddings.mT  # (B, C, N)
    logits = logits.masked_fill(~present.unsqueeze(-1), -1e4)
    masks = logits.softmax(1) * (1 - log_odds.sigmoid()).unsqueeze(1)
    masked = masks.view_as(magnitudes) * mixture.unsqueeze(1)
    estimates = stft.inverse(masked, batch.sources.shape[-1])  # (B, C, T)
    ratios = _si_sdr(estimates, batch.sources).clamp(WORST, BEST)
    return loss - WAVEFORM * ratios[present].mean()


def active_talkers(magnitudes: Tensor, level: Tensor, first: int) -> Tensor:
    """Return the number of active talkers (B, L) in each frame.

    A talker is active in frames at most 30 dB below the level of the talker, and at most 40 dB
    below the level of the mixture.

    Args:
        magnitudes: of the talkers (B, C, L, F).
        level: of the mixtures (B, 1, 1).
        first: bins below this one do not count.
    """
    frames = magnitudes[..., first:].square().sum(-1).sqrt()  # (B, C, L)
    own = loud_level(magnitudes, first).squeeze(-1)  # (B, C, 1)
    active: Tensor = (frames > ACTIVE * own) & (frames > AUDIBLE * level)
    return active.sum(1)


def _si_sdr(estimates: Tensor, references: Tensor) -> Tensor:
    """Return the SI-SDR (...) in dB of each estimate (..., T) for its reference (..., T).

    Source: Le Roux et al. 2019, eq. 3, of signals without their means.
    """
    estimates = estimates - estimates.mean(-1, keepdim=True)
    references = references - references.mean(-1, keepdim=True)
    energy = references.square().sum(-1, keepdim=True) + TINY
    target = (estimates * references).sum(-1, keepdim=True) / energy * references
    error = (target - estimates).square().sum(-1) + TINY
    return 10 * ((target.square().sum(-1) + TINY) / error).log10()
