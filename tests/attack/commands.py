"""Random command lines, closed and full streams, full disks, and kills at random moments."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
import typer

from tests.attack.harness import Ended, Tally, complaint, leftovers, run
from tests.conftest import CAUSAL, TINY, write_model

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# The page and the cluster serve until they are ended; a training of a recipe takes minutes.
LEFT_OUT = ("web", "serve", "bulk", "train", "experiment")
VALUES = """
0 1 2 -1 11 1e9 99999999999999999999 nan inf '' . .. / /dev/null /dev/full /proc/self/status
talk.wav none.wav folder list.csv tiny.safetensors causal.safetensors out wav mp3 flac ../x
default casa spectral mixture ibm live é a,b key=value {} - -- -x % * hf://a/b C:\\x
"""
RECIPE = """
model: {network: {layers: 1, width: 8, embedding: 4}}
data: {only: null}
stages: [{frames: 10, batch: 2, steps: 12}]
validation: null
checkpoint_minutes: 0.001
precision: 32-true
"""


def prepare(folder: Path) -> None:
    """Write the inputs of all commands: recordings, networks, a list, a recipe and a corpus."""
    draw = np.random.default_rng(0)
    talk = draw.normal(0, 0.05, (8000 * 25, 2))  # three windows
    soundfile.write(folder / "talk.wav", talk, 8000)
    (folder / "raw").write_bytes((talk[:, 0] * 32767).astype("<i2").tobytes())
    (folder / "folder").mkdir()
    shutil.copy(folder / "talk.wav", folder / "folder" / "a.wav")
    speech = folder / "speech"
    for talker in range(4):
        (speech / f"t{talker}").mkdir(parents=True)
        for number in range(2):
            samples = draw.normal(0, 0.1, 12000)
            soundfile.write(speech / f"t{talker}" / f"{number}.wav", samples, 8000)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "list.csv").write_text("id,list\n")
    write_model(folder / "tiny.safetensors", TINY)
    write_model(folder / "causal.safetensors", CAUSAL)


def attack_command_lines(folder: Path, number: int, seed: int) -> Iterator[Tally]:
    """Run random commands with random options and values."""
    from dpcl.apps.cli import app

    tally = Tally("command lines")
    values = [*VALUES.split(), "", "\udcff"]
    commands = _leaves((), typer.main.get_command(app))
    for k in range(number):
        draw = random.Random(f"{seed} command {k}")
        name, options = draw.choice(commands)
        work = folder / "lines"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(folder / "inputs", work)
        words = [draw.choice(values) for _ in range(draw.choice((0, 1, 1, 2)))]
        for _ in range(draw.choice((0, 1, 2, 4))):
            words.insert(draw.randrange(len(words) + 1), draw.choice(options))
            words.insert(words.index(words[-1]), draw.choice(values))
        ended = run((*name, *words), work, streams={0: str(work / "raw")})
        left = leftovers(work)
        wrong = complaint(ended) or (f"{ended.arguments}: left {left}" if left else None)
        tally.add({0: "done", 2: "refused"}.get(ended.status or 0, "other"), wrong)
    yield tally


def _leaves(path: tuple[str, ...], command: Any) -> list[tuple[tuple[str, ...], list[str]]]:
    """Return name and options of every command."""
    below = getattr(command, "commands", None)
    if below:
        return [
            leaf
            for name, one in below.items()
            if name not in LEFT_OUT
            for leaf in _leaves((*path, name), one)
        ]
    return [(path, [option for one in command.params for option in one.opts] + ["--help"])]


SEPARATE = ("separate", "talk.wav", "--model", "tiny.safetensors", "-n", "2", "-o", "out")
TRAIN = ("train", "recipe.yaml", "--corpus", "speech", "--run", "run")
BULK = ("bulk", "talk.wav", "folder", "--model", "tiny.safetensors", "-n", "2", "-o", "out")
COMMANDS: dict[str, tuple[str, ...]] = {
    "separate": SEPARATE,
    "show": ("show", "talk.wav", "-m", "tiny.safetensors", "-o", "picture.png"),
    "models": ("models",),
    "mix": ("mix", "draw", "speech", "--count", "20", "--out", "drawn.csv"),
    "train": TRAIN,
    "bulk": BULK,
    "live": ("live", "--model", "causal.safetensors"),
}


def attack_streams(folder: Path, number: int, seed: int) -> Iterator[Tally]:
    """Run commands with closed and full streams."""
    del seed
    tally = Tally("closed and full streams")
    states: tuple[dict[int, str | None], ...] = (
        {1: None},
        {0: None},
        {2: None},
        {1: "/dev/full"},
        {2: "/dev/full"},
        {0: None, 1: None, 2: None},
    )
    heavy = ("train", "show")
    light = [name for name in COMMANDS if name not in (*heavy, "bulk")]
    cases = [(name, state) for state in states for name in light]
    cases += [(name, states[0]) for name in heavy]
    for name, state in cases[:: max(1, len(cases) // number)]:
        work = _fresh(folder)
        ended = run(COMMANDS[name], work, streams={0: str(work / "raw"), **state})
        silent = 2 in state  # its sentence cannot be read
        wrong = None if silent and ended.status in (0, 2) else complaint(ended)
        wrong = wrong or (f"{name}: left {leftovers(work)}" if leftovers(work) else None)
        full = state.get(1) == "/dev/full" and name in ("models", "live")
        if full and ended.status == 0:
            wrong = f"{name}: status 0 although standard output is full"
        tally.add("as it must", wrong and f"{state}: {wrong}")
    yield tally


def attack_disks(folder: Path, number: int, seed: int) -> Iterator[Tally]:
    """Run commands where no file can grow beyond a limit, as on a full disk."""
    tally = Tally("full disks")
    names = ("separate", "train", "mix", "show")
    for k in range(number):
        draw = random.Random(f"{seed} disk {k}")
        name, largest = names[k % len(names)], draw.choice((0, 10, 500, 3000, 20_000, 100_000))
        work = _fresh(folder)
        before = _all(work)
        ended = run(COMMANDS[name], work, largest=largest)
        wrong = complaint(ended)
        if leftovers(work):
            wrong = wrong or f"{name}, {largest} bytes: left {leftovers(work)}"
        new = [path for path in _all(work) - before if "tensorboard" not in path]
        if ended.status == 2 and name != "train" and new:
            wrong = wrong or f"{name}, {largest} bytes: refused, but wrote {new}"
        tally.add({0: "done", 2: "refused"}.get(ended.status or 0, "other"), wrong)
    yield tally


def _all(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _fresh(folder: Path) -> Path:
    """Return a new copy of the inputs."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder / "inputs", work)
    return work


class _Here:
    """Ray without a cluster: tasks run in the process itself, one after the other."""

    __spec__ = "found"

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: {}

    def remote(self, **_: Any) -> Any:
        return lambda function: SimpleNamespace(remote=function)

    def wait(self, tasks: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, outcome: Any) -> Any:
        return outcome


def attack_kills(folder: Path, number: int, seed: int) -> Iterator[Tally]:
    """Kill separate, train, live and bulk at random moments, then run them to their end."""
    sys.modules["ray"] = _Here()  # type: ignore[assignment]
    for name, share in (("separate", 0.5), ("train", 0.2), ("live", 0.1), ("bulk", 0.2)):
        if not round(share * number):
            continue
        tally = Tally(f"kills of {name}")
        work = _fresh(folder)
        begun = time.monotonic()
        whole = run(COMMANDS[name], work, streams={0: str(work / "raw")})
        seconds = time.monotonic() - begun
        tally.add("done", complaint(whole) or (None if whole.status == 0 else f"{whole}"))
        for k in range(round(share * number)):
            draw = random.Random(f"{seed} kill {name} {k}")
            kind, after = draw.choice(SIGNALS), draw.uniform(0, 1.1 * seconds)
            again = draw.random() < 0.5  # into the outputs of an earlier run, with --force
            tally.add(*_killed(name, folder, kind, after, again and name == "separate"))
        yield tally


def _killed(
    name: str, folder: Path, kind: signal.Signals, after: float, again: bool
) -> tuple[str, str | None]:
    """Kill one command; check what it left, and that the next run clears it and is complete."""
    work = _fresh(folder)
    words: Sequence[str] = COMMANDS[name]
    if again:
        run((*words, "-n", "3"), work)
        words = (*words, "--force")
    ended: Ended = run(words, work, (kind, after), streams={0: str(work / "raw")})
    shown = f"{name} killed by {kind.name} after {after:.3f} s"
    wrong = complaint(ended, int(kind))
    if kind != signal.SIGKILL and leftovers(work):
        wrong = wrong or f"left {leftovers(work)}"
    sources = sorted((work / "out").glob("*_s*.wav"))
    complete = [path for path in sources if soundfile.info(path).frames == 8000 * 25]
    if sources != complete:
        wrong = wrong or f"incomplete files: {sorted({*sources} - {*complete})}"
    for first in (path for path in sources if path.name.endswith("_s1.wav")):
        found = [path for path in sources if path.name.startswith(first.name[:-5])]
        if len(found) not in (2, 3):
            wrong = wrong or f"an incomplete set that begins with s1: {sources}"
    if name == "live":
        return ended_as(ended), wrong and f"{shown}: {wrong}"
    again_with = {"train": ("--resume",), "bulk": ()}.get(name, ("--force",))
    final = run((*words, *again_with), work)
    wrong = wrong or complaint(final) or (f"the next run: {final}" if final.status else None)
    if leftovers(work):
        wrong = wrong or f"the next run left {leftovers(work)}"
    if name == "train" and not (work / "run" / "run.safetensors").is_file():
        wrong = wrong or "the resumed training has no result"
    if name == "bulk":
        rows = (work / "out" / "bulk.csv").read_text().splitlines()
        if len({row.split(",")[0] for row in rows}) != 3 or any(",0,0.00" in row for row in rows):
            wrong = wrong or f"the resumed bulk has the journal {rows}"
    return ended_as(ended), wrong and f"{shown}: {wrong}"


def ended_as(ended: Ended) -> str:
    """Return the outcome of a command that was killed."""
    if ended.status == 0:
        return "done before"
    return "ended by its handler" if (ended.status or 0) > 128 else "killed"
