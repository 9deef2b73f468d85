"""What the figures were measured on, and the timing that the benchmarks share."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "dpcl", "asteroid", "soundfile")


def describe() -> dict[str, Any]:
    """Processor, cores, versions, and what matrix products reach, in GFLOP/s."""
    import torch

    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
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
    """One paragraph of Markdown that says what `describe` found."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory_gib']} GiB, matrix products {machine['fp32_matmul_gflops']} GFLOP/s "
        f"in float32 and {machine['bf16_matmul_gflops']} in bfloat16, load before the run "
        f"{machine['load_before']}; Python {machine['python']}, {versions}.\n"
    )


def interleaved(steps: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step, in rounds A B C A B C, after one round that is not counted.

    Whatever slows the machine down for a while meets every step alike, so that the ratios within a
    round say more than those of the medians.
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


def spread(values: list[float], scale: float = 1, digits: int = 3) -> str:
    """Median (min-max) with so many significant digits."""
    low, middle, high = (
        f"{scale * value:.{digits}g}" if scale * value < 10**digits else f"{scale * value:.0f}"
        for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({low}–{high})"


def ratios(values: list[float], reference: list[float]) -> list[float]:
    """Value over reference, round by round."""
    return [value / base for value, base in zip(values, reference, strict=True)]


def write_json(path: Path, machine: dict[str, Any], settings: dict[str, Any], rows: Any) -> None:
    """Everything measured, with the machine and the settings, beside the table that was printed.

    Whoever stops the program finds the file as it was or as it is to be, never half of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine, "settings": settings, "rows": rows}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        partial = Path(folder) / path.name
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)


def matmul_rate(dtype: Any) -> float:
    """The best GFLOP/s of a square product of 512, 1024 or 2048 in a torch dtype.

    Larger ones are left out where one takes a tenth of a second, as numbers do that the processor
    does not have.
    """
    import torch

    rates = []
    for size in (512, 1024, 2048):
        matrix = torch.randn(size, size).to(dtype)
        seconds = interleaved({"product": lambda matrix=matrix: matrix @ matrix}, 5)["product"]
        rates.append(2 * size**3 / min(seconds) / 1e9)
        if min(seconds) > 0.1:
            break
    return max(rates)


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
