"""Scores on conversations and meetings: outputs of the talkers, timelines (DER, JER), SI-SDRi."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.evaluation.cache import spread
from dpcl.evaluation.descriptions import Conversations, Experiment
from dpcl.evaluation.diarisation import (
    read_meetings,
    reference_timeline,
    sample_levels,
    score_alone,
    score_timeline,
)
from dpcl.evaluation.metrics import best_permutation, si_sdr
from dpcl.io import Progress, Report, no_report
from dpcl.mixtures.conversation import in_room, read_talkers, take_turns
from dpcl.mixtures.corpus import Corpus
from dpcl.recordings.recording import InMemory, Recording
from dpcl.recordings.separate import RecordingSeparation
from dpcl.recordings.timeline import read_timelines
from dpcl.separators.base import Context, Timeline
from dpcl.separators.registry import find_method
from dpcl.signal.audio import resample
from dpcl.signal.reader import AudioReader

Way = Literal["given", "estimated"]  # the number of talkers
RECORDED = "recordings"  # name of the set of recordings with RTTM
MOST = 10  # upper limit of the estimated number


@dataclass(frozen=True)
class MeetingScore:
    """Scores of one recording.

    Attributes:
        name: name of the recording.
        seconds: length in s.
        talkers: number of talkers.
        found: number of outputs.
        alone: time with one talker in s.
        wrong: time with one talker that is at the wrong output, s.
        leak_db: power of the other outputs, relative to the talker's own.
        changes: number of times that a talker moves to another output.
        total: talker time of the reference, s.
        missed: s.
        false_alarm: s.
        confusion: s.
        jer: Jaccard error rate.
        si_sdri: dB, mean over the talkers; NaN without references or with too few outputs.
    """

    name: str
    seconds: float
    talkers: int
    found: int
    alone: float
    wrong: float
    leak_db: float
    changes: int
    total: float
    missed: float
    false_alarm: float
    confusion: float
    jer: float
    si_sdri: float


@dataclass(frozen=True)
class Totals:
    """Scores of a system on a set of recordings."""

    system: str
    set: str
    title: str
    way: Way
    recordings: int
    right: int  # number of recordings with the right number of outputs
    wrong: float  # share of the time with one talker
    der: float
    jer: float
    si_sdri: float  # dB
    changes: float  # per hour
    leak_db: float


def totals(system: str, name: str, title: str, way: Way, scores: Sequence[MeetingScore]) -> Totals:
    """Sum up the scores of a set: rates over all time, JER, SI-SDRi and leakage as means."""

    def summed(key: str) -> float:
        return math.fsum(getattr(x, key) for x in scores)

    def mean(key: str) -> float:
        values = [getattr(x, key) for x in scores]
        values = [value for value in values if not math.isnan(value)]
        return math.fsum(values) / len(values) if values else math.nan

    alone, total, hours = summed("alone"), summed("total"), summed("seconds") / 3600
    errors = summed("missed") + summed("false_alarm") + summed("confusion")
    return Totals(
        system,
        name,
        title,
        way,
        len(scores),
        sum(x.talkers == x.found for x in scores),
        summed("wrong") / alone if alone else math.nan,
        errors / total if total else math.nan,
        mean("jer"),
        mean("si_sdri"),
        summed("changes") / hours if hours else math.nan,
        mean("leak_db"),
    )


def score_recording(
    path: Path, timeline: Timeline, separator: str, way: Way, threads: int | None = None
) -> MeetingScore:
    """Separate a recording with a known timeline, and score it."""
    method = find_method(separator)
    built = method.build(Context(timeline=timeline))
    with AudioReader(path) as reader:
        number = len(timeline.talkers) if way == "given" else None
        return _separated(path.stem, reader, timeline, built, number, threads)


def score_conversation(
    kind: Conversations, corpus: Corpus, seed: int, separator: str, way: Way
) -> MeetingScore:
    """Render one conversation, separate and score it."""
    method = find_method(separator)
    rate = kind.sample_rate
    names, sources = take_turns(corpus, kind.talkers, kind.minutes, seed, rate)
    noise = torch.zeros(sources.shape[1])
    if kind.rt60 is not None:
        sources, noise = in_room(sources, seed, rate, kind.rt60, kind.snr_db)
    seconds = sources.shape[1] / rate
    reference = reference_timeline(sample_levels(sources, rate), tuple(names), seconds)
    mixture = sources.sum(0) + noise
    own, parts = (
        torch.from_numpy(resample(x.numpy(), rate, method.sample_rate)) for x in (mixture, sources)
    )
    built = method.build(Context(own, parts, timeline=reference))
    number = kind.talkers if way == "given" else None
    recording = InMemory(mixture[None].numpy(), rate)
    name = f"{kind.name}-{seed}"
    return _separated(name, recording, reference, built, number, 1, mixture, sources)


def _separated(
    name: str,
    recording: Recording,
    reference: Timeline,
    separator: Any,
    number: int | None,
    threads: int | None,
    mixture: Tensor | None = None,
    references: Tensor | None = None,
) -> MeetingScore:
    """Separate a recording and score it; references (C, T) are needed for SI-SDRi only."""
    kept: list[Tensor] = []
    with RecordingSeparation(
        recording, separator, number, MOST, threads=threads, timeline=True
    ) as separation:
        for piece in separation.pieces():
            if references is not None:
                kept.append(piece.sources[:, 0])
        levels, estimate = separation.levels(), separation.timeline()
        seconds = separation.scan.samples / recording.sample_rate
    alone = score_alone(reference, levels)
    errors = score_timeline(reference, estimate)
    improvement = math.nan
    if references is not None and mixture is not None and len(levels) >= len(references):
        estimates = torch.cat(kept, -1)
        match = best_permutation(estimates, references)
        gains = [
            float(si_sdr(estimates[own], reference) - si_sdr(mixture, reference))
            for own, reference in zip(match.tolist(), references, strict=True)
            if own >= 0
        ]
        improvement = math.fsum(gains) / len(gains) if gains else math.nan
    return MeetingScore(
        name,
        seconds,
        len(reference.talkers),
        len(levels),
        alone.seconds,
        alone.wrong,
        alone.leak_db,
        alone.changes,
        errors.total,
        errors.missed,
        errors.false_alarm,
        errors.confusion,
        errors.jer,
        improvement,
    )


def score_meetings(
    experiment: Experiment,
    named: Mapping[str, str],
    corpus: Path,
    limit: int | None = None,
    workers: int = 1,
    report: Report = no_report,
) -> list[Totals]:
    """Score systems on conversations rendered from a corpus, or on the recordings of a folder.

    Args:
        experiment: its conversations.
        named: separator of each system.
        corpus: corpus, or folder with recordings and RTTM files.
        limit: number of recordings of a set; None for all.
        workers: number of processes.
        report: called after each recording.

    Returns:
        Totals of every system, set and way to set the number of talkers.

    Raises:
        InputError: The corpus cannot be read or has too few talkers, or `read_meetings` refuses the
            folder.
    """
    recorded = corpus.is_dir() and any(corpus.glob("*.rttm"))
    ways: tuple[Way, ...] = ("given", "estimated")
    titles: dict[str, str] = {}
    items: list[tuple[Any, ...]] = []  # set, and the arguments of `_score`
    if recorded:
        titles[RECORDED] = f"recordings of {corpus.name}"
        items = [(RECORDED, path, truth) for path, truth in read_meetings(corpus, limit).items()]
    else:
        for kind in experiment.conversations:
            titles[kind.name] = kind.title or kind.name
            numbers = range(min(kind.count, limit or kind.count))
            items += [(kind.name, kind, kind.seed + number) for number in numbers]
        read_talkers(str(corpus), experiment.split, experiment.only)  # complain before any work
    pieces = [
        (str(corpus), experiment.split, experiment.only, separator, way, system, *item)
        for system, separator in named.items()
        for way in ways
        if not (way == "estimated" and find_method(separator).needs != "mixture")
        for item in items
    ]
    found: dict[tuple[str, str, Way], list[MeetingScore]] = {}
    for done, (piece, outcome) in enumerate(spread(_score, pieces, workers), 1):
        _, _, _, _, way, system, name = piece[:7]
        found.setdefault((system, name, way), []).append(outcome)
        report(Progress(done, len(pieces), "recordings", system))
    order = {key: None for key in ((p[5], p[6], p[4]) for p in pieces)}
    return [
        totals(system, name, titles[name], way, sorted(found[system, name, way], key=_name))
        for system, name, way in order
    ]


def _name(score: MeetingScore) -> str:
    """Return the name, by which scores are sorted."""
    return score.name


def _score(
    root: str, split: str, only: tuple[str, ...], separator: str, way: Way, *item: Any
) -> MeetingScore:
    """Score one recording in a process of the pool."""
    _, _, kind, detail = item
    if isinstance(kind, Path):
        return score_recording(kind, detail, separator, way, 1)
    return score_conversation(kind, read_talkers(root, split, only), detail, separator, way)


def meetings_markdown(experiment: Experiment, results: Sequence[Totals]) -> str:
    """Return a table for each set, ending in a newline."""
    titles = {system.name: system.title or system.name for system in experiment.systems}
    tables = []
    for name in dict.fromkeys(result.set for result in results):
        rows = [result for result in results if result.set == name]
        lines = [
            f"**{rows[0].title}** ({rows[0].recordings} recordings)",
            "",
            "| system | number | right | wrong output, % | DER, % | JER, % | SI-SDRi, dB |"
            " changes per hour | leakage, dB |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for r in rows:
            cells = [_cell(100 * x) for x in (r.wrong, r.der, r.jer)]
            cells += [_cell(x) for x in (r.si_sdri, r.changes, r.leak_db)]
            lines.append(
                f"| {titles[r.system]} | {r.way} | {r.right} of {r.recordings} |"
                f" {' | '.join(cells)} |"
            )
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def meetings_report(experiment: Experiment, results: Sequence[Totals]) -> dict[str, str]:
    """Return the files of the report, by name."""
    head = f"# {experiment.title}\n\n{experiment.about.strip()}\n\n"
    return {
        "report.md": head + meetings_markdown(experiment, results),
        "report.csv": _csv([asdict(result) for result in results]),
    }


def evaluate_timelines(
    place: Path,
    separator: str,
    estimates: Path | None = None,
    limit: int | None = None,
    report: Report = no_report,
) -> dict[str, Any]:
    """Score the timelines of recordings with RTTM: of a separator, or of another RTTM file.

    Args:
        place: RTTM file, or folder with recordings and RTTM files.
        separator: its name; the number of talkers is estimated.
        estimates: file with estimated timelines; None to separate.
        limit: number of recordings; None for all.
        report: called after each recording.

    Returns:
        Document with the totals and the scores of every recording.

    Raises:
        InputError: `read_meetings` refuses the place, or the estimates cannot be read or lack a
            recording.
    """
    meetings = read_meetings(place, limit)
    known = None if estimates is None else read_timelines(estimates)
    rows: list[dict[str, Any]] = []
    for path, truth in meetings.items():
        if known is None:
            row = asdict(score_recording(path, truth, separator, "estimated"))
        else:
            name = "_".join(path.stem.split())
            if name not in known:
                raise InputError(f"{estimates}: has no timeline of {name}; add its lines")
            row = {"name": path.stem, "talkers": len(truth.talkers)}
            row |= {"found": len(known[name].talkers)} | asdict(score_timeline(truth, known[name]))
        wrong = row["missed"] + row["false_alarm"] + row["confusion"]
        row["der"] = wrong / row["total"] if row["total"] else math.nan
        rows.append(row)
        report(Progress(len(rows), len(meetings), "recordings"))
    total = math.fsum(row["total"] for row in rows)
    return {
        "recordings": len(rows),
        "right": sum(row["talkers"] == row["found"] for row in rows),
        "der": math.fsum(row["der"] * row["total"] for row in rows) / total if total else None,
        "jer": math.fsum(row["jer"] for row in rows) / len(rows),
        "scores": rows,
    }


def timeline_files(document: Mapping[str, Any]) -> dict[str, str]:
    """Return results.csv and summary.json of `evaluate_timelines`."""
    return {
        "results.csv": _csv(document["scores"]),
        "summary.json": f"{json_document(document)}\n",
    }


def json_document(document: Mapping[str, Any]) -> str:
    """Return a document as JSON, with null for NaN."""

    def clean(value: Any) -> Any:
        """Replace NaN, and round other numbers."""
        if isinstance(value, float):
            return None if math.isnan(value) else round(value, 4)
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items()}
        return [clean(item) for item in value] if isinstance(value, list) else value

    return json.dumps(clean(document), indent=2, ensure_ascii=False)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same columns as CSV, numbers with four decimals."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def _cell(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}".replace("-", "−")
