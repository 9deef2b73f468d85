"""Means of the scores of a whole list, overall and by condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

METRICS = ("si_sdr", "si_sdri", "sdr", "sdri")


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


@dataclass(frozen=True)
class Means:
    """Means over all sources of all mixtures of a condition that have a score."""

    mixtures: int
    sources: int  # with a score: these are averaged
    silent: int  # references without a sound, not averaged
    unmatched: int  # references for which the separator gave no estimate, not averaged
    si_sdr: float | None  # dB; None where no source has a score
    si_sdri: float | None
    sdr: float | None
    sdri: float | None


@dataclass(frozen=True)
class Summary:
    """What summary.json holds."""

    list: str
    separator: str
    sample_rate: int  # Hz
    overall: Means
    conditions: dict[str, Means]  # "within", "across", "same", ..., "within same", ...; or kinds


def summarise(
    results: Sequence[SourceResult], list_name: str, separator: str, sample_rate: int
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
    conditions = {name: _means(found) for name, found in chosen.items() if found}
    return Summary(list_name, separator, sample_rate, _means(results), conditions)


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
    """The summary as a Markdown table, a line per condition, ending in a newline."""
    lines = [
        f"| {summary.list}, {summary.separator} | mixtures | SI-SDR | SI-SDRi | SDR | SDRi |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for condition, means in {"all": summary.overall, **summary.conditions}.items():
        scores = " | ".join(_decibels(getattr(means, metric)) for metric in METRICS)
        lines.append(f"| {condition} | {means.mixtures} | {scores} |")
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


def _means(results: Sequence[SourceResult]) -> Means:
    scored = [result for result in results if not math.isnan(result.si_sdr)]
    silent = sum(result.silent for result in results)

    def mean(metric: str) -> float | None:
        # fsum: the same in any order, so the lists of a condition may be permuted
        values = [getattr(result, metric) for result in scored]
        return round(math.fsum(values) / len(values), 4) + 0.0 if values else None

    return Means(
        mixtures=len({result.id for result in results}),
        sources=len(scored),
        silent=silent,
        unmatched=len(results) - len(scored) - silent,
        si_sdr=mean("si_sdr"),
        si_sdri=mean("si_sdri"),
        sdr=mean("sdr"),
        sdri=mean("sdri"),
    )


def _decibels(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
