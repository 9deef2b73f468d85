"""All objectives and networks side by side, trained with the same data: see recipes/README.md.

    for recipe in affinity chimera upit ...; do dpcl train recipes/$recipe.yaml; done
    python benchmarks/extensions.py --root CORPUS

Takes the best weights of each run that is there. How soft the masks of clusters are is chosen for
each on the first rows of valid2 (--choose); the scores are of open2 and open3. Every score, with
the machine, goes into benchmarks/results/extensions.json as soon as it is there; what is in it
already, of the same weights, is not done again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from machine import describe, heading

from dpcl.evaluation.evaluate import evaluate
from dpcl.evaluation.metrics import best_permutation, si_sdr
from dpcl.mixtures.lists import read_list, render_mixture
from dpcl.model import MaskSettings, Model, ModelSettings, load_model
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.training.recipe import read_recipe

RESULTS = Path(__file__).resolve().parent / "results" / "extensions.json"
# (recipe, masks of which head, what it is); binary: of the embeddings, and not soft
ROWS = (
    # from fresh weights, and on from these
    ("affinity", "binary", "affinity, binary masks (Hershey et al. 2016)"),
    ("affinity", "embedding", "the same, soft masks"),
    ("affinity-weighted", "binary", "affinity, bins weighted by magnitude: binary masks"),
    ("affinity-weighted", "embedding", "the same, soft masks"),
    ("whitened-kmeans", "embedding", "whitened k-means"),
    ("spectral", "embedding", "projector, gradient through spectral clustering"),
    ("attractor", "embedding", "attractor"),
    ("anchored-attractor", "embedding", "anchored attractor"),
    ("chimera", "embedding", "chimera++, embeddings"),
    ("chimera", "masks", "chimera++, masks"),
    ("chimera", "both", "chimera++, both"),
    ("upit", "masks", "masks, best order of the utterance (uPIT)"),
    ("best-permutation", "masks", "masks, best order of a segment of 0.8 s"),
    ("strongest", "masks", "masks, strongest first"),
    ("cascade", "masks", "unfolded k-means and dual-path enhancement of weighted affinity"),
    ("cascade-end-to-end", "masks", "the same, trained end to end"),
    ("cascade-end-to-end", "embedding", "its trunk alone, soft masks"),
    ("convolutional", "embedding", "weighted affinity, convolutional"),
    ("dual-path", "embedding", "weighted affinity, dual-path"),
    ("causal-scratch", "embedding", "weighted affinity, causal LSTM"),
    ("causal-conv", "embedding", "weighted affinity, causal convolutional"),
    ("causal-dual-path", "embedding", "weighted affinity, causal dual-path"),
    # on from a trunk that had heard 150 h
    ("enhanced", "masks", "unfolded k-means and enhancement"),
    ("end-to-end", "masks", "the same, trained end to end"),
    (
        "enhanced-dual-path",
        "binary",
        "the trunk of the last of these three, as in 2016: binary masks",
    ),
    ("enhanced-dual-path", "embedding", "the same trunk, soft masks"),
    ("enhanced-dual-path", "masks", "unfolded k-means and dual-path enhancement of it"),
)
SHARPNESS = (None, 1.0, 2.0, 3.5, 5.0, 7.0, 10.0, 15.0)
LISTS = ("open2", "open3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="the corpus")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="default %(default)s")
    parser.add_argument("--limit", type=int, help="first rows of each list only")
    parser.add_argument("--choose", type=int, default=40, help="rows of valid2 (default 40)")
    parser.add_argument("--only", nargs="*", help="recipes; default all that were trained")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON (default %(default)s)")
    arguments = parser.parse_args()

    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    found["machine"] = describe()
    rows = found.setdefault("rows", {})
    for recipe, head, _ in ROWS:
        weights = arguments.runs / recipe / "best.safetensors"
        if not weights.exists() or (arguments.only and recipe not in arguments.only):
            continue
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
        row = rows.setdefault(f"{recipe} {head}", {})
        if row.get("weights") != digest or row.get("limit") != arguments.limit:
            row.clear()
        row |= {"weights": digest, "limit": arguments.limit}
        model = load_model(weights)
        if "masks" not in row:
            chosen = choose(model, head, arguments.root, arguments.choose)
            row["masks"] = chosen.model_dump()
        separator = with_masks(model, MaskSettings.model_validate(row["masks"]))
        devices = read_recipe(Path("recipes") / f"{recipe}.yaml").devices
        row |= {"cpu": found["machine"]["cpu"]} | describe_run(separator, weights.parent, devices)
        for name in LISTS:
            if name not in row:
                row[name] = scores(separator, name, arguments.root, arguments.limit)
                arguments.out.write_text(json.dumps(found, indent=1) + "\n")
        print(line(recipe, head, row), flush=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print("\n" + table(rows) + "\n\n" + heading(found["machine"]))


def with_masks(model: Model, masks: MaskSettings) -> DeepClustering:
    """The separator of a model whose masks are made in this way."""
    settings = model.settings.model_dump() | {"masks": masks.model_dump()}
    return DeepClustering(replace(model, settings=ModelSettings.model_validate(settings)))


def choose(model: Model, head: str, root: Path, limit: int) -> MaskSettings:
    """The sharpness that is best on validation; binary masks, and those of a head alone, have none.

    Binary ones are those of Hershey et al. 2016: all bins that are not silent weigh the same.
    """
    if head == "binary":
        return MaskSettings(head="embedding", weighting="threshold", sharpness=None)
    masks = model.settings.masks.model_copy(update={"head": head})
    if head == "masks":
        return masks
    choices = [masks.model_copy(update={"sharpness": value}) for value in SHARPNESS]
    separators = [with_masks(model, choice) for choice in choices]
    totals = [0.0] * len(choices)
    for row in read_list(Path("lists/valid2.csv"))[:limit]:
        rendered = render_mixture(row, root, separators[0].sample_rate)
        mixture, references = map(torch.from_numpy, rendered)
        for number, separator in enumerate(separators):
            estimates = separator(mixture, len(references)).sources
            order = best_permutation(estimates, references)
            totals[number] += float(si_sdr(estimates[order], references).mean())
    return choices[max(range(len(totals)), key=totals.__getitem__)]


def scores(
    separator: DeepClustering, name: str, root: Path, limit: int | None
) -> dict[str, Any] | None:
    """Means on a list; None for a number of sources that the network has no masks for."""
    listed = read_list(Path("lists") / f"{name}.csv")
    network = separator.model.network
    if not network.heads.embedding and not network.gives_masks(len(listed[0].sources)):
        return None
    with tempfile.TemporaryDirectory() as folder:
        return asdict(evaluate(listed, root, separator, folder, name="x", limit=limit).overall)


def describe_run(separator: DeepClustering, run: Path, cores: int) -> dict[str, float]:
    """Weights, hours of training and of audio, and processor time of a second of audio."""
    with (run / "log.csv").open() as file:
        log = [row for row in csv.DictReader(file) if row["speed"]]
    hours, before = 0.0, 0.0
    for row in log:
        audio = float(row["audio_hours"])
        hours += (audio - before) / float(row["speed"])
        before = audio
    mixture = torch.randn(10 * separator.sample_rate, generator=torch.Generator().manual_seed(0))
    separator(mixture, 2)
    started = time.process_time()
    for _ in range(3):
        separator(mixture, 2)
    return {
        "parameters": sum(p.numel() for p in separator.model.network.parameters()),
        "audio_hours": before,
        "core_hours": round(cores * hours, 3),
        "real_time_factor": round((time.process_time() - started) / 30, 4),
    }


def line(recipe: str, head: str, row: dict[str, Any]) -> str:
    """One row of the table."""
    title = next(text for name, which, text in ROWS if (name, which) == (recipe, head))
    cells = [title, f"`{recipe}`"]
    for name in LISTS:
        means = row.get(name)
        cells += [f"{means['si_sdri']:.2f}", f"{means['sdri']:.2f}"] if means else ["–", "–"]
    cells += [
        f"{row['parameters'] / 1e6:.2f}",
        f"{row['audio_hours']:.1f}",
        f"{row['core_hours']:.2f}",
        f"{row['real_time_factor']:.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


def table(rows: dict[str, Any]) -> str:
    """All that was scored, in Markdown."""
    heads = [f"`{name}`: {metric}" for name in LISTS for metric in ("SI-SDRi", "SDRi")]
    columns = ["objective, network", "recipe", *heads]
    columns += ["weights, M", "audio, h", "training, core-hours", "real-time factor"]
    lines = ["| " + " | ".join(columns) + " |", "|---|---|" + "--:|" * (len(columns) - 2)]
    lines += [
        line(recipe, head, rows[f"{recipe} {head}"])
        for recipe, head, _ in ROWS
        if f"{recipe} {head}" in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
