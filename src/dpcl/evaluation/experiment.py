"""Run an experiment: lists, scores, examples and the report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dpcl.errors import InputError, need_package
from dpcl.evaluation.cache import ScoreStore, Work, score_all, spread, unknown_rows
from dpcl.evaluation.conditions import conditions_markdown, conditions_report, score_conditions
from dpcl.evaluation.descriptions import (
    Experiment,
    System,
    derive_lists,
    find_list,
    read_conditions,
)
from dpcl.evaluation.evaluate import write_files, write_results
from dpcl.evaluation.examples import render_estimate, render_reference
from dpcl.evaluation.meetings import (
    meetings_markdown,
    meetings_report,
    score_meetings,
)
from dpcl.evaluation.metrics import check_measures
from dpcl.evaluation.report import (
    Example,
    Group,
    group_by,
    make_table,
    report_files,
    table_markdown,
)
from dpcl.evaluation.summary import METRICS, SourceResult, improvements, summarise
from dpcl.evaluation.voices import score_voices, voices_markdown
from dpcl.io import Progress, Report, no_report, refuse_existing
from dpcl.mixtures.conversation import read_talkers
from dpcl.mixtures.corpus import read_corpus
from dpcl.mixtures.render import check_files
from dpcl.mixtures.rows import MixtureRow
from dpcl.separators.registry import find_method

EXAMPLES = 2  # mixtures of a list that are shown


@dataclass(frozen=True)
class Places:
    """Folders of an experiment.

    Attributes:
        corpus: the corpus.
        out: reports and scores.
        lists: frozen lists.
        weights: runs of the systems that recipes train.
        recipes: recipes of these systems.
        cache: scores and examples of earlier runs.
    """

    corpus: Path
    out: Path
    lists: Path
    weights: Path
    recipes: Path
    cache: Path


@dataclass(frozen=True)
class Done:
    """Outcome of an experiment.

    Attributes:
        outputs: files of the report.
        markdown: tables of the report.
        notes: missing systems and mixtures, with the reasons.
    """

    outputs: tuple[Path, ...]
    markdown: str
    notes: tuple[str, ...]


def run_experiment(
    experiment: Experiment,
    places: Places,
    named: dict[str, str | None],
    limit: int | None = None,
    metrics: tuple[str, ...] = (),
    workers: int = 0,
    force: bool = False,
    report: Report = no_report,
) -> Done:
    """Score the systems of an experiment on its lists, and write the report.

    Writes out/report.{md,csv,html} and out/LIST-SYSTEM/{results.csv,summary.json} at the end. A
    system without weights appears in the table as not trained. A mixture is omitted for every
    system if one system needs other speech of a talker and the corpus has none. After an error the
    scores so far stay in the cache.

    Args:
        experiment: description of the experiment.
        places: folders of corpus, outputs, lists, weights, recipes and cache.
        named: separator of each system; None for a system without weights.
        limit: number of mixtures of a list, from the first on; None for all.
        metrics: metrics besides those of the experiment.
        workers: number of processes; 0 for one per core.
        force: replace an earlier report.
        report: called after each mixture.

    Returns:
        Files, tables and notes.

    Raises:
        InputError: The report exists, a file is missing, the corpus has too few talkers, or a
            mixture cannot be scored.
    """
    if experiment.conversations:
        return _run_meetings(experiment, places, named, limit, metrics, workers, force, report)
    if experiment.stretches:
        return _run_voices(experiment, places, metrics, force, report)
    if experiment.conditions is not None:
        return _run_conditions(experiment, places, named, limit, metrics, workers, force, report)
    metrics = tuple(dict.fromkeys((*experiment.metrics, *metrics)))
    for name in ("report.md", "report.csv", "report.html"):
        refuse_existing(places.out / name, force)
    need_package("show", "the report has pictures, which need", "matplotlib")
    workers = workers or _cores()
    names = [name for name in named.values() if name is not None]
    if not names:
        raise InputError(
            f"no system of {experiment.name} has weights below {places.weights}; add --train, or"
            " give their folder as --weights"
        )
    for name in names:
        check_measures(metrics, find_method(name).sample_rate)
    lists = {
        name: find_list(name, places.corpus, places.lists, places.out / "lists")
        for name in experiment.lists
    }
    chosen: dict[str, list[MixtureRow]] = {}
    notes: dict[str, list[str]] = {}
    for name, rows in lists.items():
        check_files(rows[:limit] if limit else rows, places.corpus)
        unknown = unknown_rows(names, rows, places.corpus)
        chosen[name] = [row for row in rows if row.id not in unknown][:limit]
        if not chosen[name]:
            raise InputError(
                f"list {name}: the corpus lacks other speech of a talker in every mixture; give"
                " another --corpus, or omit systems with --systems"
            )
        notes[name] = _notes(experiment, places, named, len(unknown), rows, chosen[name])
    store = ScoreStore(places.cache, places.corpus, metrics)
    work: list[Work] = [(name, row) for rows in chosen.values() for name in names for row in rows]
    titles = {name: system for system, name in named.items()}
    scores = score_all(
        work, store, workers, lambda progress: report(replace(progress, note=titles[progress.note]))
    )
    genders = _genders(places.corpus)
    tables, examples = [], []
    for list_name, rows in chosen.items():
        group = group_by(experiment.by, rows, genders)
        lines: list[tuple[System, list[SourceResult] | None]] = []
        for system in experiment.systems:
            separator = named[system.name]
            if separator is None:
                lines.append((system, None))
            else:
                found = [score for row in rows for score in scores[separator, row.id]]
                lines.append((system, found))
                rate = find_method(separator).sample_rate
                columns = METRICS + improvements(metrics)
                folder = places.out / f"{list_name}-{system.name.replace(':', '-')}"
                write_results(
                    folder, found, summarise(found, list_name, system.name, rate, columns)
                )
        tables.append(make_table(list_name, lines, group, metrics, notes[list_name]))
        shown = _shown(rows, group_by("gender", rows, genders), lines)
        examples += _examples(experiment, places, list_name, shown, named, workers)
    command = f"dpcl experiment {experiment.name} --corpus CORPUS --out FOLDER"
    files = report_files(experiment, tables, examples, command)
    write_files(places.out, files)
    return Done(
        tuple(places.out / name for name in files),
        "\n".join(f"**{table.list}**\n\n{table_markdown(table)}" for table in tables),
        tuple(dict.fromkeys(note for of in notes.values() for note in of)),
    )


def _run_conditions(
    experiment: Experiment,
    places: Places,
    named: dict[str, str | None],
    limit: int | None,
    metrics: tuple[str, ...],
    workers: int,
    force: bool,
    report: Report,
) -> Done:
    """Score all systems that have weights under all conditions (dpcl.evaluation.conditions)."""
    if metrics:
        raise InputError(
            f"--metrics: experiment {experiment.name} has SI-SDR only; omit the option"
        )
    for name in ("report.md", "report.csv"):
        refuse_existing(places.out / name, force)
    settings = read_conditions(places.lists / f"{experiment.conditions}.yaml")
    lists = derive_lists(settings, places.lists, limit)
    for rows in lists.values():
        check_files(rows, places.corpus)
    there = {name: separator for name, separator in named.items() if separator is not None}
    results = score_conditions(
        there, settings, lists, places.corpus, places.cache, workers or _cores(), report
    )
    files = conditions_report(experiment, results)
    return _written(files, places.out, conditions_markdown(experiment, results), named)


def _refuse_metrics(experiment: Experiment, metrics: tuple[str, ...]) -> None:
    """Raise InputError for metrics besides those of the experiment."""
    if metrics:
        raise InputError(
            f"--metrics: experiment {experiment.name} has metrics of its own; omit the option"
        )


def _run_meetings(
    experiment: Experiment,
    places: Places,
    named: dict[str, str | None],
    limit: int | None,
    metrics: tuple[str, ...],
    workers: int,
    force: bool,
    report: Report,
) -> Done:
    """Score all systems that have weights on conversations (dpcl.evaluation.meetings)."""
    _refuse_metrics(experiment, metrics)
    for name in ("report.md", "report.csv"):
        refuse_existing(places.out / name, force)
    there = {name: separator for name, separator in named.items() if separator is not None}
    results = score_meetings(experiment, there, places.corpus, limit, workers or _cores(), report)
    files = meetings_report(experiment, results)
    return _written(files, places.out, meetings_markdown(experiment, results), named)


def _run_voices(
    experiment: Experiment,
    places: Places,
    metrics: tuple[str, ...],
    force: bool,
    report: Report,
) -> Done:
    """Score the voice encoder on stretches of speech (dpcl.evaluation.voices)."""
    _refuse_metrics(experiment, metrics)
    refuse_existing(places.out / "report.md", force)
    corpus = read_talkers(str(places.corpus), experiment.split, experiment.only)
    scores = []
    for number, seconds in enumerate(experiment.stretches, 1):
        scores += score_voices(corpus, seconds)
        report(Progress(number, len(experiment.stretches), "lengths"))
    table = voices_markdown(scores)
    head = f"# {experiment.title}\n\n{experiment.about.strip()}\n\n"
    return _written({"report.md": head + table}, places.out, table, {})


def _written(files: dict[str, str], out: Path, table: str, named: dict[str, str | None]) -> Done:
    """Write the files of a report; a note names each system without weights."""
    write_files(out, files)
    missing = [name for name, separator in named.items() if separator is None]
    notes = tuple(f"{name} is not trained; add --train" for name in missing)
    return Done(tuple(out / name for name in files), table, notes)


def _cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _notes(
    experiment: Experiment,
    places: Places,
    named: dict[str, str | None],
    unknown: int,
    rows: Sequence[MixtureRow],
    chosen: Sequence[MixtureRow],
) -> list[str]:
    """Return the notes of a table: omitted mixtures, and systems that are not trained."""
    notes = []
    if unknown:
        notes.append(
            f"{unknown} of the {len(rows)} mixtures of {rows[0].list} are omitted for all systems:"
            " the corpus has no other speech of a talker, which a speaker-dependent system needs."
        )
    if len(chosen) < len(rows) - unknown:
        notes.append(f"Only the first {len(chosen)} mixtures of {rows[0].list} were scored.")
    for system in experiment.systems:
        if named[system.name] is None:
            row = "" if system.row is None else f" --row {system.row}"
            changes = "".join(f" --set {key}={value}" for key, value in system.changes.items())
            notes.append(
                f"{system.name} is not trained: `dpcl train {system.recipe}{row} --corpus"
                f" {places.corpus} --run {places.weights / system.folder}{changes}`, or --train."
            )
    return notes


def _genders(corpus: Path) -> dict[str, str]:
    """Return the gender of each recording by its path below the corpus; empty without an index."""
    try:
        found = read_corpus(corpus)
    except InputError:
        return {}
    return {u.path.relative_to(found.root).as_posix(): u.gender for u in found.utterances}


def _shown(
    rows: Sequence[MixtureRow],
    group: Group,
    lines: Sequence[tuple[System, list[SourceResult] | None]],
) -> list[tuple[str, MixtureRow]]:
    """Return the first mixture of each of the first groups of genders."""
    results = next(found for _, found in lines if found is not None)
    by_id = {row.id: row for row in rows}
    first: dict[str, MixtureRow] = {}
    for result in results:
        first.setdefault(group(result), by_id[result.id])
    return list(first.items())[:EXAMPLES]


def _examples(
    experiment: Experiment,
    places: Places,
    list_name: str,
    shown: Sequence[tuple[str, MixtureRow]],
    named: dict[str, str | None],
    workers: int,
) -> list[Example]:
    """Render the mixtures that are shown, with the estimates of every system."""
    folder, root = str(places.cache / "examples"), str(places.corpus)
    systems = [(s.title or s.name, name) for s in experiment.systems if (name := named[s.name])]
    pieces = [(name, row, root, folder) for _, row in shown for _, name in systems]
    made = {
        (piece[0], piece[1].id): path for piece, path in spread(render_estimate, pieces, workers)
    }
    return [
        Example(
            list_name,
            f"{row.id}: {group}",
            render_reference(row, root, folder),
            [(title, made[name, row.id]) for title, name in systems],
        )
        for group, row in shown
    ]
