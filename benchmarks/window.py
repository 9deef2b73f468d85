"""What STFT to train on: SI-SDRi of ideal binary masks on a validation list, by window and hop.

python benchmarks/window.py --root CORPUS
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from dpcl.evaluation.metrics import si_sdr
from dpcl.mixtures.lists import read_list, render_mixture
from dpcl.signal.bins import ideal_assignments
from dpcl.signal.stft import STFT

SAMPLE_RATE = 8000
CHOICES = (
    (256, 64),
    (256, 128),
    (320, 80),
    (320, 160),
    (384, 96),
    (512, 128),
    (512, 256),
    (1024, 256),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", type=Path, default=Path("lists/valid2.csv"))
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=40)
    arguments = parser.parse_args()

    rows = read_list(arguments.list)[: arguments.limit]
    rendered = [render_mixture(row, arguments.root, SAMPLE_RATE) for row in rows]
    print(f"SI-SDRi in dB, {len(rows)} mixtures of {arguments.list}\n")
    print("| window, ms | hop, ms | ideal binary mask |\n|--:|--:|--:|")
    for window, hop in CHOICES:
        stft = STFT(window, hop)
        scores = []
        for mixture, references in (map(torch.from_numpy, pair) for pair in rendered):
            masks = ideal_assignments(stft(references)).T  # (C, L*F)
            spectrum = stft(mixture)  # (L, F)
            estimates = stft.inverse(masks.view(-1, *spectrum.shape) * spectrum, len(mixture))
            scores.append((si_sdr(estimates, references) - si_sdr(mixture, references)).mean())
        mean = float(torch.stack(scores).mean())
        print(f"| {1e3 * window / SAMPLE_RATE:g} | {1e3 * hop / SAMPLE_RATE:g} | {mean:.2f} |")


if __name__ == "__main__":
    main()
