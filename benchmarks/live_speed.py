"""How fast a stream is separated, and how far behind: blocks of 20 ms through a causal network.

python benchmarks/live_speed.py                  # random weights of the size of recipes/causal.yaml
python benchmarks/live_speed.py --model causal --rate 16000
python benchmarks/live_speed.py --model causal --busy 2    # beside other programs
"""

from __future__ import annotations

import argparse
import time
from multiprocessing import Process
from pathlib import Path

import numpy as np
import torch
import yaml

from dpcl.model import Model, ModelSettings, build_network
from dpcl.recordings.stream import StreamSeparator

RECIPE = Path(__file__).parents[1] / "recipes" / "causal.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a causal model; random weights if left out")
    parser.add_argument("--rate", type=int, help="Hz; the network's own if left out")
    parser.add_argument("--block", type=float, default=0.02, help="seconds")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--busy", type=int, default=0, help="processes that keep a core busy each")
    arguments = parser.parse_args()
    for _ in range(arguments.busy):
        Process(target=keep_busy, daemon=True).start()
    torch.manual_seed(0)
    model: str | Model = arguments.model or random_model()
    stream = StreamSeparator(model, 2, arguments.rate)
    size = round(arguments.block * stream.sample_rate)
    blocks = torch.randn(round(arguments.seconds / arguments.block), size) / 10
    for block in blocks[:100]:  # warm, and past the first clustering
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
        matrix @ matrix


def random_model() -> Model:
    """The network of the recipe as it is before its training."""
    settings = ModelSettings(**yaml.safe_load(RECIPE.read_text())["model"])
    return Model(settings, build_network(settings).eval(), {})


if __name__ == "__main__":
    main()
