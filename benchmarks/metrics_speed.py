"""What scoring a list costs: processor seconds for 300 mixtures of 6 s of two talkers.

    OMP_NUM_THREADS=1 python benchmarks/metrics_speed.py

Separation and reading are not in it. Processor time, so that it is right on a busy machine too.
"""

from __future__ import annotations

import time

import torch

from dpcl.evaluation.metrics import perceptual_score, score

MIXTURES, SECONDS, RATE = 300, 6, 8000
SAMPLE = 30  # mixtures that are timed


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    spent = {"SI-SDR and SDR": 0.0, "STOI": 0.0}
    for _ in range(SAMPLE):
        references = torch.randn(2, SECONDS * RATE, generator=generator)
        references[:, 1:] += 0.9 * references[:, :-1]
        mixture, estimates = references.sum(0), references + 0.3 * references.flip(0)
        start = time.process_time()
        score(estimates, references, mixture)
        middle = time.process_time()
        for signals in (estimates, mixture.expand_as(references)):
            perceptual_score("stoi", signals, references, RATE)
        spent["SI-SDR and SDR"] += middle - start
        spent["STOI"] += time.process_time() - middle
    for what, seconds in spent.items():
        print(f"{what}: {seconds / SAMPLE * MIXTURES:.1f} s for {MIXTURES} mixtures, one core")


if __name__ == "__main__":
    main()
