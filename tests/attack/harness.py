"""Run commands in forks of one warm process, kill them, and judge how they ended."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpcl.apps import process
from dpcl.errors import InputError

TIMEOUT = 900  # s for one command; a longer one is a complaint
LONGEST = 1000  # characters of a message
PART = ".dpcl-*"  # temporary files and folders
FAILED = 99  # status of a fork whose exception crossed the command line


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        arguments: of the command line.
        status: exit status; the negative number of the signal that killed it; None: too late.
        out: standard output.
        err: standard error.
    """

    arguments: tuple[str, ...]
    status: int | None
    out: bytes
    err: str


@dataclass
class Tally:
    """Number of attacks of one kind by outcome, and the complaints."""

    name: str
    outcomes: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def add(self, outcome: str, complaint: str | None) -> None:
        """Count one attack."""
        outcome = "complaint" if complaint else outcome
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if complaint:
            self.complaints.append(complaint)
            print(f"    {complaint[:1500]}", file=sys.stderr, flush=True)

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {name}" for name, number in sorted(self.outcomes.items()))
        return f"{self.name}: {sum(self.outcomes.values())} attacks: {counts}"


def run(
    arguments: Iterable[str],
    folder: Path,
    kill: tuple[int, float] | None = None,
    largest: int | None = None,
    streams: dict[int, str | None] | None = None,
) -> Ended:
    """Run `dpcl` in a fork of this process.

    Args:
        arguments: of the command line.
        folder: working folder.
        kill: signal and the time after which it is sent, s.
        largest: largest number of bytes in a file: what the program meets when a disk fills.
        streams: file of 0, 1 or 2; None closes it.

    Returns:
        How it ended.
    """
    arguments = tuple(map(str, arguments))
    with tempfile.TemporaryDirectory() as logs:
        files = {0: os.devnull, 1: f"{logs}/out", 2: f"{logs}/err", **(streams or {})}
        reader, writer = os.pipe()
        if largest is not None:  # a log would be cut too
            files[2] = f"/dev/fd/{writer}"
        child = os.fork()
        if not child:
            _child(arguments, folder, largest, files)
        status = _wait(child, kill)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            written = pipe.read()
        out, err = (Path(logs, name) for name in ("out", "err"))
        written = err.read_bytes() if err.exists() else written
        return Ended(
            arguments,
            status,
            out.read_bytes() if out.exists() else b"",
            written.decode(errors="replace"),
        )


def _child(
    arguments: tuple[str, ...], folder: Path, largest: int | None, files: dict[int, str | None]
) -> None:
    """Become the command, and end."""
    status = FAILED
    try:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        for number, name in files.items():
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
            opened = os.open(os.devnull if name is None else name, flags, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        for number in (number for number, name in files.items() if name is None):
            os.close(number)
        sys.stdin, sys.stdout, sys.stderr = (
            None if files[number] is None else open(number, mode, closefd=False)  # noqa: SIM115
            for number, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        if sys.stderr is not None:
            sys.stderr.reconfigure(errors="backslashreplace")  # as Python opens it
        if largest is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        sys.argv = ["dpcl", *arguments]
        from dpcl.__main__ import main

        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                pass
        os._exit(status)


def _wait(child: int, kill: tuple[int, float] | None) -> int | None:
    """Wait for the end of a child; kill it when its time has come."""
    begun, due = time.monotonic(), kill
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        passed = time.monotonic() - begun
        if due is not None and passed >= due[1]:
            os.kill(child, due[0])
            due = None
        if passed > TIMEOUT:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.002)


def complaint(ended: Ended, killed: int | None = None) -> str | None:
    """Return the reason why a command did not end as it must; None if it did.

    It must end with status 0, or with one sentence and status 2; after a signal, also by it. With
    `--verbose`, a traceback precedes the sentence.
    """
    lines = ended.err.strip().splitlines()
    shown = f"dpcl {' '.join(ended.arguments)[:300]}: status {ended.status}: {lines[-4:]}"
    verbose = any(word in ("-v", "--verbose") for word in ended.arguments)
    if "defect of dpcl" in ended.err or ("Traceback" in ended.err and not verbose):
        return shown
    if ended.status == 0 or (killed and ended.status in (-killed, 128 + killed)):
        return None
    if ended.status != 2:
        return shown
    spoken = [line for line in lines if line.startswith("dpcl: ")]
    return None if spoken and _is_sentence(spoken[-1]) else shown


def _is_sentence(line: str) -> bool:
    return 10 < len(line) < LONGEST


def leftovers(folder: Path) -> list[str]:
    """Return the temporary files and folders below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(PART))


def refused(call: Callable[[], Any]) -> tuple[str, str | None]:
    """Call a function of dpcl with hostile input.

    Returns:
        The outcome: accepted, refused or failed; and a complaint, where an exception would cross
        the command line as a defect or the message is no sentence.
    """
    try:
        call()
    except InputError as error:
        message = str(error)
        bad = None if "\n" not in message and _is_sentence(message) else message[:LONGEST]
        return "refused", bad
    except Exception as error:
        if process.sentence(error) is not None:
            return "refused", None
        where = traceback.extract_tb(error.__traceback__)[-1]
        return (
            "failed",
            f"{type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})",
        )
    return "accepted", None


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block after some seconds of CPU time."""

    def late(number: int, frame: object) -> None:
        raise RuntimeError(f"took more than {seconds} s of CPU time")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def isolated(
    tally: Tally,
    items: list[Any],
    attack: Callable[[Any], tuple[str, str | None]],
    batch: int = 200,
) -> None:
    """Attack with each item in a forked process; a crash is the complaint of its item."""
    rest = list(range(len(items)))
    while rest:
        now, rest = rest[:batch], rest[batch:]
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            _attack_all(writer, items, now, attack)
        os.close(writer)
        with os.fdopen(reader, "r", errors="replace") as lines:
            found = [line.rstrip("\n").split("\t", 1) for line in lines]
        _, status = os.waitpid(child, 0)
        for outcome, text in found:
            tally.add(outcome, text or None)
        if len(found) < len(now):  # the process ended with this item
            code = os.waitstatus_to_exitcode(status)
            tally.add("crash", f"{items[now[len(found)]]!r}"[:300] + f": the process ended: {code}")
            rest = now[len(found) + 1 :] + rest


def _attack_all(
    writer: int, items: list[Any], now: list[int], attack: Callable[[Any], tuple[str, str | None]]
) -> None:
    try:
        for number in now:
            with alarm(20):
                outcome, text = attack(items[number])
            line = f"{outcome}\t{(text or '').replace(chr(10), ' / ')}\n"
            os.write(writer, line.encode("utf-8", "replace"))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)
