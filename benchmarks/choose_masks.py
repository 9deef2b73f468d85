"""Choose on a validation list how embeddings become masks, and write the weights that ship.

    python benchmarks/choose_masks.py runs/default/best.safetensors --root CORPUS \\
        --write src/dpcl/weights/default.safetensors

Prints SI-SDRi of every choice: which bins pull the centroids, and binary masks or soft ones of some
sharpness. Embeddings are computed once a mixture. The best choice goes into the written file, whose
weights are stored in half precision.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from dpcl.clustering.kmeans import kmeans
from dpcl.evaluation.metrics import best_permutation, si_sdr
from dpcl.mixtures.lists import read_list, render_mixture
from dpcl.model import MaskSettings, load_model, save_model
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.masks import masks_from_centroids
from dpcl.signal.bins import Weighting, bin_weights

SHARPNESS = (None, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--list", type=Path, default=Path("lists/valid2.csv"))
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--floor-db", type=float, default=-40.0, help="quieter bins pull nothing")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()

    model = load_model(arguments.weights)
    separator = DeepClustering(model)
    choices = [
        MaskSettings(weighting=weighting, sharpness=sharpness, floor_db=arguments.floor_db)
        for weighting in get_args(Weighting)
        for sharpness in SHARPNESS
    ]
    scores: dict[MaskSettings, list[float]] = defaultdict(list)
    for row in read_list(arguments.list)[: arguments.limit]:
        mixture, references = map(
            torch.from_numpy, render_mixture(row, arguments.root, separator.sample_rate)
        )
        spectrum = separator.stft(mixture[None])  # (1, L, F)
        embeddings = separator.embed(spectrum)
        before = si_sdr(mixture, references)
        for choice in choices:
            weights = bin_weights(spectrum, choice.weighting, choice.floor_db)
            centroids = kmeans(embeddings, len(references), weights).centroids
            masks = masks_from_centroids(embeddings, centroids, choice)[0]  # (C, L*F)
            layers = masks.view(-1, *spectrum.shape[1:]) * spectrum
            estimates = separator.stft.inverse(layers, mixture.shape[-1])
            order = best_permutation(estimates, references)
            scores[choice].append(float((si_sdr(estimates[order], references) - before).mean()))

    means = {choice: sum(values) / len(values) for choice, values in scores.items()}
    best = max(means, key=means.__getitem__)
    print(f"SI-SDRi in dB on {len(scores[best])} mixtures of {arguments.list}\n")
    print("| masks | bins of equal weight | by magnitude | by energy |\n|---|--:|--:|--:|")
    for sharpness in SHARPNESS:
        row = [f"{means[choice]:.2f}" for choice in choices if choice.sharpness == sharpness]
        name = "binary" if sharpness is None else f"soft, sharpness {sharpness:g}"
        print(f"| {name} | {' | '.join(row)} |")
    if arguments.write:
        settings = model.settings.model_copy(update={"masks": best})
        save_model(replace(model, settings=settings), arguments.write, half=True)
        print(f"\n{arguments.write}: {best!r}")


if __name__ == "__main__":
    main()
