"""A child process and what the kernel says it took.

Who measures with this stays small and imports no torch before: a child's peak starts at its
parent's.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

POLL = 2e-3  # s between looks at the folder of outputs; later, a thousandth of what has passed
NO_MEMORY = ("allocate memory", "MemoryError", "bad_alloc")  # torch, numpy, C++


class TooLarge(Exception):
    """The child asked for more memory than it may have."""


class TooLong(Exception):
    """The child was stopped because its time was up."""


def run_once(
    command: Sequence[str],
    out: Path | None = None,
    memory: float | None = None,
    environment: Mapping[str, str] | None = None,
    most: float | None = None,
) -> tuple[dict[str, float], str]:
    """Wall s, processor s and peak resident MiB of a child that must succeed; and what it printed.

    out: a folder to watch; "first" is then when the first finished WAV file stood in it. memory:
    bytes that the child may allocate, else TooLarge (Linux), so that nothing else is killed. most:
    seconds after which it is stopped, TooLong.
    """

    def confine() -> None:
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))

    first: float | None = None
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as complaints:
        started = time.perf_counter()
        child = subprocess.Popen(
            command, stdout=printed, stderr=complaints, preexec_fn=confine, env=environment
        )
        alarm = threading.Timer(threading.TIMEOUT_MAX if most is None else most, child.kill)
        alarm.daemon = True
        alarm.start()
        try:
            while True:
                waiting = os.WNOHANG if out and first is None else 0
                pid, status, usage = os.wait4(child.pid, waiting)
                elapsed = time.perf_counter() - started
                # A name that starts with a dot is a file not yet whole.
                if waiting and any(not path.name.startswith(".") for path in out.glob("*.wav")):
                    first = elapsed
                if pid:
                    break
                time.sleep(max(POLL, elapsed / 1000))
        except BaseException:  # whoever stops this program stops its child
            child.kill()
            raise
        finally:
            alarm.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        if most is not None and elapsed >= most:
            raise TooLong(f"stopped after {most:g} s")
        printed.seek(0)
        complaints.seek(0)
        said = complaints.read().decode(errors="replace")
        if child.returncode:
            if child.returncode == -9 or any(sign in said for sign in NO_MEMORY):
                raise TooLarge(said.strip().rpartition("\n")[2])
            raise SystemExit(f"{said}failed with status {child.returncode}: {' '.join(command)}")
        output = printed.read().decode()
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    took = {
        "wall": elapsed,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss * unit / 2**20,
    }
    return took if first is None else {**took, "first": first}, output
