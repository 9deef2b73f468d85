"""`dpcl separate` on a file of 10 s: what a user waits for, and where the time goes.

The command: a process per run, wall time from its start to its end; processor time and peak
resident memory as the kernel reports them for that child (this process stays small and does not
import torch before, since a child's peak starts at its parent's).

The split: the same work through the package's public names, stage by stage, in a fresh interpreter
per run. Stages are run once, as in the command: the first call pays for what is loaded lazily.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import machine
from processes import run_once

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLE = REPOSITORY / "examples" / "two_talkers.flac"
RESULTS = Path(__file__).resolve().parent / "results" / "separate_file.json"
SOURCES = 2


def make_recording(example: Path, seconds: float, path: Path) -> None:
    """The example, repeated and cut to so many seconds, at its own rate."""
    import numpy as np
    import soundfile

    samples, rate = soundfile.read(example, dtype="float32")
    soundfile.write(path, np.resize(samples, (round(seconds * rate), *samples.shape[1:])), rate)


def separate_command(recording: Path, folder: Path, model: str) -> list[str]:
    """The installed program beside this interpreter."""
    program = Path(sys.executable).with_name("dpcl")
    start = [str(program)] if program.exists() else [sys.executable, "-m", "dpcl"]
    return [
        *start,
        "separate",
        str(recording),
        f"--out={folder}",
        f"--sources={SOURCES}",
        f"--model={model}",
    ]


def stages(recording: Path, folder: Path, model: str) -> dict[str, float]:
    """Seconds of each stage in this process; the place to follow changes of the names."""
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - started

    import numpy as np

    with stage("import torch"):
        import torch  # noqa: F401
    with stage("import dpcl"):
        import dpcl
        from dpcl.recordings import long
        from dpcl.signal.reader import AudioReader
        from dpcl.signal.writer import AudioWriter
    with stage("load weights"):
        separator = dpcl.load_separator(model)

    def clustered(*arguments: Any) -> Any:
        with stage("(of it clustering)"):
            return centroids(*arguments)

    centroids, separator.centroids = separator.centroids, clustered
    with AudioReader(recording) as reader:
        with stage("first pass: reading, STFT, network, clustering"):
            separation = long.LongSeparation(reader, separator, SOURCES)
        paths = [folder / f"{recording.stem}_s{number}.wav" for number in range(1, SOURCES + 1)]
        with stage("second pass: embeddings, masks, inverse STFT, writing"), ExitStack() as stack:
            writers = [
                stack.enter_context(
                    AudioWriter(path, reader.sample_rate, reader.channels, reader.subtype)
                )
                for path in paths
            ]
            for piece in separation.pieces():
                for writer, source in zip(writers, piece.sources, strict=True):
                    writer.write(source.numpy())
        separation.close()
        samples = np.concatenate(list(reader.blocks(1 << 20)), axis=1)
        rate = reader.sample_rate
    # Again, with all that is lazy loaded: what a second recording in the same process would take.
    with stage("(dpcl.separate, second recording)"):
        dpcl.separate(samples, rate, sources=SOURCES, model=model)
    return seconds


def stages_in_own_process(recording: Path, folder: Path, model: str) -> dict[str, float]:
    """`stages` in a fresh interpreter."""
    folder.mkdir()
    command = [sys.executable, __file__, "--model", model, "--stages-of", str(recording)]
    command.append(str(folder))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recording", type=Path, default=EXAMPLE, help="default: the example")
    parser.add_argument("--seconds", type=float, default=10.0, help="default 10")
    parser.add_argument("--model", default="default", help="name or path")
    parser.add_argument("--repeats", type=int, default=7, help="runs that count (default 7)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON (default %(default)s)")
    parser.add_argument("--stages-of", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stages_of:
        print(json.dumps(stages(*arguments.stages_of, arguments.model)))
        return

    runs: dict[str, list[dict[str, float]]] = {"command": [], "python": [], "stages": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recording = folder / "ten_seconds.wav"
        make_recording(arguments.recording, arguments.seconds, recording)
        for run in range(arguments.repeats + 1):  # the first one fills the file cache
            command = separate_command(recording, folder / f"command{run}", arguments.model)
            measured = {
                "command": run_once(command)[0],
                "python": run_once([sys.executable, "-c", "pass"])[0],
                "stages": stages_in_own_process(
                    recording, folder / f"stages{run}", arguments.model
                ),
            }
            if run:
                for part, values in measured.items():
                    runs[part].append(values)

    about = machine.describe()
    print(machine.heading(about))
    print(f"`dpcl separate`, {arguments.seconds:g} s of audio, {arguments.repeats} runs\n")
    print(table(runs))
    settings: dict[str, Any] = {"seconds": arguments.seconds, "model": arguments.model}
    machine.write_json(arguments.out, about, settings, runs)


def table(runs: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: the command, then its stages."""
    lines = ["| | median (min–max) |", "|---|---|"]
    for key, label in (("wall", "wall time, s"), ("cpu", "processor time, s")):
        lines.append(f"| {label} | {machine.spread([run[key] for run in runs['command']])} |")
    peaks = machine.spread([run["peak_mib"] for run in runs["command"]])
    lines += [
        f"| peak memory, MiB | {peaks} |",
        "",
        "| stage | ms, median (min–max) |",
        "|---|---|",
    ]
    interpreter = [run["wall"] for run in runs["python"]]
    lines.append(f"| start of Python | {machine.spread(interpreter, 1e3)} |")
    for name in runs["stages"][0]:
        lines.append(f"| {name} | {machine.spread([r[name] for r in runs['stages']], 1e3)} |")
    counted = [name for name in runs["stages"][0] if not name.startswith("(")]
    total = statistics.median(
        start + sum(run[name] for name in counted)
        for start, run in zip(interpreter, runs["stages"], strict=True)
    )
    wall = statistics.median(run["wall"] for run in runs["command"])
    lines.append(f"| sum of the stages, median | {1e3 * total:.0f} |")
    lines.append(
        f"| the command beyond them (arguments, checks, exit) | {1e3 * (wall - total):.0f} |"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
