"""Means of the scores of a list, overall and by condition, with confidence intervals."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dpcl.evaluation.metrics import MEASURES

METRICS = ("si_sdr", "si_sdri", "sdr", "sdri")  # metrics that are always measured, dB
NAMES = {  # names of metrics in tables
    "si_sdr": "SI-SDR",
    "sdr": "SDR",
    **{name: measure.title for name, measure in MEASURES.items()},
}
RESAMPLINGS = 2000  # number of resamplings of the bootstrap


@dataclass(frozen=True)
class SourceResult:
    """Scores of one reference of one mixture: one line of results.csv.

    Attributes:
        id: id of the mixture.
        corpora: "within" or "across" corpora.
        genders: "same", "different" or "unknown".
        source: number of the source in the row of the list, from 1 on.
        speaker: name of the talker.
        si_sdr: SI-SDR in dB. This and the next three are NaN for a silent reference or one without
            an estimate.
        si_sdri: SI-SDR improvement over the mixture, dB.
        sdr: SDR in dB.
        sdri: SDR improvement over the mixture, dB.
        silent: the reference is silent.
        kind: kind of the mixture in a list of kinds, such as speech+environment.
        group: group of the source in a list of kinds, such as speech.
        more: scores of further metrics, their improvements over the mixture, and weights.
    """

    id: str
    corpora: str
    genders: str
    source: int
    speaker: str
    si_sdr: float
    si_sdri: float
    sdr: float
    sdri: float
    silent: bool
    kind: str = ""
    group: str = ""
    more: dict[str, float] = field(default_factory=dict)

    def value(self, column: str) -> float:
        """Return the score of a metric; NaN if it was not measured."""
        return getattr(self, column) if column in METRICS else self.more.get(column, math.nan)

    def weight(self, column: str) -> float:
        """Return the weight of a metric, or of its improvement, in a mean."""
        return self.more.get(f"{column.removesuffix('i')}_weight", 1.0)


@dataclass(frozen=True)
class Means:
    """Means over all sources with a score, of all mixtures of a condition.

    Each mean is None if no source has a score. The word error rate is weighed by the words of the
    references: all errors over all words.

    Attributes:
        mixtures: number of mixtures.
        sources: number of sources with a score.
        silent: number of silent references, which are not averaged.
        unmatched: number of audible references without an estimate, which are not averaged.
        si_sdr: mean SI-SDR in dB.
        si_sdri: mean SI-SDR improvement in dB.
        sdr: mean SDR in dB.
        sdri: mean SDR improvement in dB.
        more: means of further metrics, and of their improvements.
        intervals: 95 % bootstrap interval by metric, for at least two mixtures.
    """

    mixtures: int
    sources: int
    silent: int
    unmatched: int
    si_sdr: float | None
    si_sdri: float | None
    sdr: float | None
    sdri: float | None
    more: dict[str, float | None] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def value(self, column: str) -> float | None:
        """Return the mean of a metric; None if no source has a score."""
        return getattr(self, column) if column in METRICS else self.more.get(column)


@dataclass(frozen=True)
class Summary:
    """Content of summary.json.

    Attributes:
        list: name of the list.
        separator: name of the separator.
        sample_rate: sample rate of the mixtures, Hz.
        overall: means over all results.
        conditions: means by condition: within, across, same, …, "within same", …; or by kind.
        metrics: metrics that were measured.
    """

    list: str
    separator: str
    sample_rate: int
    overall: Means
    conditions: dict[str, Means]
    metrics: tuple[str, ...] = METRICS


def improvements(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of metrics: each, and its improvement over the mixture.

    Example:
        >>> improvements(["pesq"])
        ('pesq', 'pesqi')
    """
    return tuple(column for metric in metrics for column in (metric, f"{metric}i"))


def weights(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that means weigh these metrics by.

    Example:
        >>> weights(["pesq", "wer"])
        ('wer_weight',)
    """
    return tuple(f"{name}_weight" for name in metrics if name in MEASURES and MEASURES[name].weight)


def summarise(
    results: Sequence[SourceResult],
    list_name: str,
    separator: str,
    sample_rate: int,
    metrics: tuple[str, ...] = METRICS,
) -> Summary:
    """Average results overall, by corpora, by genders and by both.

    Results of a list of kinds are averaged by kind, and by group of the source where a kind has
    several groups. Conditions without results are omitted.

    Args:
        results: scores of all sources.
        list_name: name of the list.
        separator: name of the separator.
        sample_rate: sample rate of the mixtures, Hz.
        metrics: metrics to average, improvements included.
    """
    if all(result.kind for result in results):
        chosen = _by_kind(results)
    else:
        corpora = [name for name in ("within", "across") if _select(results, name)]
        genders = [name for name in ("same", "different", "unknown") if _select(results, name)]
        crossings = [f"{corpus} {gender}" for corpus in corpora for gender in genders]
        chosen = {name: _select(results, name) for name in (*corpora, *genders, *crossings)}
    conditions = {name: means(found, metrics) for name, found in chosen.items() if found}
    overall = means(results, metrics)
    return Summary(list_name, separator, sample_rate, overall, conditions, metrics)


def _by_kind(results: Sequence[SourceResult]) -> dict[str, list[SourceResult]]:
    """Return the results by kind, and by `GROUP in KIND` where a kind has several groups."""
    chosen: dict[str, list[SourceResult]] = {}
    for kind in sorted({result.kind for result in results}):
        chosen[kind] = [result for result in results if result.kind == kind]
        groups = dict.fromkeys(result.group for result in chosen[kind])
        if len(groups) > 1:
            for group in groups:
                part = [result for result in chosen[kind] if result.group == group]
                chosen[f"{group} in {kind}"] = part
    return chosen


def summary_table(summary: Summary) -> str:
    """Return a summary as a Markdown table, one line per condition, ending in a newline.

    Improvements are followed by their 95 % intervals.
    """
    columns = summary.metrics
    titles = " | ".join(title(column) for column in columns)
    lines = [
        f"| {summary.list}, {summary.separator} | mixtures | {titles} |",
        "|---|--:|" + "--:|" * len(columns),
    ]
    for condition, averages in {"all": summary.overall, **summary.conditions}.items():
        scores = " | ".join(
            cell(averages, column, interval=column.endswith("i")) for column in columns
        )
        lines.append(f"| {condition} | {averages.mixtures} | {scores} |")
    omitted = {
        "silent references": summary.overall.silent,
        "references without an estimate": summary.overall.unmatched,
    }
    notes = [f"{count} {references}" for references, count in omitted.items() if count]
    if notes:
        lines += ["", f"Not averaged: {', '.join(notes)}."]
    return "\n".join(lines) + "\n"


def _select(results: Sequence[SourceResult], condition: str) -> list[SourceResult]:
    """Return the results of a condition, such as `within`, `same` or `within same`."""
    names = set(condition.split())
    return [result for result in results if names <= {result.corpora, result.genders}]


def title(column: str) -> str:
    """Return the name of a column in a table.

    Example:
        >>> title("si_sdri")
        'SI-SDRi'
    """
    return NAMES[column] if column in NAMES else NAMES[column[:-1]] + "i"


def cell(of: Means, column: str, interval: bool = True) -> str:
    """Return the text of a mean in a table: two decimals, a dash if there is none.

    Args:
        of: means of a condition.
        column: metric.
        interval: append the 95 % interval in brackets.
    """
    value = of.value(column)
    if value is None:
        return "–"
    text = f"{value:.2f}"
    if interval and column in of.intervals:
        low, high = of.intervals[column]
        text += f" [{low:.2f}, {high:.2f}]"
    return text


def means(results: Sequence[SourceResult], metrics: Sequence[str] = METRICS) -> Means:
    """Average results, with 95 % bootstrap intervals; their order does not matter.

    Args:
        results: scores of sources.
        metrics: metrics to average, besides SI-SDR, SDR and their improvements.
    """
    scored = [result for result in results if not math.isnan(result.si_sdr)]
    silent = sum(result.silent for result in results)

    def mean(metric: str) -> float | None:
        """Average one metric, to four decimals."""
        # fsum: its result does not depend on the order of the results.
        found = [result for result in scored if not math.isnan(result.value(metric))]
        if not found:
            return None
        total = math.fsum(result.value(metric) * result.weight(metric) for result in found)
        return round(total / math.fsum(result.weight(metric) for result in found), 4) + 0.0

    return Means(
        mixtures=len({result.id for result in results}),
        sources=len(scored),
        silent=silent,
        unmatched=len(results) - len(scored) - silent,
        intervals=_intervals(scored, metrics),
        more={metric: mean(metric) for metric in metrics if metric not in METRICS},
        **{metric: mean(metric) for metric in METRICS},
    )


def _intervals(
    scored: Sequence[SourceResult], metrics: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals by metric, for metrics with scores of at least two mixtures."""
    found = {}
    for metric in metrics:
        values: dict[str, list[float]] = {}  # by mixture
        weighed: dict[str, list[float]] = {}
        for result in sorted(scored, key=lambda result: (result.id, result.source)):
            if not math.isnan(value := result.value(metric)):
                values.setdefault(result.id, []).append(value)
                weighed.setdefault(result.id, []).append(result.weight(metric))
        if len(values) > 1:
            found[metric] = bootstrap_interval(list(values.values()), list(weighed.values()))
    return found


def bootstrap_interval(
    groups: Sequence[Sequence[float]], weights: Sequence[Sequence[float]] | None = None
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap of the mean over all values, resampling whole groups.

    The seed is fixed, so that the same scores give the same interval.

    Args:
        groups: values of each mixture; at least two mixtures.
        weights: of the values; None for equal ones.

    Example:
        >>> bootstrap_interval([[1.0, 2.0], [1.5]])
        (1.5, 1.5)

    Source: Efron 1979.
    """
    from scipy.stats import bootstrap  # slow to import

    if weights is None:
        weights = [[1.0] * len(group) for group in groups]
    sums = [math.fsum(map(operator.mul, *pair)) for pair in zip(groups, weights, strict=True)]
    data = sums, [math.fsum(group) for group in weights]
    found = bootstrap(
        data,
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLINGS,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return round(float(found.low), 4) + 0.0, round(float(found.high), 4) + 0.0
