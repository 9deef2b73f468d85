"""Scores of timelines against RTTM files: of a separator, or of other RTTM files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpcl.errors import InputError
from dpcl.evaluation.diarisation import score_timeline
from dpcl.evaluation.meetings import read_meetings, score_recording
from dpcl.io import Progress, Report, no_report
from dpcl.recordings.timeline import read_timelines
from dpcl.separators.base import Timeline


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
    rows: list[dict[str, Any]] = []
    score_one: Callable[[Path, Timeline], dict[str, Any]]
    if estimates is not None:
        known = read_timelines(estimates)

        def score_one(path: Path, truth: Timeline) -> dict[str, Any]:
            name = "_".join(path.stem.split())
            if name not in known:
                raise InputError(f"{estimates}: has no timeline of {name}; add its lines")
            errors = score_timeline(truth, known[name])
            found = {"talkers": len(truth.talkers), "found": len(known[name].talkers)}
            return {"name": path.stem, **found, **asdict(errors)}

    else:

        def score_one(path: Path, truth: Timeline) -> dict[str, Any]:
            return asdict(score_recording(path, truth, separator, "estimated"))

    for path, truth in meetings.items():
        rows.append(score_one(path, truth))
        report(Progress(len(rows), len(meetings), "recordings"))
    for row in rows:
        wrong = row["missed"] + row["false_alarm"] + row["confusion"]
        row["der"] = wrong / row["total"] if row["total"] else math.nan
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
    rows = document["scores"]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
    return {"results.csv": text.getvalue(), "summary.json": f"{json_document(document)}\n"}


def json_document(document: Mapping[str, Any]) -> str:
    """Return a document as JSON, with null for what was not measured."""

    def clean(value: Any) -> Any:
        if isinstance(value, float):
            return None if math.isnan(value) else round(value, 4)
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items()}
        return [clean(item) for item in value] if isinstance(value, list) else value

    return json.dumps(clean(document), indent=2, ensure_ascii=False)
