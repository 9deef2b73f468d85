"""Score a separator on a mixture list: results.csv and summary.json."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.evaluation.metrics import MEASURES, check_measures, perceive, score
from dpcl.evaluation.summary import METRICS, SourceResult, Summary, improvements, summarise
from dpcl.evaluation.talkers import KnownTalkers
from dpcl.io import Progress, Report, atomic, no_report
from dpcl.mixtures.lists import MixtureRow, check_files, render_mixture
from dpcl.separators.oracle import ORACLE_SAMPLE_RATE
from dpcl.separators.separation import OracleSeparator, Separation, Separator
from dpcl.separators.speaker_dependent import SpeakerDependent


def evaluate(
    rows: Sequence[MixtureRow],
    corpus_root: str | os.PathLike[str],
    separator: Separator | OracleSeparator | SpeakerDependent,
    out_dir: str | os.PathLike[str],
    *,
    name: str,
    limit: int | None = None,
    oracle: bool = False,
    report: Report = no_report,
    metrics: tuple[str, ...] = (),
) -> Summary:
    """Separate and score every mixture of a list (the first `limit`), told how many sources it has.

    name: of the separator, for the summary. oracle: the separator is shown the references. One that
    is speaker-dependent is told who speaks, and learns from his other speech in the corpus.
    report: called after each mixture. metrics: any of pesq and stoi, besides
    SI-SDR and SDR. Writes out_dir/results.csv, a row per
    mixture and source in dB, and out_dir/summary.json, over older ones, and only when all is done:
    a run that was killed leaves neither. The same separations give the same files, byte by byte.
    Raises InputError for an empty list, before any work for files that are missing and talkers
    that cannot be learned, for what render_mixture finds wrong, and, naming the mixture, for
    estimates that cannot be scored.
    """
    out_dir = Path(out_dir)
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} leaves no mixture to evaluate; give 1 or more")
    rows = rows[:limit]
    if not rows:
        raise InputError("the list holds no mixtures to evaluate; draw some with `dpcl mix`")
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"{out_dir} is a file; give a folder for results.csv and summary.json")
    check_files(rows, corpus_root)
    talkers = None
    if isinstance(separator, SpeakerDependent):
        if any(row.mixture for row in rows):
            raise InputError(
                f"{name} learns the talkers from a corpus, which mixtures rendered before do not"
                " name; evaluate a list of a corpus"
            )
        talkers = KnownTalkers(separator, rows, corpus_root)
    rate = sample_rate(separator)
    check_measures(metrics, rate)
    results: list[SourceResult] = []
    for done, row in enumerate(rows, 1):
        known = talkers.separator(row) if talkers else separator
        results += score_mixture(
            row, corpus_root, cast(Separator | OracleSeparator, known), oracle, metrics
        )
        report(Progress(done, len(rows), "mixtures"))
    summary = summarise(results, rows[0].list, name, rate, METRICS + improvements(metrics))
    write_results(out_dir, results, summary)
    return summary


def sample_rate(separator: Separator | OracleSeparator | SpeakerDependent) -> int:
    """In Hz; most oracles have none of their own, and all hear one."""
    return getattr(separator, "sample_rate", ORACLE_SAMPLE_RATE)


def separate_row(
    row: MixtureRow,
    corpus_root: str | os.PathLike[str],
    separator: Separator | OracleSeparator,
    oracle: bool,
) -> tuple[Separation, Tensor, Tensor]:
    """What a separator makes of a mixture; the references (C, T), and the mixture (T,) itself."""
    rendered = render_mixture(row, corpus_root, sample_rate(separator))
    mixture, references = map(torch.from_numpy, rendered)
    with torch.inference_mode():
        if oracle:
            separation = cast(OracleSeparator, separator)(mixture, references)
        else:
            separation = cast(Separator, separator)(mixture, len(references))
    return separation, references, mixture


def score_mixture(
    row: MixtureRow,
    corpus_root: str | os.PathLike[str],
    separator: Separator | OracleSeparator,
    oracle: bool = False,
    metrics: tuple[str, ...] = (),
) -> list[SourceResult]:
    """Separate a mixture, told how many sources it has, and score each; see `evaluate`."""
    separation, references, mixture = separate_row(row, corpus_root, separator, oracle)
    estimates = separation.sources.cpu()
    try:
        scores = score(estimates, references, mixture)
    except InputError as error:
        raise InputError(f"mixture {row.id} of list {row.list}: {error}") from error
    columns = {metric: getattr(scores, metric) for metric in METRICS}
    for metric in metrics:
        matched = estimates[scores.estimate.clamp(min=0)] if len(estimates) else 0 * references
        of = (metric, matched, references, sample_rate(separator))
        ours = torch.where(scores.estimate >= 0, perceive(*of), torch.nan)
        unprocessed = perceive(metric, mixture.expand_as(references), *of[2:])
        columns |= {metric: ours, f"{metric}i": ours - unprocessed}
    return [
        SourceResult(
            id=row.id,
            corpora=row.corpora,
            genders=row.genders,
            source=index + 1,
            speaker=source.speaker,
            silent=bool(scores.silent[index]),
            kind=row.kind,
            group=source.group,
            **{name: values[index].item() for name, values in columns.items()},
        )
        for index, source in enumerate(row.sources)
    ]


def write_results(out_dir: Path, results: Sequence[SourceResult], summary: Summary) -> None:
    """Write out_dir/results.csv and out_dir/summary.json, both or neither."""
    document = json.dumps(summary_document(summary), indent=2, ensure_ascii=False, allow_nan=False)
    write_files(
        out_dir, {"results.csv": _csv(results, summary.metrics), "summary.json": document + "\n"}
    )


def summary_document(summary: Summary) -> dict[str, Any]:
    """What summary.json holds: of the metrics those that were measured."""
    document = asdict(summary)
    missing = set(improvements(MEASURES)) - set(summary.metrics)
    for means in (document["overall"], *document["conditions"].values()):
        for metric in missing:
            del means[metric]
    return document


def _csv(results: Sequence[SourceResult], metrics: Sequence[str]) -> str:
    text = io.StringIO()
    identity = ("id", "corpora", "genders", "source", "speaker")
    kinds = ("kind", "group") if any(result.kind for result in results) else ()
    more = [metric for metric in metrics if metric not in METRICS]
    columns = [*identity, *METRICS, "silent", *kinds, *more]
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for result in results:
        line = asdict(result)
        for metric in metrics:  # + 0.0: no negative zeros
            line[metric] = "" if math.isnan(line[metric]) else f"{round(line[metric], 4) + 0.0:.4f}"
        writer.writerow({**line, "silent": int(result.silent)})
    return text.getvalue()


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write all files under temporary names first, then rename them all at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for name, text in files.items():
                partial = stack.enter_context(atomic(folder / name))
                partial.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}); choose another"
        ) from error
