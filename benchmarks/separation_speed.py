"""`dpcl separate` beside its peers on short and long recordings: time, processor time, memory.

    python benchmarks/separation_speed.py --root CORPUS --peers-python peers/bin/python

Every run is a process of its own, from the command to its end: import, weights, reading, writing.
Rounds A B C A B C on each recording, after one round on the shortest that is not counted; medians,
and ratios within a round. What peers run, and how, says peers.py.

A peer that would take longer than --most minutes, judged by the recordings before, is measured on a
recording of 60 s instead; all that it took after its model stood is then multiplied, and the figure
is marked. Recordings too long for a peer's memory are cut into windows of 60 s: by asteroid's
LambdaOverlapAdd, which computes everything twice, and without overlap for SepFormer. What needs
more memory than there is, or three times --most, is not run again: the results say so.

Results are written after every run. --resume keeps the runs that the file has, on the same
processor and with as many cores, and adds the missing ones: of other systems, longer recordings,
more rounds, or of a measurement that was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import machine
import separation_report
from separation_report import OURS, Rows, Run
from separation_runs import PIECE, SYSTEMS, Bench, printed_json

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "separation_speed.json"
SAME = ("cpu", "cores", "threads", "system")  # of a machine whose runs may stand in one table


def too_long(name: str, seconds: float, rows: Rows, most: float) -> bool:
    """Whether a run would take more than `most` s, by the longest recording measured before."""
    before = [
        row
        for row in rows
        if row["system"] == name and row["seconds"] < seconds and "wall" in row["runs"][-1]
    ]
    if not SYSTEMS[name].scales or not before or seconds <= PIECE:
        return False
    run, length = before[-1]["runs"][-1], before[-1]["seconds"]
    each = (run["finished"] - run["ready"]) / (PIECE if "scaled" in run else length)
    return each * seconds > most


def measure(
    bench: Bench,
    names: Sequence[str],
    lengths: Sequence[float],
    repeats: Sequence[int],
    most: float,
    rows: Rows,
    keep: Callable[[], None],
) -> None:
    """Add to `rows` what they miss of all systems on all recordings, in rounds; `keep` each run."""

    def runs(name: str, seconds: float) -> list[Run]:
        for row in rows:
            if (row["system"], row["seconds"]) == (name, seconds):
                return row["runs"]
        rows.append({"system": name, "seconds": seconds, "runs": []})
        rows.sort(key=lambda row: (row["seconds"], list(SYSTEMS).index(row["system"])))
        return runs(name, seconds)

    warm = set()
    for seconds, rounds in zip(lengths, repeats, strict=True):
        pieces = {name: too_long(name, seconds, rows, most) for name in names}
        for number in range(rounds):
            for name in names:
                had = runs(name, seconds)
                if len(had) > number or any("failed" in run for run in had):
                    continue  # what did not fit will not fit the next time either
                if name not in warm:  # not counted: fills the file cache
                    bench.run(name, lengths[0], piece=False, scored=False)
                    warm.add(name)
                run = bench.run(name, seconds, pieces[name], scored=number == 0)
                had.append({"at": time.strftime("%Y-%m-%d %H:%M"), **run})
                keep()
                shown = had[-1].get("failed") or f"{had[-1]['wall']:.2f} s"
                print(f"{seconds:g} s, round {number + 1}, {name}: {shown}", file=sys.stderr)


def kept(path: Path, about: dict[str, Any], rendered: bool) -> tuple[Rows, dict[str, str]]:
    """Rows that runs on this machine can be added to, and versions of the peers; none, no file."""
    if not path.exists():
        return [], {}
    document = json.loads(path.read_text(encoding="utf-8"))
    machine, settings = document["machine"], document["settings"]
    if [*(machine[key] for key in SAME), settings["root"]] != [
        *(about[key] for key in SAME),
        rendered,
    ]:
        raise SystemExit(f"{path}: measured on another machine or corpus; give another --out")
    return document["rows"], settings["peers"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="corpus; without one, noises like speech")
    parser.add_argument("--peers-python", type=Path, help="see README.md; without it, dpcl alone")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, help="these systems and dpcl")
    parser.add_argument("--seconds", nargs="+", type=float, default=[10, 360, 3600])
    parser.add_argument("--repeats", nargs="+", type=int, default=[5, 3, 3], help="per recording")
    parser.add_argument("--most", type=float, default=10, help="minutes a peer may take at once")
    parser.add_argument("--model", default="default", help="name or path")
    parser.add_argument("--folder", type=Path, help="where there is room for recordings")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON (default %(default)s)")
    parser.add_argument("--resume", action="store_true", help="keep the runs that --out has")
    arguments = parser.parse_args()
    lengths = sorted(arguments.seconds)
    repeats = (arguments.repeats + len(lengths) * arguments.repeats[-1:])[: len(lengths)]
    names = [name for name in SYSTEMS if not arguments.only or name in (OURS, *arguments.only)]
    if arguments.peers_python is None:
        names = [OURS]
        print("no --peers-python: dpcl alone; to set up the peers see README.md", file=sys.stderr)

    most = 60 * arguments.most
    about = printed_json(sys.executable, str(HERE / "machine.py"))
    rows, versions = (
        kept(arguments.out, about, bool(arguments.root)) if arguments.resume else ([], {})
    )
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        peers = arguments.peers_python
        bench = Bench(Path(name), arguments.root, peers, arguments.model, 3 * most)
        versions = bench.versions() or versions
        found = bench.limits(sorted({*lengths, *(row["seconds"] for row in rows)}))
        noted = {
            "root": arguments.root is not None,
            "peers": versions,
            "most_minutes": arguments.most,
            "memory_gib": round(bench.memory / 2**30, 1),
            "multiply_adds": {f"{s:g}": limit.multiply_adds for s, limit in found.items()},
            "limit_seconds_fp32": {f"{s:g}": limit.fp32_seconds for s, limit in found.items()},
            "limit_seconds_bf16": {f"{s:g}": limit.bf16_seconds for s, limit in found.items()},
        }

        def keep() -> None:
            measured = [row for row in rows if row["runs"]]
            machine.write_json(arguments.out, about, noted, measured)

        measure(bench, names, lengths, repeats, most, rows, keep)

    print(machine.heading(about))
    print(", ".join(f"{name} {version}" for name, version in versions.items()) + "\n")
    print(separation_report.table(rows))
    print(separation_report.limit_table(rows, found))
    print(separation_report.goals(rows, found))


if __name__ == "__main__":
    main()
