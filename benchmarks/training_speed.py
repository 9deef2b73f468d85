"""Hours of audio per hour of training: dpcl, and the same network with asteroid's loss.

A step is forward, loss, backward and Adam on one batch of 32 x 100 frames (8 kHz, hop 64), 2 x 300
BLSTM, K = 20. Both networks start from the same weights and get the same batch; the first losses
are compared. Loading and mixing is not included. Steps alternate A B A B in one process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import torch
from torch import Tensor, nn
from torch.nn import functional

from dpcl.networks.base import Heads
from dpcl.networks.lstm import BLSTMEmbedding
from dpcl.objectives.affinity import affinity_loss

BINS, LAYERS, WIDTH, EMBEDDING, SOURCES = 129, 2, 300, 20, 2
HOP, SAMPLE_RATE = 64, 8000  # samples, Hz
RESULTS = Path(__file__).resolve().parent / "results" / "training_speed.json"

Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Batch:
    """The input of a training step: B items of L frames and F bins, N = L * F."""

    features: Tensor  # (B, L, F)
    labels: Tensor  # (B, N), the source that dominates
    active: Tensor  # (B, N), float, zero in silent bins


class TorchBLSTM(nn.Module):
    """The same network in torch alone, as for asteroid's loss."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BINS, WIDTH, LAYERS, bidirectional=True, batch_first=True)
        self.project = nn.Linear(2 * WIDTH, BINS * EMBEDDING)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, L, F) to embeddings (B, L*F, K)."""
        hidden, _ = self.lstm(features)
        embeddings = self.project(hidden).view(len(features), -1, EMBEDDING).tanh()
        unit: Tensor = functional.normalize(embeddings, dim=-1)
        return unit


def our_step(weights: dict[str, Tensor], batch: Batch, bf16: bool) -> Step:
    """Return one training step of dpcl."""
    network = BLSTMEmbedding(BINS, LAYERS, WIDTH, Heads(EMBEDDING, activation="tanh"))
    network.load_state_dict(weights, strict=False)  # without mean and std: 0 and 1
    optimizer = torch.optim.Adam(network.parameters())
    sources = torch.arange(SOURCES)

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            embeddings = network(batch.features).embeddings
        assignments = (batch.labels.unsqueeze(-1) == sources).float()
        loss = affinity_loss(embeddings, assignments, batch.active)
        _update(loss.mean(), optimizer)
        return loss.detach()

    return step


def asteroid_step(weights: dict[str, Tensor], batch: Batch) -> Step:
    """Return one training step with asteroid's loss, its value scaled to ours."""
    from asteroid.losses import deep_clustering_loss

    network = TorchBLSTM()
    network.load_state_dict(weights)
    optimizer = torch.optim.Adam(network.parameters())
    # Its layout is (B, F, L). The value does not depend on the order of the bins, so the
    # transposition of its own recipe is omitted.
    labels, active = batch.labels.unsqueeze(1), batch.active.unsqueeze(1)

    def step() -> Tensor:
        loss = deep_clustering_loss(network(batch.features), labels, active)
        _update(loss.mean(), optimizer)
        value: Tensor = loss.detach() / batch.active.sum(-1)
        return value

    return step


def _update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def make_batch(items: int, frames: int) -> Batch:
    """Return noise as features: the time of a step does not depend on their values."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(SOURCES, (items, frames * BINS), generator=generator)
    active = torch.rand(labels.shape, generator=generator) < 0.6
    features = torch.randn(items, frames, BINS, generator=generator)
    return Batch(features, labels, active.float())


def main() -> None:
    """Measure, print the table and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=32, metavar="B", help="default 32")
    parser.add_argument("--frames", type=int, default=100, metavar="L", help="default 100")
    parser.add_argument("--repeats", type=int, default=15, help="rounds that count (default 15)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON (default %(default)s)")
    arguments = parser.parse_args()

    batch = make_batch(arguments.items, arguments.frames)
    torch.manual_seed(0)
    weights = {name: value.clone() for name, value in TorchBLSTM().state_dict().items()}
    steps = {"dpcl": our_step(weights, batch, bf16=False)}
    try:
        steps["asteroid's loss"] = asteroid_step(weights, batch)
    except ImportError as error:
        print(
            f"asteroid skipped ({error}); to install it see benchmarks/README.md", file=sys.stderr
        )
    steps["dpcl, bf16"] = our_step(weights, batch, bf16=True)

    about = measure.describe()
    print(measure.heading(about))
    first = {name: step() for name, step in steps.items()}
    for name, loss in first.items():
        tolerance = 2e-2 if "bf16" in name else 1e-4
        torch.testing.assert_close(loss, first["dpcl"], rtol=tolerance, atol=0)
    seconds = measure.interleaved(steps, arguments.repeats)

    audio = arguments.items * arguments.frames * HOP / SAMPLE_RATE  # s in a batch
    print("| training step | time, ms | hours of audio per hour | speed, × asteroid's |")
    print("|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    reference = seconds.get("asteroid's loss")
    for name, values in seconds.items():
        speed = [audio / value for value in values]
        faster = measure.spread(measure.ratios(reference, values)) if reference else ""
        print(f"| {name} | {measure.spread(values, 1e3)} | {measure.spread(speed)} | {faster} |")
        rows.append({"system": name, "seconds": values, "hours_per_hour": speed})
    settings = {
        "items": arguments.items,
        "frames": arguments.frames,
        "layers": LAYERS,
        "width": WIDTH,
        "embedding": EMBEDDING,
        "audio_seconds_per_step": audio,
    }
    measure.write_json(arguments.out, about, settings, rows)


if __name__ == "__main__":
    main()
