"""Scores of separators under many conditions, each paired with the same talkers without it."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.evaluation.cache import known_method, row_key, separator_key, spread
from dpcl.evaluation.descriptions import Condition, ConditionLists, Experiment
from dpcl.evaluation.metrics import score
from dpcl.evaluation.summary import bootstrap_interval
from dpcl.io import Progress, Report, no_report
from dpcl.mixtures.render import render_mixture
from dpcl.mixtures.rows import MixtureRow
from dpcl.recordings.separate import separate_recording
from dpcl.separators.base import Context
from dpcl.separators.registry import find_method

# Ways to set the number of sources: given, estimated, or one more for the background.
Way = Literal["given", "estimated", "more"]


@dataclass(frozen=True)
class Score:
    """Score of a separator on one mixture.

    Attributes:
        si_sdri: mean over the sources with an estimate, dB; NaN if the mixture is the reference.
        sources: number of sources of the separation.
    """

    si_sdri: float
    sources: int


@dataclass(frozen=True)
class Interval:
    """Mean over mixtures and its 95 % interval (bootstrap over mixtures)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """Scores of a system under one condition; SI-SDRi in dB, None without any score.

    Attributes:
        system: name of the system.
        condition: name of the condition.
        title: name of the condition in the table.
        mixtures: number of mixtures.
        given: SI-SDRi with the number of sources given.
        difference: `given` minus the value of the plain condition of the same list; None for that
            condition.
        estimated: SI-SDRi with the number of sources estimated.
        right: number of mixtures with the right number of sources.
        more: SI-SDRi with one source more than there are talkers, for the background.
    """

    system: str
    condition: str
    title: str
    mixtures: int
    given: Interval | None
    difference: Interval | None
    estimated: Interval | None
    right: int | None
    more: Interval | None


def score_conditions(
    named: Mapping[str, str],
    settings: ConditionLists,
    lists: Mapping[str, Sequence[MixtureRow]],
    root: Path,
    cache: Path,
    workers: int = 1,
    report: Report = no_report,
) -> list[Result]:
    """Score every system under every condition.

    Args:
        named: separator by system, as `dpcl evaluate --separator` names it.
        settings: the conditions.
        lists: mixtures by condition, from `derive_lists`.
        root: folder of the corpus.
        cache: folder of the scores.
        workers: number of processes.
        report: called after each score.

    Returns:
        One result per system and condition.

    Raises:
        InputError: A mixture cannot be rendered, or a separator refuses it.
    """
    work = [
        (name, condition, row, way)
        for name, separator in named.items()
        for condition in settings.conditions
        for row in lists[condition.name]
        for way in _ways(separator, condition)
    ]
    stores = {name: _Store(cache, separator) for name, separator in named.items()}
    found: dict[tuple[str, str, str, Way], Score] = {}
    missing: list[tuple[Any, ...]] = []
    for name, condition, row, way in work:
        key = row_key(row, root, way)
        known = stores[name].known.get(key)
        if known is None:
            missing.append((named[name], row, str(root), way, name, condition.name, key))
        else:
            found[name, condition.name, row.id, way] = known
    for piece, outcome in spread(_score, missing, workers):
        _, row, _, way, name, condition_name, key = piece
        stores[name].put(key, outcome)
        found[name, condition_name, row.id, way] = outcome
        report(Progress(len(found), len(work), "scores", name))
    return [
        _result(name, condition, plain_condition(settings, condition), lists[condition.name], found)
        for name in named
        for condition in settings.conditions
    ]


def _ways(separator: str, condition: Condition) -> list[Way]:
    """Return the ways in which a separator is scored under a condition."""
    if find_method(separator).needs != "mixture":
        return ["given"]
    return ["given", "estimated", *(["more"] if condition.noise else [])]  # type: ignore[list-item]


def plain_condition(settings: ConditionLists, condition: Condition) -> str | None:
    """Return the condition to compare with: one microphone, or plain; None for a plain one."""
    if condition.microphones > 1:
        alone = condition.model_copy(update={"microphones": 1})
        names = {"name", "title"}
        others = [
            other.name
            for other in settings.conditions
            if other.model_dump(exclude=names) == alone.model_dump(exclude=names)
        ]
        return others[0] if others else None
    if condition.plain:
        return None
    same = [c.name for c in settings.conditions if c.plain and c.base == condition.base]
    return same[0] if same else None


def _score(
    name: str, row: MixtureRow, root: str, way: Way, system: str, condition: str, key: str
) -> Score:
    """Separate and score one mixture; `system` and `key` pass through."""
    method, talkers = known_method(name, root)
    rendered = render_mixture(row, root, method.sample_rate)
    mixture, references = (torch.as_tensor(x, dtype=torch.float32) for x in rendered)
    models = talkers.models(row) if talkers else ()
    separator = method.build(Context(mixture, references, models))
    number = {"given": len(references), "estimated": None, "more": len(references) + 1}[way]
    separation = separate_recording(mixture, method.sample_rate, separator, number, threads=1)
    estimates = separation.sources.cpu()
    try:
        values = score_channels(estimates, references, mixture)
    except InputError as error:
        raise InputError(f"{condition}, mixture {row.id}: {error}") from error
    if len(references) == 1 and not row.has_background:  # the mixture is the reference
        values = torch.full_like(values, math.nan)
    there = values[~values.isnan()]
    return Score(float(there.mean()) if len(there) else math.nan, len(estimates))


def score_channels(estimates: Tensor, references: Tensor, mixture: Tensor) -> Tensor:
    """Return SI-SDRi of the sources (C,), or of the images at each microphone (M * C,)."""
    if mixture.ndim == 1:
        return score(estimates, references, mixture).si_sdri
    return torch.cat(
        [score(estimates[:, m], references[:, m], mixture[m]).si_sdri for m in range(len(mixture))]
    )


class _Store:
    """Scores of one separator: a file with one line per mixture and way."""

    def __init__(self, folder: Path, separator: str) -> None:
        word = separator_key(separator)
        self._path = folder / f"conditions-{word}.jsonl"
        self.known: dict[str, Score] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); give another --cache"
            ) from error
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                value = entry["si_sdri"]
                score = Score(math.nan if value is None else value, entry["sources"])
                self.known[entry["key"]] = score
            except (ValueError, KeyError, TypeError):  # an incomplete line
                continue
        self._whole = not text or text.endswith("\n")

    def put(self, key: str, score: Score) -> None:
        value = None if math.isnan(score.si_sdri) else score.si_sdri
        line = json.dumps({"key": key, "si_sdri": value, "sources": score.sources})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{'' if self._whole else os.linesep}{line}\n")
        self._whole = True
        self.known[key] = score


def _result(
    name: str,
    condition: Condition,
    plain: str | None,
    rows: Sequence[MixtureRow],
    found: Mapping[tuple[str, str, str, Way], Score],
) -> Result:
    def values(way: Way, of: str) -> list[float]:
        scores = [found.get((name, of, row.id, way)) for row in rows]
        return [math.nan if score is None else score.si_sdri for score in scores]

    given = values("given", condition.name)
    paired = None
    if plain is not None:
        others = values("given", plain)
        paired = interval([a - b for a, b in zip(given, others, strict=True)])
    counted = [
        (score.sources, len(row.sources))
        for row in rows
        if (score := found.get((name, condition.name, row.id, "estimated"))) is not None
    ]
    return Result(
        system=name,
        condition=condition.name,
        title=condition.title or condition.name,
        mixtures=len(rows),
        given=interval(given),
        difference=paired,
        estimated=interval(values("estimated", condition.name)),
        right=sum(a == b for a, b in counted) if counted else None,
        more=interval(values("more", condition.name)),
    )


def interval(values: Sequence[float]) -> Interval | None:
    """Return mean and bootstrap interval of the values without NaN; None if all are NaN."""
    numbers = [value for value in values if not math.isnan(value)]
    if not numbers:
        return None
    mean = round(math.fsum(numbers) / len(numbers), 4) + 0.0
    if len(numbers) == 1:
        return Interval(mean, mean, mean)
    return Interval(mean, *bootstrap_interval([[number] for number in numbers]))


def conditions_markdown(experiment: Experiment, results: Sequence[Result]) -> str:
    """Return a table for each system, ending in a newline."""
    titles = {system.name: system.title or system.name for system in experiment.systems}
    tables = []
    for name in dict.fromkeys(result.system for result in results):
        lines = [
            f"**{titles[name]}**",
            "",
            "| condition | SI-SDRi, number given | difference to plain | number estimated |"
            " number right | one source more |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for r in results:
            if r.system == name:
                right = "–" if r.right is None else f"{r.right} of {r.mixtures}"
                cells = [_cell(r.given), _cell(r.difference), _cell(r.estimated), right]
                lines.append(f"| {' | '.join([r.title, *cells, _cell(r.more)])} |")
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def _cell(value: Interval | None) -> str:
    if value is None:
        return "–"
    return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]".replace("-", "−")


def conditions_report(experiment: Experiment, results: Sequence[Result]) -> dict[str, str]:
    """Return the files of the report, by name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["system", "condition", "mixtures", "right", "measure", "mean", "low", "high"])
    for result in results:
        document = asdict(result)
        for measure in ("given", "difference", "estimated", "more"):
            value = document[measure]
            if value is not None:
                right = "" if result.right is None else result.right
                writer.writerow(
                    [result.system, result.condition, result.mixtures, right, measure]
                    + [value[key] for key in ("mean", "low", "high")]
                )
    head = f"# {experiment.title}\n\n{experiment.about.strip()}\n\n"
    head += "SI-SDRi in dB, mean over mixtures with 95 % intervals (bootstrap over mixtures).\n\n"
    return {
        "report.md": head + conditions_markdown(experiment, results),
        "report.csv": text.getvalue(),
    }
