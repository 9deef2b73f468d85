"""`dpcl separate` beside its peers on short and long recordings: time, processor time, memory.

    python benchmarks/separation_speed.py --root CORPUS --peers-python peers/bin/python

Every run is a process of its own, from the command to its end: import, weights, reading, writing.
Rounds A B C A B C on each recording, after one round on the shortest that is not counted; medians,
and ratios within a round. What peers run, and how, says peers.py.

A peer that would take longer than --most minutes, judged by the recordings before, is measured on a
recording of 60 s instead; all that it took after its model stood is then multiplied, and the figure
is marked. Recordings too long for a peer's memory are cut into windows of 60 s: by asteroid's
LambdaOverlapAdd, which computes everything twice, and without overlap for SepFormer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import machine
import separation_report
from processes import TooLarge, run_once
from separate_file import separate_command
from separation_report import OURS, Rows, Run

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "separation_speed.json"
PIECE = 60.0  # s, what long recordings are cut into, and measured on where all is too long
MEMORY = 0.9  # of what is free at the start: what a process may allocate
VERSIONS = """
import importlib.metadata as m, json
names = "torch asteroid asteroid-filterbanks nussl speechbrain scikit-learn numpy librosa".split()
print(json.dumps({name: m.version(name) for name in names}))
"""


@dataclass(frozen=True)
class System:
    """How much of a recording one run of it can take."""

    whole: float | None = None  # s, as far as memory allows; None: never cut
    scales: bool = False  # whether a piece stands for the whole


SYSTEMS = {
    OURS: System(),
    "asteroid-dc": System(),
    "nussl-dc": System(),
    "conv-tasnet": System(whole=600, scales=True),
    "dprnn": System(whole=60, scales=True),
    "dprnn-16": System(whole=600, scales=True),
    # Its positions end at 2500 chunks, 312 s, and its attention is over chunks squared.
    "sepformer": System(whole=60, scales=True),
}
SCORED = (OURS, "asteroid-dc", "nussl-dc")  # the others have random weights


class Bench:
    """The recordings, and how a system is run on one of them."""

    def __init__(self, folder: Path, root: Path | None, peers: Path | None, model: str) -> None:
        self.folder, self.root, self.peers, self.model = folder, root, peers, model
        package = find_spec("dpcl")
        assert package is not None and package.origin is not None
        shipped = Path(package.origin).parent / "weights" / f"{model}.safetensors"
        self.weights = shipped if shipped.is_file() else Path(model)
        self.memory = MEMORY * free_memory()
        cores = str(len(os.sched_getaffinity(0)))
        self.environment = {"OMP_NUM_THREADS": cores, **os.environ}

    def recording(self, seconds: float) -> Path:
        """Rendered by a process of its own when it is first asked for."""
        path = self.folder / f"{seconds:g}s.wav"
        if not path.exists():
            command = [sys.executable, str(HERE / "recordings.py"), "render", str(seconds)]
            command.append(str(path))
            subprocess.run(command + (["--root", str(self.root)] if self.root else []), check=True)
        return path

    def run(self, name: str, seconds: float, piece: bool, scored: bool) -> Run:
        """One run; `piece` measures on 60 s and scales."""
        system = SYSTEMS[name]
        recording = self.recording(PIECE if piece else seconds)
        window = PIECE if not piece and system.whole and seconds > system.whole else None
        with tempfile.TemporaryDirectory(dir=self.folder) as parent:
            out = Path(parent) / "out"
            command = self.command(name, recording, out, window)
            try:
                took, printed = run_once(command, out, self.memory, self.environment)
            except TooLarge:
                return {"failed": f"needs more than {self.memory / 2**30:.0f} GiB"}
            run: Run = {**took, "window": window}
            if name != OURS:
                run |= json.loads(printed)
            if piece:
                run |= scaled(run, seconds / PIECE)
            if scored and name in SCORED and self.root and not piece:
                command = [sys.executable, str(HERE / "recordings.py"), "score"]
                command += [str(recording), str(out)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                run["si_sdri"] = float(done.stdout)
        return run

    def command(self, name: str, recording: Path, out: Path, window: float | None) -> list[str]:
        if name == OURS:
            return separate_command(recording, out, self.model)
        command = [str(self.peers), str(HERE / "peers.py"), name, str(recording), str(out)]
        command += ["--weights", str(self.weights)]
        return command + (["--window", str(window)] if window else [])

    def versions(self) -> dict[str, str]:
        """Of what the peers are made of."""
        if self.peers is None:
            return {}
        command = [str(self.peers), "-c", VERSIONS]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        versions: dict[str, str] = json.loads(done.stdout)
        return versions


def free_memory() -> int:
    """Bytes; what the file cache holds counts as free where the system says so."""
    information = Path("/proc/meminfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def scaled(run: Run, times: float) -> Run:
    """What the start took once, and the rest so many times; processor time in proportion."""
    wall = run["wall"] + (times - 1) * (run["finished"] - run["ready"])
    return {"wall": wall, "cpu": run["cpu"] * wall / run["wall"], "first": wall, "scaled": times}


def too_long(name: str, seconds: float, rows: Rows, most: float) -> bool:
    """Whether a run would take more than `most` s, by the longest recording measured before."""
    before = [row for row in rows if row["system"] == name and "wall" in row["runs"][-1]]
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
) -> Rows:
    """All systems on all recordings, in rounds."""
    for name in names:  # not counted: fills the file cache
        bench.run(name, lengths[0], piece=False, scored=False)
    rows: Rows = []
    for seconds, rounds in zip(lengths, repeats, strict=True):
        pieces = {name: too_long(name, seconds, rows, most) for name in names}
        runs: dict[str, list[Run]] = {name: [] for name in names}
        for number in range(rounds):
            for name in names:
                if any("failed" in run for run in runs[name]):
                    continue  # it will not fit the next time either
                run = bench.run(name, seconds, pieces[name], scored=number == 0)
                runs[name].append(run)
                shown = run.get("failed") or f"{run['wall']:.2f} s"
                print(f"{seconds:g} s, round {number + 1}, {name}: {shown}", file=sys.stderr)
        rows += [{"system": name, "seconds": seconds, "runs": runs[name]} for name in names]
    return rows


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
    arguments = parser.parse_args()
    lengths = sorted(arguments.seconds)
    repeats = (arguments.repeats + len(lengths) * arguments.repeats[-1:])[: len(lengths)]
    names = [name for name in SYSTEMS if not arguments.only or name in (OURS, *arguments.only)]
    if arguments.peers_python is None:
        names = [OURS]
        print("no --peers-python: dpcl alone; to set up the peers see README.md", file=sys.stderr)

    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        bench = Bench(Path(name), arguments.root, arguments.peers_python, arguments.model)
        rows = measure(bench, names, lengths, repeats, 60 * arguments.most)
        versions = bench.versions()

    # torch is loaded only now: what it makes of this process would count as a child's peak.
    from network_limit import limits

    from dpcl.networks.model import load_model

    found = dict(zip(lengths, limits(load_model(bench.weights), lengths), strict=True))
    about = machine.describe()
    print(machine.heading(about))
    print(", ".join(f"{name} {version}" for name, version in versions.items()) + "\n")
    print(separation_report.table(rows))
    print(separation_report.limit_table(rows, found))
    print(separation_report.goals(rows, found))
    noted = {
        "root": arguments.root is not None,
        "peers": versions,
        "most_minutes": arguments.most,
        "memory_gib": round(bench.memory / 2**30, 1),
        "multiply_adds": {f"{s:g}": limit.multiply_adds for s, limit in found.items()},
        "limit_seconds_fp32": {f"{s:g}": limit.fp32_seconds for s, limit in found.items()},
        "limit_seconds_bf16": {f"{s:g}": limit.bf16_seconds for s, limit in found.items()},
    }
    machine.write_json(arguments.out, about, noted, rows)


if __name__ == "__main__":
    main()
