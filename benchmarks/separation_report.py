"""The tables of separation_speed.py: what was measured, the limit, and the goals of the project."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from machine import ratios, spread

if TYPE_CHECKING:
    from network_limit import Limit

Run = dict[str, Any]  # wall, cpu, peak_mib, …, or failed
Rows = list[dict[str, Any]]  # system, seconds, runs

OURS = "dpcl"
LABELS = {
    OURS: "`dpcl separate`",
    "asteroid-dc": "its network in asteroid, k-means of scikit-learn",
    "nussl-dc": "its network in nussl, k-means of scikit-learn",
    "conv-tasnet": "Conv-TasNet (asteroid)",
    "dprnn": "DPRNN, windows of 2 samples (asteroid)",
    "dprnn-16": "DPRNN, windows of 16 samples (asteroid)",
    "sepformer": "SepFormer (speechbrain)",
}


def table(rows: Rows) -> str:
    """Every system on every recording: medians, and ratios to dpcl round by round."""
    lines = [
        "| recording | system | wall, s | × dpcl | processor, s | × dpcl | peak, MiB | × dpcl "
        "| first output, s | SI-SDRi, dB |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    marks: set[str] = set()
    for row in rows:
        runs, mark = row["runs"], ""
        label = f"| {_duration(row['seconds'])} | {LABELS[row['system']]}"
        if "failed" in runs[-1]:
            lines.append(f"{label} | {runs[-1]['failed']} |" + " |" * 7)
            continue
        if "scaled" in runs[0]:
            mark = " ¹"
            marks.add("¹ Measured on 60 s and multiplied.")
        elif runs[0].get("window"):
            mark = " ²"
            marks.add("² In windows of 60 s.")
        reference = _runs(rows, OURS, row["seconds"])
        cells = []
        for key in ("wall", "cpu", "peak_mib"):
            values = [run[key] for run in runs]
            against = ratios(values, [run[key] for run in reference[: len(values)]])
            cells += [spread(values), "1" if row["system"] == OURS else spread(against)]
        first = [run["first"] for run in runs if "first" in run]
        cells.append(spread(first) if first and not mark else "")
        cells.append(f"{runs[0]['si_sdri']:.2f}" if "si_sdri" in runs[0] else "")
        lines.append(f"{label}{mark} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + " ".join(sorted(marks)) + "\n"


def limit_table(rows: Rows, found: Mapping[float, Limit]) -> str:
    """The network's products at this machine's rate, beside the whole of `dpcl separate`."""
    lines = [
        "| recording | multiply-adds | limit in float32, s | share of it reached "
        "| limit in bfloat16, s | share of it reached |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for seconds, limit in found.items():
        wall = [run["wall"] for run in _runs(rows, OURS, seconds)]
        cells = [f"{limit.multiply_adds:.3g}"]
        for least in (limit.fp32_seconds, limit.bf16_seconds):
            shares = [100 * least / value for value in wall]
            cells += [f"{least:.2f}", f"{spread(shares)} %" if shares else ""]
        lines.append(f"| {_duration(seconds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def goals(rows: Rows, found: Mapping[float, Limit]) -> str:
    """The goals that this run can judge, by the medians."""
    lines = ["| goal | measured | met |", "|---|--:|---|"]
    for text, value, met in _judged(rows, found):
        lines.append(f"| {text} | {value:.3g} | {'yes' if met else 'no'} |")
    return "\n".join(lines) + "\n"


def _judged(rows: Rows, found: Mapping[float, Limit]) -> Iterator[tuple[str, float, bool]]:
    def median(system: str, seconds: float, key: str = "wall") -> float | None:
        values = [run[key] for run in _runs(rows, system, seconds) if key in run]
        return statistics.median(values) if values else None

    six, hour = median(OURS, 360), median(OURS, 3600)
    if six:
        for system, least in (("asteroid-dc", 5), ("nussl-dc", 5), ("sepformer", 10)):
            theirs = median(system, 360)
            if theirs:
                yield f"6 min: {system}, at least {least} ×", theirs / six, theirs >= least * six
        share = found[360].fp32_seconds / six
        yield "6 min: at least 0.5 of the limit in float32", share, share >= 0.5
    if hour:
        share = found[3600].fp32_seconds / hour
        yield "60 min: at least 0.5 of the limit in float32", share, share >= 0.5
        yield "60 min: at least 60 × real time", 3600 / hour, hour <= 60
        peak = median(OURS, 3600, "peak_mib") or 0.0
        yield "60 min: peak under 1.2 GB", peak * 2**20 / 1e9, peak * 2**20 < 1.2e9
    if six and hour:
        yield "60 min over 6 min: at most 11 ×", hour / six, hour <= 11 * six
    first = median(OURS, 10, "first")
    if first:
        yield "10 s: first output under 3 s", first, first < 3


def _runs(rows: Rows, system: str, seconds: float) -> list[Run]:
    """All runs of a system on a recording, none where it failed or was not asked."""
    for row in rows:
        if (row["system"], row["seconds"]) == (system, seconds):
            return [run for run in row["runs"] if "failed" not in run]
    return []


def _duration(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} min"
