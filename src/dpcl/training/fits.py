"""Parts of a model beside the network: the number of sources, the drift of embeddings, activity.

Each is fitted on the separation of rendered mixtures and conversations by the trained network.
Activity is in dpcl.training.fit_talkers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpcl.catalogue import find_file
from dpcl.clustering.count import BEST, WORST, confidence_cues, cues, estimate_si_sdr
from dpcl.clustering.count import fit as fit_network
from dpcl.clustering.count import fit_confidence as fit_ridge
from dpcl.errors import InputError
from dpcl.evaluation.metrics import best_permutation, si_sdr
from dpcl.io import Progress, Report
from dpcl.mixtures.conditions import ConditionedMixtures, ConditionSettings, prepare_conditions
from dpcl.mixtures.conversation import converse
from dpcl.mixtures.corpus import Corpus, pack_corpus
from dpcl.mixtures.drawing import Kinds, draw_list
from dpcl.mixtures.render import render_mixture
from dpcl.mixtures.stream import gate_sources
from dpcl.model import ConfidenceSettings, CountSettings, Model, ModelSettings
from dpcl.recordings.recording import InMemory
from dpcl.recordings.separate import RecordingSeparation, separate_recording
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.masks import FAINTEST, STRETCH, whiten
from dpcl.settings import read_settings
from dpcl.signal.stft import Windows
from dpcl.training.batches import read_data
from dpcl.training.fit_talkers import fit_activity
from dpcl.training.phases import Fit
from dpcl.training.recipe import DataSettings

SEED = 77  # seed of the mixtures for counting
FIRST_SEED = 1000  # first seed of the conversations for counting
FOLDS = 5  # one in this number of mixtures measures the error of the estimated SI-SDR
CONDITIONED = 6.0  # s, length of a mixture under conditions
SHORTEST = 0.5  # min, shortest conversation for counting
WINDOWS, ACTIVE, TURNS = 5, (0.6, 0.3, 0.1), 0.25  # turns in a mixture, see gate_sources
LEAST = 0.1  # share of its energy that a source keeps in a mixture with turns
# Importance of mixtures, mixtures with turns, and conversations. Six seconds with turns are often
# too short to count by; equal importance would cost accuracy on overlapping talkers.
SHARES = 2.0, 1.0, 1.0
TALKERS = 3  # number of talkers of a conversation for whitening
DOMINATED = 0.9  # share of the weight of a stretch that one talker dominates
FEWEST = 5  # number of stretches of a talker, at least


def fit_model(model: Model, fit: Fit, data: DataSettings, report: Report) -> Model:
    """Fit one part of a model.

    Args:
        model: with a trained embedding network.
        fit: the part, and the amount of data.
        data: corpora, and the filters that `fit` does not replace.
        report: called with the mixtures or conversations that are done.

    Returns:
        The model with this part. `whitening` removes the activity network, which depends on it.

    Raises:
        InputError: The model has no embeddings, or the corpus lacks talkers or the split.
    """
    if not model.settings.network.embedding:
        raise InputError(
            f"fit {fit.fit}: the model has no embeddings; fit one with model.network.embedding"
        )
    chosen = data if fit.only is None else data.model_copy(update={"only": fit.only})
    split = fit.split or ("valid" if fit.fit in ("count", "confidence") else None)
    corpus = _one_root(read_data(chosen, split))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if fit.fit in ("count", "confidence"):
            chosen_fit = fit_count if fit.fit == "count" else fit_confidence
            return chosen_fit(model, fit, corpus, report, data)
        fits = {"whitening": fit_whitening, "activity": fit_activity}
        return fits[fit.fit](model, fit, corpus, report)


def _one_root(corpus: Corpus) -> Corpus:
    """Return the corpus with one folder that holds all its recordings."""
    utterances = tuple(replace(u, path=u.path.resolve()) for u in corpus.utterances)
    root = Path(os.path.commonpath([u.path.parent for u in utterances]))
    return Corpus(root, utterances)


class CountCuesOnly(DeepClustering):
    """Deep clustering that keeps the cues of the number of sources instead of counting.

    Args:
        model: with embeddings.
        found: list of the cues of every recording; copies of the separator share it.
    """

    def __init__(self, model: Model, found: list[Tensor]) -> None:
        super().__init__(model)
        self.found = found

    def count(
        self,
        points: Tensor,
        weights: Tensor,
        frames: Tensor,
        most: int,
        more: Tensor | None = None,
    ) -> int:
        """Append the cues to `found`, and return 1."""
        own = cues(points, weights, frames)
        self.found.append(own if more is None else torch.cat([own, more.double()]))
        return 1


@dataclass(frozen=True)
class Example:
    """Mixture for counting and for the estimate of the sources' SI-SDR.

    Attributes:
        mixture: (T,).
        sources: (C, T), without the background.
        kind: 0 as drawn, 1 with turns, 2 a conversation.
    """

    mixture: NDArray[np.float32]
    sources: NDArray[np.float32]
    kind: int


def fit_count(model: Model, fit: Fit, corpus: Corpus, report: Report, data: DataSettings) -> Model:
    """Fit the network that counts the sources.

    Every mixture is used twice: as drawn, and with talkers who take turns. Under conditions, it is
    used once, since some of them have turns.

    Args:
        model: with embeddings.
        fit: the amount of data.
        corpus: recordings of the talkers.
        report: called with the mixtures that are done.
        data: conditions, the corpus of their backgrounds, and the cache.

    Source of the cues: dpcl.clustering.count.
    """
    prior = torch.tensor(fit.prior or [1.0] * fit.most)
    if len(prior) != fit.most:
        raise InputError(
            f"fit count: prior has {len(prior)} values; give {fit.most}, as many as `most`"
        )
    rows: list[Tensor] = []
    separator = CountCuesOnly(replace(model, activity=None), rows)
    counts, kinds = [], []
    for example in _drawn(separator.sample_rate, fit, corpus, data, report):
        mixture = InMemory(example.mixture[None], separator.sample_rate)
        with RecordingSeparation(mixture, separator, most=1) as separation:
            separation.link()
        counts.append(len(example.sources))
        kinds.append(example.kind)
    number, kind = torch.tensor(counts), torch.tensor(kinds)
    importance = torch.tensor(SHARES)[kind] * prior[number - 1]
    each = kind * fit.most + number - 1  # every kind and number counts alike, however many
    importance = importance / each.bincount()[each]
    hidden, output = fit_network(torch.stack(rows), number, importance)
    count = CountSettings.model_validate({"hidden": hidden, "output": output})
    return replace(model, settings=model.settings.model_copy(update={"count": count}))


class ConfidenceCuesOnly(DeepClustering):
    """Deep clustering that keeps the cues of the sources' SI-SDR instead of estimating it."""

    found: Tensor | None = None

    def confidence(
        self, points: Tensor, weights: Tensor, centroids: Tensor
    ) -> tuple[float, ...] | None:
        """Keep the cues in `found`, and return None."""
        self.found = confidence_cues(points, weights, centroids) if weights.any() else None
        return None


def fit_confidence(
    model: Model, fit: Fit, corpus: Corpus, report: Report, data: DataSettings
) -> Model:
    """Fit the estimate of the sources' SI-SDR on mixtures with a given number of sources.

    The error is measured on every fifth mixture, by a fit on the others; the model gets a fit on
    all.

    Args:
        model: with embeddings.
        fit: the amount of data.
        corpus: recordings of the talkers.
        report: called with the mixtures that are done.
        data: conditions, the corpus of their backgrounds, and the cache.

    Source of the cues: dpcl.clustering.count.
    """
    separator = ConfidenceCuesOnly(replace(model, activity=None))
    rows, ratios, held_out = [], [], []
    for index, example in enumerate(_drawn(separator.sample_rate, fit, corpus, data, report)):
        separation = separate_recording(
            example.mixture, separator.sample_rate, separator, len(example.sources)
        )
        references = torch.from_numpy(example.sources)
        places = best_permutation(separation.sources, references)
        audible = places >= 0
        if separator.found is not None and bool(audible.any()):
            own = places[audible]
            rows.append(separator.found[own])
            ratios.append(si_sdr(separation.sources[own], references[audible]))
            held_out.append(torch.full((len(own),), index % FOLDS == 0))
    cues, ratio, test = torch.cat(rows), torch.cat(ratios), torch.cat(held_out)
    guess = estimate_si_sdr(cues[test], fit_ridge(cues[~test], ratio[~test]))
    error = float((torch.tensor(guess) - ratio[test].clamp(WORST, BEST)).abs().mean())
    settings = ConfidenceSettings(
        coefficients=tuple(fit_ridge(cues, ratio)), error_db=round(error, 2)
    )
    return replace(model, settings=model.settings.model_copy(update={"confidence": settings}))


def _drawn(
    sample_rate: int, fit: Fit, corpus: Corpus, data: DataSettings, report: Report
) -> Iterator[Example]:
    """Yield the mixtures of a fit; each is reported when the caller is done with it."""
    if data.conditions is None:
        drawn, total = (
            _examples(sample_rate, fit, corpus),
            fit.most * (fit.mixtures * 2 + fit.number),
        )
    else:
        drawn = conditioned_examples(sample_rate, fit, corpus, data, data.conditions)
        total = fit.most * (fit.mixtures + fit.number)
    for done, example in enumerate(drawn, 1):
        yield example
        report(Progress(done, total, "mixtures"))


def _examples(sample_rate: int, fit: Fit, corpus: Corpus) -> Iterator[Example]:
    kinds = None if fit.kinds is None else _kinds(fit.kinds)
    for number in range(1, fit.most + 1):
        rows = draw_list(corpus, "count", SEED, fit.mixtures, number, kinds=kinds)
        for index, row in enumerate(rows):
            if row.kind.endswith(":same"):  # no network separates two sounds of one class
                continue
            _, sources = render_mixture(row, corpus.root, sample_rate)
            yield _clean(sources, 0)
            yield _clean(with_turns(sources, index), 1)
        yield from _conversations(sample_rate, fit, corpus, number)


def conditioned_examples(
    sample_rate: int, fit: Fit, corpus: Corpus, data: DataSettings, conditions: ConditionSettings
) -> Iterator[Example]:
    """Yield mixtures of 1, 2, … talkers under conditions, and conversations.

    Args:
        sample_rate: Hz.
        fit: the amount of data; backgrounds are of its split, or of `valid`.
        corpus: recordings of the talkers.
        data: the corpus of the backgrounds, and the cache.
        conditions: of a recipe; their shares of talkers do not apply.

    Raises:
        InputError: The corpus has no backgrounds of that split, or too few talkers.
    """
    background = conditions.background.model_copy(update={"split": fit.split or "valid"})
    conditions = conditions.model_copy(update={"background": background})
    parts = prepare_conditions(conditions, data.corpora[0], sample_rate, data.cache)
    speech = pack_corpus(corpus, sample_rate, data.cache)
    samples = round(CONDITIONED * sample_rate)
    for number in range(1, fit.most + 1):
        alone = tuple(float(talkers == number) for talkers in range(1, number + 1))
        settings = conditions.model_copy(update={"talkers": alone})
        drawn = ConditionedMixtures(settings, speech, parts, samples, fit.mixtures, SEED)
        for item in range(fit.mixtures):
            found = drawn[item]
            yield Example(found.mixture.numpy(), found.sources.numpy(), 0)
        yield from _conversations(sample_rate, fit, corpus, number)


def _conversations(sample_rate: int, fit: Fit, corpus: Corpus, number: int) -> Iterator[Example]:
    for seed in range(FIRST_SEED, FIRST_SEED + fit.number):
        minutes = np.random.default_rng(seed).uniform(min(SHORTEST, fit.length), fit.length)
        _, talkers = converse(corpus, number, minutes, seed, sample_rate)
        yield _clean(talkers.numpy(), 2)


def _clean(sources: NDArray[np.float32], kind: int) -> Example:
    return Example(sources.sum(0), sources, kind)


def _kinds(name: str) -> Kinds:
    path = find_file("lists", name)
    if path is None:
        raise InputError(f"fit count: kinds: there is no file {name} in lists/; correct the name")
    return read_settings(Kinds, path)


def with_turns(sources: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Gate sources (C, T) so that few overlap, each keeping at least LEAST of its energy."""
    random = np.random.default_rng(seed)
    whole = sources[:, : sources.shape[1] // WINDOWS * WINDOWS]
    energies = np.square(whole).sum(1)
    active = (*ACTIVE, *[ACTIVE[-1]] * len(sources))[: len(sources)]
    while True:
        gated = gate_sources(whole, random, WINDOWS, active, TURNS)
        if (np.square(gated).sum(1) >= LEAST * energies).all():
            return gated


def fit_whitening(model: Model, fit: Fit, corpus: Corpus, report: Report) -> Model:
    """Fit the whitening of the drift of one talker's embeddings within a conversation.

    In every stretch that one talker dominates, the mean embedding is compared with the mean of all
    such stretches of the talker. Source: dpcl.separators.masks.whiten.
    """
    separator = DeepClustering(replace(model, activity=None))
    deviations: list[Tensor] = []
    for seed in range(fit.number):
        _, sources = converse(corpus, TALKERS, fit.length, seed, separator.sample_rate)
        means, talkers = stretches(separator, sources)
        for talker in range(len(sources)):
            own = means[talkers == talker]
            if len(own) >= FEWEST:
                deviations.append(own - own.mean(0))
        report(Progress(seed + 1, fit.number, "conversations"))
    if not deviations:
        raise InputError(
            "fit whitening: no talker is alone for long enough; set more conversations or minutes"
        )
    drift = torch.cat(deviations).double()  # (stretches, K)
    table = whiten(drift.mT @ drift / len(drift)).float()
    rows = [[round(value, 4) for value in row] for row in table.tolist()]
    settings = ModelSettings.model_validate(model.settings.model_dump() | {"whitening": rows})
    return replace(model, settings=settings, activity=None)


@torch.no_grad()
def stretches(separator: DeepClustering, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean embeddings (n, K) of the stretches that one talker dominates, and who (n,).

    Args:
        separator: without an activity network.
        sources: (C, T) of a conversation.
    """
    mixture = sources.sum(0)
    spectrum = separator.stft(mixture / mixture.abs().max())  # (L, F)
    owners = separator.stft(sources).abs().argmax(0)  # (L, F)
    hops = separator.sample_rate / separator.stft.hop
    frames = (round(separator.window_seconds * hops), round(separator.overlap_seconds * hops))
    windows = Windows(len(spectrum), *frames)
    length = round(STRETCH * hops)
    means, masses, shares = [], [], []
    for start in windows.starts:
        part = slice(start, start + windows.length)
        encoded, magnitude = separator.analyse(spectrum[part][None, None])
        weights = separator.weights(magnitude[0]).view(windows.length, -1)
        embeddings = separator.embed(encoded).view(*weights.shape, -1)
        for stretch in torch.split(torch.arange(windows.length), length):
            pull = weights[stretch]
            mass = pull.sum()
            masses.append(mass)
            means.append((pull.unsqueeze(-1) * embeddings[stretch]).sum((0, 1)) / mass)
            own = owners[part][stretch]
            dominated = [pull[own == talker].sum() for talker in range(len(sources))]
            shares.append(torch.stack(dominated) / mass)
    mass, share = torch.stack(masses), torch.stack(shares)
    clear = (share.amax(-1) > DOMINATED) & (mass > FAINTEST * mass[mass > 0].median())
    return torch.stack(means)[clear], share.argmax(-1)[clear]
