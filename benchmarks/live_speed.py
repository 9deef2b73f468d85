"""Real-time factor and latency of a stream: blocks of 20 ms through a causal network.

python benchmarks/live_speed.py --model causal
python benchmarks/live_speed.py --model causal --rate 48000 --busy 2    # beside other programs
"""

from __future__ import annotations

import argparse
import time
from multiprocessing import Process

import numpy as np
import torch

from dpcl.recordings.stream import StreamSeparator


def main() -> None:
    """Measure a stream of noise and print its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="causal", help="a causal model")
    parser.add_argument("--rate", type=int, help="Hz; the network's own if omitted")
    parser.add_argument("--block", type=float, default=0.02, help="seconds")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--busy", type=int, default=0, help="processes that keep a core busy each")
    arguments = parser.parse_args()
    for _ in range(arguments.busy):
        Process(target=keep_busy, daemon=True).start()
    torch.manual_seed(0)
    stream = StreamSeparator(arguments.model, 2, arguments.rate)
    size = round(arguments.block * stream.sample_rate)
    blocks = torch.randn(round(arguments.seconds / arguments.block), size) / 10
    for block in blocks[:100]:  # until after the first clustering
        stream.push(block)
    pushed = came = most = 0
    stream.reset()
    walls, cpus = [], []
    for block in blocks:
        wall, cpu = time.perf_counter(), time.process_time()
        came += stream.push(block).shape[-1]
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        pushed += size
        most = max(most, pushed - came)
    audio = arguments.seconds
    print(
        f"{stream.sample_rate} Hz, blocks of {1e3 * arguments.block:g} ms,"
        f" {arguments.busy} other programs"
    )
    print(
        f"latency: {1e3 * stream.latency / stream.sample_rate:g} ms; after a push at most"
        f" {1e3 * most / stream.sample_rate:g} ms are still to come"
    )
    print(
        f"real time / wall time: {audio / sum(walls):.1f}; real time / processor time:"
        f" {audio / sum(cpus):.1f}"
    )
    middle, slow, slowest = (1e3 * np.quantile(walls, q) for q in (0.5, 0.99, 1))
    print(
        f"a push takes {middle:.1f} ms (median), {slow:.1f} ms (99 %), {slowest:.1f} ms (slowest)"
    )


def keep_busy() -> None:
    """Multiply matrices in one thread, until the benchmark ends."""
    torch.set_num_threads(1)
    matrix = torch.randn(1024, 1024)
    while True:
        torch.mm(matrix, matrix)


if __name__ == "__main__":
    main()
