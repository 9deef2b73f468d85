"""`dpcl separate` beside its peers on 10 s, 6 min and 60 min: time, processor time and memory.

    python benchmarks/separation_speed.py --peers-python peers/bin/python

Every run is a process of its own, from the command to its end: import, weights, reading, writing.
Rounds A B C A B C on each recording, after one round on the shortest that does not count; medians,
and ratios within a round. peers.py runs each peer.

Longer recordings than a peer's memory allows are cut into windows of 60 s. A run beyond --most
minutes or the available memory is stopped, and the table says so. Results are written after every
run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from measure import (
    TooLarge,
    TooLong,
    available_memory,
    heading,
    ratios,
    render_speech,
    run_once,
    spread,
    write_json,
)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "separation_speed.json"
OURS = "dpcl"
PIECE = 60.0  # s of a window
MEMORY = 0.9  # share of the available memory that a process may allocate
VERSIONS = """
import importlib.metadata as m, json
names = "torch asteroid asteroid-filterbanks nussl speechbrain scikit-learn numpy librosa".split()
print(json.dumps({name: m.version(name) for name in names}))
"""

Run = dict[str, Any]  # wall, cpu, peak_mib, …, or failed
Rows = list[dict[str, Any]]  # system, seconds, runs


@dataclass(frozen=True)
class System:
    """A system and the amount of a recording that one run can take.

    Attributes:
        label: in the table.
        whole: s, as far as memory allows; None: never cut.
    """

    label: str
    whole: float | None = None


SYSTEMS = {
    OURS: System("`dpcl separate`"),
    "asteroid-dc": System("its network in asteroid, k-means of scikit-learn"),
    "nussl-dc": System("its network in nussl, k-means of scikit-learn"),
    "conv-tasnet": System("Conv-TasNet (asteroid)", 600),
    "dprnn-16": System("DPRNN, windows of 16 samples (asteroid)", 600),
}


@dataclass(frozen=True)
class Bench:
    """Recordings, and the way to run a system on one of them.

    Attributes:
        folder: for recordings and outputs.
        peers: Python of the peers' environment.
        model: name or path of the model.
        memory: limit of a run, bytes.
        most: limit of a run, s.
    """

    folder: Path
    peers: Path | None
    model: str
    memory: float
    most: float

    def recording(self, seconds: float) -> Path:
        """Return a recording, rendered on the first call."""
        path = self.folder / f"{seconds:g}s.wav"
        if not path.exists():
            render_speech(seconds, path)
        return path

    def run(self, name: str, seconds: float) -> Run:
        """Run a system once."""
        whole, recording = SYSTEMS[name].whole, self.recording(seconds)
        window = PIECE if whole and seconds > whole else None
        environment = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), **os.environ}
        with tempfile.TemporaryDirectory(dir=self.folder) as parent:
            command = self.command(name, recording, Path(parent) / "out", window)
            try:
                took, printed = run_once(command, self.memory, environment, self.most)
            except TooLarge:
                return {"failed": f"needs more than {self.memory / 2**30:.0f} GiB"}
            except TooLong:
                return {"failed": f"takes more than {self.most / 60:g} min"}
        return {**took, "window": window} | ({} if name == OURS else json.loads(printed))

    def command(self, name: str, recording: Path, out: Path, window: float | None) -> list[str]:
        """Return the command line of a run."""
        if name == OURS:
            program = [sys.executable, "-m", "dpcl", "separate", str(recording)]
            return [*program, "--out", str(out), "--sources", "2", "--model", self.model]
        command = [str(self.peers), str(HERE / "peers.py"), name, str(recording), str(out)]
        command += ["--weights", str(_weights(self.model))]
        return command + (["--window", str(window)] if window else [])


def _weights(model: str) -> Path:
    package = find_spec("dpcl")
    assert package is not None and package.origin is not None
    shipped = Path(package.origin).parent / "weights" / f"{model}.safetensors"
    return shipped if shipped.is_file() else Path(model)


def printed_json(*command: str) -> Any:
    """Return the JSON that a process prints."""
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def measure(
    bench: Bench,
    names: Sequence[str],
    lengths: Sequence[float],
    repeats: Sequence[int],
    keep: Callable[[Rows], None],
) -> Rows:
    """Measure all systems on all recordings, in rounds; `keep` is called after each run."""
    rows: Rows = []
    for name in names:  # not counted: fills the file cache
        bench.run(name, lengths[0])
    for seconds, rounds in zip(lengths, repeats, strict=True):
        new = {name: {"system": name, "seconds": seconds, "runs": list[Run]()} for name in names}
        for number in range(rounds):
            for name, row in new.items():
                if any("failed" in run for run in row["runs"]):  # type: ignore[attr-defined]
                    continue
                run = bench.run(name, seconds)
                row["runs"].append({"at": time.strftime("%Y-%m-%d %H:%M"), **run})  # type: ignore[attr-defined]
                shown = run.get("failed") or f"{run['wall']:.2f} s"
                print(f"{seconds:g} s, round {number + 1}, {name}: {shown}", file=sys.stderr)
                keep(rows + [row for row in new.values() if row["runs"]])
        rows += new.values()
    return rows


def table(rows: Rows) -> str:
    """Return all systems on all recordings: medians, and ratios to dpcl round by round."""
    lines = [
        "| recording | system | wall, s | × dpcl | processor, s | × dpcl | peak, MiB | × dpcl |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    reference: list[Run] = []
    for row in rows:
        runs, seconds = row["runs"], row["seconds"]
        if row["system"] == OURS:
            reference = runs
        length = f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} min"
        label = f"| {length} | {SYSTEMS[row['system']].label}"
        if "failed" in runs[-1]:
            lines.append(f"{label} | {runs[-1]['failed']} |" + " |" * 5)
            continue
        if runs[0].get("window"):
            label += ", windows of 60 s"
        cells = []
        for key in ("wall", "cpu", "peak_mib"):
            values = [run[key] for run in runs]
            against = ratios(values, [run[key] for run in reference[: len(values)]])
            cells += [spread(values), spread(against)]
        lines.append(f"{label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write the results and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers-python", type=Path, help="see README.md; dpcl alone if omitted")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, help="these systems and dpcl")
    parser.add_argument("--seconds", nargs="+", type=float, default=[10, 360, 3600])
    parser.add_argument("--repeats", nargs="+", type=int, default=[5, 3, 3], help="per recording")
    parser.add_argument("--most", type=float, default=30, help="limit of a run, minutes")
    parser.add_argument("--model", default="default", help="name or path")
    parser.add_argument("--folder", type=Path, help="folder with room for recordings")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON (default %(default)s)")
    arguments = parser.parse_args()
    lengths = sorted(arguments.seconds)
    repeats = (arguments.repeats + len(lengths) * arguments.repeats[-1:])[: len(lengths)]
    names = [name for name in SYSTEMS if not arguments.only or name in (OURS, *arguments.only)]
    names = names if arguments.peers_python else [OURS]
    peers, most = arguments.peers_python, 60 * arguments.most
    about = printed_json(sys.executable, str(HERE / "measure.py"))
    versions = printed_json(str(peers), "-c", VERSIONS) if peers else {}
    memory = MEMORY * available_memory()
    noted = {"peers": versions, "most_minutes": arguments.most, "memory_bytes": memory}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        bench = Bench(Path(folder), peers, arguments.model, memory, most)
        rows = measure(
            bench,
            names,
            lengths,
            repeats,
            lambda rows: write_json(arguments.out, about, noted, rows),
        )
    print(heading(about))
    print(", ".join(f"{name} {version}" for name, version in versions.items()) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
