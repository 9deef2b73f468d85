"""Means of the scores of a whole list, overall and by condition, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

METRICS = ("si_sdr", "si_sdri", "sdr", "sdri")  # always there; dB
NAMES = {"si_sdr": "SI-SDR", "sdr": "SDR", "pesq": "PESQ", "stoi": "STOI"}
RESAMPLINGS = 2000  # of the bootstrap


@dataclass(frozen=True)
class SourceResult:
    """One line of results.csv: one reference of one mixture, its scores in dB."""

    id: str  # of the mixture
    corpora: str  # "within" or "across"
    genders: str  # "same", "different" or "unknown"
    source: int  # from 1 on, as in the list
    speaker: str
    si_sdr: float  # NaN where silent or without an estimate, and so the next three
    si_sdri: float
    sdr: float
    sdri: float
    silent: bool  # the reference is
    kind: str = ""  # of the mixture, such as speech+environment, in a list of kinds
    group: str = ""  # of the source, such as speech
    pesq: float = math.nan  # these only where they were asked for
    pesqi: float = math.nan
    stoi: float = math.nan
    stoii: float = math.nan


@dataclass(frozen=True)
class Means:
    """Means over all sources of all mixtures of a condition that have a score.

    intervals: 95 % of the bootstrap, by metric, where there are two mixtures or more.
    """

    mixtures: int
    sources: int  # with a score: these are averaged
    silent: int  # references without a sound, not averaged
    unmatched: int  # references for which the separator gave no estimate, not averaged
    si_sdr: float | None  # dB; None where no source has a score
    si_sdri: float | None
    sdr: float | None
    sdri: float | None
    pesq: float | None = None
    pesqi: float | None = None
    stoi: float | None = None
    stoii: float | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """What summary.json holds."""

    list: str
    separator: str
    sample_rate: int  # Hz
    overall: Means
    conditions: dict[str, Means]  # "within", "across", "same", ..., "within same", ...; or kinds
    metrics: tuple[str, ...] = METRICS  # what was measured


def improvements(metrics: Sequence[str]) -> tuple[str, ...]:
    """The columns of metrics: each and its improvement over the mixture."""
    return tuple(column for metric in metrics for column in (metric, f"{metric}i"))


def summarise(
    results: Sequence[SourceResult],
    list_name: str,
    separator: str,
    sample_rate: int,
    metrics: tuple[str, ...] = METRICS,
) -> Summary:
    """Average the results overall, by corpora, by genders and by both; only what occurs.

    In a list of kinds: by kind, and by the group of the source where a kind has several.
    """
    if all(result.kind for result in results):
        chosen = _by_kind(results)
    else:
        corpora = [name for name in ("within", "across") if _of(results, name)]
        genders = [name for name in ("same", "different", "unknown") if _of(results, name)]
        crossings = [f"{corpus} {gender}" for corpus in corpora for gender in genders]
        chosen = {name: _of(results, name) for name in (*corpora, *genders, *crossings)}
    conditions = {name: means(found, metrics) for name, found in chosen.items() if found}
    overall = means(results, metrics)
    return Summary(list_name, separator, sample_rate, overall, conditions, metrics)


def _by_kind(results: Sequence[SourceResult]) -> dict[str, list[SourceResult]]:
    """speech+environment; speech in speech+environment; environment in speech+environment; ..."""
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
    """The summary as a Markdown table, a line per condition, ending in a newline.

    Improvements have their 95 % intervals behind them.
    """
    columns = summary.metrics
    titles = " | ".join(title(column) for column in columns)
    lines = [
        f"| {summary.list}, {summary.separator} | mixtures | {titles} |",
        "|---|--:|" + "--:|" * len(columns),
    ]
    for condition, of in {"all": summary.overall, **summary.conditions}.items():
        scores = " | ".join(cell(of, column, interval=column.endswith("i")) for column in columns)
        lines.append(f"| {condition} | {of.mixtures} | {scores} |")
    left_out = {
        "silent references": summary.overall.silent,
        "references without an estimate": summary.overall.unmatched,
    }
    notes = [f"{count} {what}" for what, count in left_out.items() if count]
    if notes:
        lines += ["", f"Not averaged: {', '.join(notes)}."]
    return "\n".join(lines) + "\n"


def _of(results: Sequence[SourceResult], condition: str) -> list[SourceResult]:
    names = set(condition.split())
    return [result for result in results if names <= {result.corpora, result.genders}]


def title(column: str) -> str:
    """What a column is called in a table: SI-SDR, SI-SDRi, …"""
    return NAMES[column] if column in NAMES else NAMES[column[:-1]] + "i"


def cell(of: Means, column: str, interval: bool = True) -> str:
    """A mean as tables show it, with its interval behind it."""
    value = getattr(of, column)
    if value is None:
        return "–"
    text = f"{value:.2f}"
    if interval and column in of.intervals:
        low, high = of.intervals[column]
        text += f" [{low:.2f}, {high:.2f}]"
    return text


def means(results: Sequence[SourceResult], metrics: Sequence[str] = METRICS) -> Means:
    """Means of some results, and their intervals: the same in whichever order they come."""
    scored = [result for result in results if not math.isnan(result.si_sdr)]
    silent = sum(result.silent for result in results)

    def mean(metric: str) -> float | None:
        # fsum: the same in any order, so the lists of a condition may be permuted
        values = [value for result in scored if not math.isnan(value := getattr(result, metric))]
        return round(math.fsum(values) / len(values), 4) + 0.0 if values else None

    return Means(
        mixtures=len({result.id for result in results}),
        sources=len(scored),
        silent=silent,
        unmatched=len(results) - len(scored) - silent,
        intervals=_intervals(scored, metrics),
        **{metric: mean(metric) for metric in {*METRICS, *metrics}},
    )


def _intervals(
    scored: Sequence[SourceResult], metrics: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap over mixtures, whose sources stand or fall together.

    Source: Efron 1979; seeded, so that the same scores give the same intervals.
    """
    ids = sorted({result.id for result in scored})
    if len(ids) < 2:
        return {}
    number = {identity: index for index, identity in enumerate(ids)}
    sums = np.zeros((len(ids), len(metrics)))  # over the sources of a mixture
    counts = np.zeros_like(sums)
    for result in sorted(scored, key=lambda result: (result.id, result.source)):
        values = np.array([getattr(result, metric) for metric in metrics])
        sums[number[result.id]] += np.nan_to_num(values)
        counts[number[result.id]] += ~np.isnan(values)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), RESAMPLINGS)  # (B, M)
    with np.errstate(invalid="ignore"):  # a draw of nothing but mixtures without this metric
        resampled = (draws @ sums) / (draws @ counts)  # (B, metrics)
    found = {}
    for metric, column, measured in zip(metrics, resampled.T, counts.T, strict=True):
        if (measured > 0).sum() > 1:
            low, high = np.nanpercentile(column, [2.5, 97.5]).round(4) + 0.0
            found[metric] = (float(low), float(high))
    return found
