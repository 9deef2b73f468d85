"""The affinity objective alone, forward plus backward: dpcl, asteroid, and the dense N x N form.

All three get the same embeddings, dominating source per bin and mask of audible bins (float32).
Values and gradients are compared before anything is timed.

Time: dpcl and asteroid in rounds A B A B in one process, then the dense form. Median (min-max);
ratios are taken round by round.

Memory: one process per (system, batch, N, K). It is the growth of the resident set above that with
libraries loaded, a small case run and the inputs made; the gradient is part of it. The kernel's
high-water mark is reset at that point (Linux: /proc/self/clear_refs). ru_maxrss cannot be reset,
tracemalloc sees no tensors, and torch's profiler sees no BLAS buffers. glibc maps every block over
64 KiB separately (MALLOC_MMAP_THRESHOLD_), so earlier freed memory neither hides a new block nor
counts as one. The kernel's count is exact to about 0.25 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import torch
from torch import Tensor

from dpcl.objectives.affinity import affinity_loss

SOURCES = 2
BINS = (12_900, 32_000, 64_500, 129_000)  # 129 bins times 100, 248, 500, 1000 frames
WIDTHS = (20, 40)  # K
TRAINING_BATCH = (32, 12_900)  # of a training step: items of 100 frames
DENSE_MATRICES = 3  # N x N matrices at the peak of the dense form, measured
RESULTS = Path(__file__).resolve().parent / "results" / "objective.json"

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(embeddings: Tensor, labels: Tensor, active: Tensor) -> Tensor:
    """dpcl, in [0, 4]."""
    return affinity_loss(embeddings, _one_hot(labels, embeddings.dtype), active)


def asteroids(embeddings: Tensor, labels: Tensor, active: Tensor) -> Tensor:
    """asteroid, which divides by the number of active bins: scaled to ours."""
    from asteroid.losses import deep_clustering_loss

    # Its layout is (B, F, L); the objective does not depend on the order of the bins.
    loss: Tensor = deep_clustering_loss(embeddings, labels.unsqueeze(1), active.unsqueeze(1))
    return loss / active.sum(-1)


def dense(embeddings: Tensor, labels: Tensor, active: Tensor) -> Tensor:
    """The definition, with the fewest N x N matrices that autograd allows."""
    root = active.sqrt().unsqueeze(-1)
    v, y = root * embeddings, root * _one_hot(labels, embeddings.dtype)
    difference = torch.baddbmm(y @ y.mT, v, v.mT, alpha=-1)  # (B, N, N)
    squared: Tensor = torch.linalg.vector_norm(difference, dim=(1, 2)).square()
    return squared / active.sum(-1).square()


def _one_hot(labels: Tensor, dtype: torch.dtype) -> Tensor:
    return (labels.unsqueeze(-1) == torch.arange(SOURCES)).to(dtype)  # (B, N, C)


SYSTEMS: dict[str, Loss] = {"dpcl": ours, "asteroid": asteroids, "dense": dense}


def inputs(batch: int, bins: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return embeddings (B, N, K) with gradient, labels (B, N), active (B, N), 60 % of them 1."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(batch, bins, width, generator=generator)
    embeddings /= embeddings.norm(dim=-1, keepdim=True)
    labels = torch.randint(SOURCES, (batch, bins), generator=generator)
    active = (torch.rand(batch, bins, generator=generator) < 0.6).float()
    return embeddings.requires_grad_(), labels, active


def forward_backward(system: str, embeddings: Tensor, labels: Tensor, active: Tensor) -> Tensor:
    """Evaluate once; embeddings.grad is replaced."""
    embeddings.grad = None
    loss = SYSTEMS[system](embeddings, labels, active)
    loss.mean().backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def check_agreement(systems: list[str], width: int) -> None:
    """Raise unless all systems agree in value and gradient."""
    case = inputs(2, 1_000, width)
    expected = forward_backward("dpcl", *case)
    gradient = case[0].grad
    for system in systems:
        torch.testing.assert_close(forward_backward(system, *case), expected, rtol=1e-4, atol=0)
        torch.testing.assert_close(case[0].grad, gradient, rtol=1e-3, atol=1e-8)


def peak_memory(system: str, batch: int, bins: int, width: int) -> int | None:
    """Return the bytes above the inputs, in this process; None where they are not available."""
    forward_backward(system, *inputs(1, 1_024, width))
    case = inputs(batch, bins, width)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    before = _status("VmRSS")
    forward_backward(system, *case)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


def memory_in_own_process(system: str, batch: int, bins: int, width: int) -> int | None:
    """`peak_memory` in a fresh interpreter."""
    command = [sys.executable, __file__, "--memory-of", system, str(batch), str(bins), str(width)]
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    size: int | None = json.loads(done.stdout)
    return size


def dense_need(batch: int, bins: int) -> int:
    """Return the bytes that the dense form needs at its peak."""
    return DENSE_MATRICES * batch * bins * bins * 4


def measure_case(
    systems: list[str], batch: int, bins: int, width: int, repeats: int
) -> list[dict[str, Any]]:
    """Return one row per system."""
    case = inputs(batch, bins, width)
    need = dense_need(batch, bins)
    fits = {name: name != "dense" or need < 0.9 * measure.available_memory() for name in systems}
    low_rank = {
        name: lambda name=name: forward_backward(name, *case) for name in systems if name != "dense"
    }
    seconds = measure.interleaved(low_rank, repeats)
    if fits.get("dense"):
        seconds |= measure.interleaved({"dense": lambda: forward_backward("dense", *case)}, repeats)
    rows = []
    for name in systems:
        row: dict[str, Any] = {"batch": batch, "bins": bins, "width": width, "system": name}
        if fits[name]:
            row["seconds"] = seconds[name]
            row["median_seconds"] = statistics.median(seconds[name])
            row["peak_bytes"] = memory_in_own_process(name, batch, bins, width)
        else:
            row["needs_bytes"] = need
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return Markdown; ratios are to dpcl's row of the same case."""
    lines = [
        "| batch × N | K | system | time, ms | × ours | peak memory, MiB | × ours |",
        "|---|---|---|---|---|---|---|",
    ]
    base: dict[str, Any] = {}
    for row in rows:
        base = row if row["system"] == "dpcl" else base
        start = f"| {row['batch']} × {row['bins']:,} | {row['width']} | {row['system']} |"
        if "seconds" not in row:
            gib = row["needs_bytes"] / 2**30
            lines.append(f"{start} does not fit: {gib:,.0f} GiB | | | |")
            continue
        slower = measure.spread(measure.ratios(row["seconds"], base["seconds"]))
        memory = ["not measured", ""]
        if row["peak_bytes"] is not None:
            # The kernel's count is exact to about 0.25 MiB: smaller ones give no ratio.
            larger = row["peak_bytes"] / base["peak_bytes"] if base["peak_bytes"] > 2**18 else None
            memory = [f"{row['peak_bytes'] / 2**20:.1f}", f"{larger:.1f}" if larger else ""]
        time = measure.spread(row["seconds"], 1e3)
        lines.append(" | ".join([f"{start} {time}", slower, *memory]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure all cases, print the table and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bins", type=int, nargs="+", default=BINS, metavar="N")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, metavar="K")
    parser.add_argument("--batch", type=int, nargs=2, default=TRAINING_BATCH, metavar=("B", "N"))
    parser.add_argument("--repeats", type=int, default=7, help="rounds that count (default 7)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON (default %(default)s)")
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        system, *sizes = arguments.memory_of
        print(json.dumps(peak_memory(system, *(int(size) for size in sizes))))
        return

    systems = list(SYSTEMS)
    try:
        import asteroid.losses  # noqa: F401
    except ImportError as error:
        print(
            f"asteroid skipped ({error}); to install it see benchmarks/README.md", file=sys.stderr
        )
        systems.remove("asteroid")
    about = measure.describe()
    print(measure.heading(about))
    rows = []
    cases = [(1, bins) for bins in arguments.bins] + [tuple(arguments.batch)]
    for width in arguments.widths:
        check_agreement(systems, width)
        for batch, bins in cases:
            print(f"batch {batch}, N {bins}, K {width} ...", file=sys.stderr)
            rows += measure_case(systems, batch, bins, width, arguments.repeats)
    print(table(rows))
    settings = {"sources": SOURCES, "dtype": "float32", "repeats": arguments.repeats}
    measure.write_json(arguments.out, about, settings, rows)


if __name__ == "__main__":
    main()
