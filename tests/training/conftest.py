"""A corpus of a few seconds and a network of a few hundred weights: a training takes a moment."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dpcl.mixtures.lists import write_list
from dpcl.mixtures.rows import MixtureRow, SourceRow
from dpcl.training.recipe import Recipe

RATE = 2000
SPEAKERS = 4
SECONDS = 1.5


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four talkers with two recordings each, buzzing at a pitch of their own, and valid.csv."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    time = np.arange(round(SECONDS * RATE)) / RATE
    rows = []
    for speaker in range(SPEAKERS):
        for number in range(2):
            pitch = (90 + 40 * speaker) * (1 + 0.1 * np.sin(2 * np.pi * time))
            phase = 2 * np.pi * np.cumsum(pitch) / RATE
            buzz = sum(np.sin(h * phase) / h for h in range(1, 6))
            loud = np.repeat(rng.random(30), len(time) // 30)
            samples = 0.2 * buzz * loud + 1e-3 * rng.standard_normal(len(time))
            path = root / f"s{speaker}" / f"{number}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, samples, RATE)
            name = path.relative_to(root).as_posix()
            rows.append(["train", "x", f"s{speaker}", "f", name, SECONDS, f"{speaker}{number}"])
    with (root / "index.csv").open("w", newline="") as file:
        header = ["split", "corpus", "speaker", "gender", "path", "seconds", "text"]
        csv.writer(file).writerows([header, *rows])
    pairs = [(0, 1), (2, 3)]
    mixtures = [
        MixtureRow(
            id=f"v{i}",
            list="v",
            seed=0,
            seconds=0.4,
            corpora="within",
            genders="same",
            sources=tuple(SourceRow(f"s{k}", (f"s{k}/1.wav",), 0.3, 0.0) for k in pair),
        )
        for i, pair in enumerate(pairs)
    ]
    write_list(mixtures, root / "valid.csv")
    return root


@pytest.fixture(scope="session")
def make_recipe(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recipe]:
    """Two stages of 12 steps, with dropout and noise; `changes` replace whole settings."""
    cache = tmp_path_factory.getbasetemp() / "cache"

    def make(**changes: Any) -> Recipe:
        settings: dict[str, Any] = {
            "model": {
                "signal": {"sample_rate": RATE, "window": 64, "hop": 32},
                "network": {"layers": 2, "width": 5, "embedding": 3, "dropout": 0.3},
            },
            "data": {"corpora": [str(corpus)], "cache": str(cache)},
            "input_noise": 0.1,
            "stages": [
                {"frames": 12, "batch": 4, "steps": 12},
                {"frames": 20, "batch": 2, "steps": 12},
            ],
            "optimiser": {"learning_rate": 0.01, "warm_up": 3, "clip": 1.0},
            "validation": {"list": str(corpus / "valid.csv"), "root": str(corpus), "every": 5},
            "accelerator": "cpu",
            "checkpoint_minutes": 1000,  # at the beginning and at the end
            "seed": 3,
        }
        return Recipe.model_validate(settings | changes)

    return make
