"""Timing, child processes, recordings and the machine: shared by all benchmarks."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

PACKAGES = ("torch", "numpy", "dpcl", "asteroid", "soundfile")
NO_MEMORY = ("allocate memory", "MemoryError", "bad_alloc")  # messages of torch, numpy, C++
EXAMPLE = Path(__file__).parents[1] / "examples" / "two_talkers.flac"


def describe() -> dict[str, Any]:
    """Return processor, cores, versions, and the rate of matrix products in GFLOP/s."""
    import torch

    affinity = hasattr(os, "sched_getaffinity")
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in PACKAGES},
        "fp32_matmul_gflops": round(matmul_rate(torch.float32), 1),
        "bf16_matmul_gflops": round(matmul_rate(torch.bfloat16), 1),
    }


def heading(machine: dict[str, Any]) -> str:
    """Return the result of `describe` as a paragraph of Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory_gib']} GiB, matrix products {machine['fp32_matmul_gflops']} GFLOP/s "
        f"in float32 and {machine['bf16_matmul_gflops']} in bfloat16, load before the run "
        f"{machine['load_before']}; Python {machine['python']}, {versions}.\n"
    )


def interleaved(steps: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each step, in rounds A B C A B C after one that does not count.

    A slow moment of the machine meets every step of a round alike, so ratios within a round are
    more exact than ratios of medians.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(repeats + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            elapsed = time.perf_counter() - started
            if round_number:
                seconds[name].append(elapsed)
    return seconds


def spread(values: Sequence[float], scale: float = 1, digits: int = 3) -> str:
    """Return median (min-max) with this number of significant digits."""
    low, middle, high = (
        f"{scale * value:.{digits}g}" if scale * value < 10**digits else f"{scale * value:.0f}"
        for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({low}–{high})"


def ratios(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return value over reference, round by round."""
    return [value / base for value, base in zip(values, reference, strict=True)]


def write_json(path: Path, machine: dict[str, Any], settings: dict[str, Any], rows: Any) -> None:
    """Write all measurements with machine and settings, atomically."""
    from dpcl.io import atomic

    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine, "settings": settings, "rows": rows}
    with atomic(path) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def matmul_rate(dtype: Any) -> float:
    """Return the best GFLOP/s of a square product of 512, 1024 or 2048 in a torch dtype."""
    import torch

    rates = []
    for size in (512, 1024, 2048):
        matrix = torch.randn(size, size).to(dtype)
        seconds = interleaved({"product": lambda matrix=matrix: matrix @ matrix}, 5)["product"]  # type: ignore[misc]
        rates.append(2 * size**3 / min(seconds) / 1e9)
        if min(seconds) > 0.1:  # the processor emulates this type
            break
    return max(rates)


class TooLarge(Exception):
    """A child needed more memory than its limit."""


class TooLong(Exception):
    """A child was stopped at its time limit."""


def run_once(
    command: Sequence[str],
    memory: float | None = None,
    environment: Mapping[str, str] | None = None,
    most: float | None = None,
) -> tuple[dict[str, float], str]:
    """Run a child process; return wall s, processor s and peak resident MiB, and its output.

    The caller must not import torch before: the peak of a child starts at that of its parent.

    Args:
        command: program and arguments.
        memory: limit in bytes (Linux); TooLarge beyond.
        environment: of the child.
        most: limit in seconds; TooLong beyond.
    """

    def confine() -> None:
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))

    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as complaints:
        started = time.perf_counter()
        child = subprocess.Popen(
            command, stdout=printed, stderr=complaints, preexec_fn=confine, env=environment
        )
        alarm = threading.Timer(threading.TIMEOUT_MAX if most is None else most, child.kill)
        alarm.daemon = True
        alarm.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:  # stopping this program stops the child
            child.kill()
            raise
        finally:
            alarm.cancel()
        elapsed = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if most is not None and elapsed >= most:
            raise TooLong(f"stopped after {most:g} s")
        printed.seek(0)
        complaints.seek(0)
        errors = complaints.read().decode(errors="replace")
        if child.returncode:
            if child.returncode == -9 or any(sign in errors for sign in NO_MEMORY):
                raise TooLarge(errors.strip().rpartition("\n")[2])
            raise SystemExit(f"{errors}failed with status {child.returncode}: {' '.join(command)}")
        output = printed.read().decode()
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    peak = usage.ru_maxrss * unit / 2**20
    return {"wall": elapsed, "cpu": usage.ru_utime + usage.ru_stime, "peak_mib": peak}, output


def available_memory() -> int:
    """Return the bytes that are available without swapping."""
    information = Path("/proc/meminfo")
    if information.is_file():
        for line in information.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def render_speech(seconds: float, path: Path) -> None:
    """Write the example of two talkers, repeated to this length."""
    samples, rate = soundfile.read(EXAMPLE, dtype="int16")
    soundfile.write(path, np.resize(samples, round(seconds * rate)), rate, subtype="PCM_16")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


if __name__ == "__main__":  # for programs that must not import torch themselves
    print(json.dumps(describe()))
