"""What it costs to cluster N points by their affinity: dense, Nystrom, and the low-rank form.

    python benchmarks/affinity_cost.py

From features to labels of two clusters. Dense: the N x N Gaussian affinity of 5 features and its
eigenvectors. Nystrom: the affinity to 300 landmarks. Low rank: the affinity V V' of unit
embeddings of 20 dimensions, as deep clustering has it, by the same spectral clustering, and by
k-means of V, as it is clustered in `dpcl.separators`. Each case runs in a process of its own; time
is the median of --repeats after one that does not count, memory the growth of the resident set at
its peak (Linux).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import machine
import torch
from objective import _status as status
from torch import Tensor

from dpcl.clustering.kmeans import kmeans
from dpcl.separators.classical.spectral import (
    dense_embedding,
    low_rank_embedding,
    nystrom_factor,
    spectral_clusters,
)

POINTS = (500, 1_000, 2_000, 16_000, 64_000)
MOST_DENSE = 2_000
LANDMARKS = 300
RESULTS = Path(__file__).resolve().parent / "results" / "affinity_cost.json"


def _gaussian(points: Tensor, others: Tensor) -> Tensor:
    return torch.exp(-torch.cdist(points, others).square() / 2)


def dense(points: Tensor) -> Tensor:
    features = points[:, :5]
    return spectral_clusters(dense_embedding(_gaussian(features, features), 2), 2)


def nystrom(points: Tensor) -> Tensor:
    features, landmarks = points[:, :5], torch.arange(LANDMARKS)
    factor = nystrom_factor(_gaussian(features, features[landmarks]), landmarks)
    return spectral_clusters(low_rank_embedding(factor, 2), 2)


def low_rank(points: Tensor) -> Tensor:
    return spectral_clusters(low_rank_embedding(torch.nn.functional.normalize(points), 2), 2)


def k_means(points: Tensor) -> Tensor:
    return kmeans(torch.nn.functional.normalize(points), 2).labels


SYSTEMS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": dense,
    "nystrom": nystrom,
    "low rank": low_rank,
    "k-means": k_means,
}


def measure(system: str, count: int, repeats: int) -> dict[str, object]:
    """Seconds and peak bytes, in this process."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(count, 20, generator=generator)
    points[: count // 2, :5] += 2
    SYSTEMS[system](points[:LANDMARKS])  # libraries are loaded
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = status("VmRSS")
    SYSTEMS[system](points)
    memory = status("VmHWM") - before
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        SYSTEMS[system](points)
        seconds.append(time.perf_counter() - start)
    return {"system": system, "points": count, "seconds": seconds, "peak_bytes": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case[0], int(arguments.case[1]), arguments.repeats)))
        return
    about = machine.describe()
    print(machine.heading(about))
    print("| N | " + " | ".join(SYSTEMS) + " |\n|--:" + "|--:" * len(SYSTEMS) + "|")
    rows = []
    for count in POINTS:
        cells = []
        for system in SYSTEMS:
            if system == "dense" and count > MOST_DENSE:
                cells.append(f"not run: {4 * count**2 / 2**30:.1f} GiB a matrix")
                continue
            command = [sys.executable, __file__, "--case", system, str(count)]
            command += ["--repeats", str(arguments.repeats)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout)
            rows.append(row)
            milliseconds = 1e3 * statistics.median(row["seconds"])
            cells.append(f"{milliseconds:.3g} ms, {row['peak_bytes'] / 2**20:.1f} MiB")
        print(f"| {count:,} | " + " | ".join(cells) + " |", flush=True)
    machine.write_json(arguments.out, about, {"landmarks": LANDMARKS}, rows)


if __name__ == "__main__":
    main()
