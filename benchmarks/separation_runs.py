"""One run of `dpcl separate` or of one of its peers on a recording, in a process of its own.

torch stays out of the process that measures: what it makes of it would count as a child's peak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from network_limit import Limit
from processes import TooLarge, TooLong, run_once
from separate_file import separate_command
from separation_report import OURS, Run

HERE = Path(__file__).resolve().parent
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
    """The recordings, and how a system is run on one of them, for `most` seconds at most."""

    def __init__(
        self, folder: Path, root: Path | None, peers: Path | None, model: str, most: float
    ) -> None:
        self.folder, self.root, self.peers, self.model = folder, root, peers, model
        self.most = most
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
                took, printed = run_once(command, out, self.memory, self.environment, self.most)
            except TooLarge:
                return {"failed": f"needs more than {self.memory / 2**30:.0f} GiB"}
            except TooLong:
                return {"failed": f"takes more than {self.most / 60:g} min"}
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
        return printed_json(str(self.peers), "-c", VERSIONS) if self.peers else {}

    def limits(self, lengths: Sequence[float]) -> dict[float, Limit]:
        """Of recordings of these seconds."""
        program = str(HERE / "network_limit.py")
        found = printed_json(sys.executable, program, str(self.weights), *map(str, lengths))
        return {seconds: Limit(**limit) for seconds, limit in zip(lengths, found, strict=True)}


def printed_json(*command: str) -> Any:
    """What a process of its own prints."""
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


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
