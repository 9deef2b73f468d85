"""Stored fingerprints of what users get: a refactoring must leave the outputs as they are.

The exact bits differ between processors, so a fingerprint is the RMS of each output and random
projections of it, and precision is float32. tests/training/test_resume.py shows that a resumed
training equals an uninterrupted one. To store new fingerprints after an intended change:

    DPCL_GOLDEN=write python -m pytest tests/test_golden.py

DPCL_GOLDEN_SECONDS=360 separates six minutes in place of one; that run is only compared with a
stored one of the same length. DPCL_CORPUS=FOLDER also scores the shipped models on the first
mixtures of their lists, which takes half a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "two_talkers.flac"
STORED = Path(__file__).with_name("golden.json")
PROJECTIONS = 64
BLOCK = 1 << 16  # samples projected at once
TOLERANCE = 1e-3  # of the size that a projection of the output has
RATE = 48000  # Hz of the long recording
SECONDS = int(os.environ.get("DPCL_GOLDEN_SECONDS", 60))
SCORED = {  # list
    "default": "open2",
    "clean": "open2",
    "general": "open-general",
    "causal": "open2",
    "live": "open2",
}
MIXTURES = 20  # of each list
DECIBELS = 0.02  # dB, tolerance of mean scores

# Runs the command with the precision pinned: the quickest one depends on the processor.
SEPARATE = """
import sys
from dpcl.networks import precision
precision._quicker = lambda other, best, seconds: (best, seconds)
from dpcl.apps.cli import main
sys.argv[0] = "dpcl"
main()
"""


def fingerprint(samples: np.ndarray) -> dict[str, object]:
    """samples (T,) or (T, channels) -> RMS and projections onto fixed random directions."""
    flat = samples.astype(np.float64).ravel()
    generator = np.random.default_rng(0)
    projections = np.zeros(PROJECTIONS)
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        cues = generator.integers(0, 2, (PROJECTIONS, len(block)), dtype=np.int8) * 2.0 - 1.0
        projections += cues @ block
    return {
        "shape": list(samples.shape),
        "rms": float(np.sqrt(np.mean(flat**2))),
        "projections": [float(f"{value:.6g}") for value in projections],
    }


def compare(name: str, outputs: dict[str, np.ndarray]) -> None:
    """Compare the fingerprints of outputs with the stored ones, or store them."""
    found = {key: fingerprint(samples) for key, samples in outputs.items()}
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    if os.environ.get("DPCL_GOLDEN") == "write":
        stored[name] = found
        STORED.write_text(json.dumps(stored, sort_keys=True) + "\n")
        return
    if name not in stored:
        pytest.skip(f"no fingerprint of {name} is stored")
    assert set(found) == set(stored[name])
    for key, one in found.items():
        other = stored[name][key]
        assert one["shape"] == other["shape"], key
        assert one["rms"] == pytest.approx(other["rms"], rel=TOLERANCE), key
        size = other["rms"] * np.prod(other["shape"]) ** 0.5
        np.testing.assert_allclose(
            one["projections"], other["projections"], rtol=0, atol=TOLERANCE * size, err_msg=key
        )


def separated(recording: Path, out: Path, model: str) -> dict[str, np.ndarray]:
    """Run `dpcl separate` in a process of its own and read what it wrote."""
    given = ["separate", str(recording), "--model", model, "--out", str(out)]
    subprocess.run([sys.executable, "-c", SEPARATE, *given], check=True, timeout=1200)
    return {path.name: soundfile.read(path)[0] for path in sorted(out.iterdir())}


def panned(seconds: int) -> np.ndarray:
    """The example again and again, moving between two channels: (T, 2) at RATE."""
    samples, rate = soundfile.read(EXAMPLE)
    mono = np.resize(soxr.resample(samples, rate, RATE), seconds * RATE)
    left = 0.5 + 0.4 * np.sin(np.arange(len(mono)) / RATE)
    return np.stack([mono * left, mono * (1 - left)], axis=1)


@pytest.mark.parametrize("model", ["default", "clean"])
def test_the_example_is_separated_as_it_was(model: str, tmp_path: Path) -> None:
    compare(f"example by {model}", separated(EXAMPLE, tmp_path / "out", model))


# The cache of several windows holds encoded frames in half precision, and the embeddings that are
# clustered are sampled from it. The stored fingerprints depend on that rounding: samples in single
# precision move the projections of 60 s by 3e-3 of their size.
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("model", ["default", "clean"])
def test_a_long_stereo_recording_is_separated_as_it_was(model: str, tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, panned(SECONDS), RATE, subtype="PCM_16")
    compare(f"stereo {SECONDS} s by {model}", separated(path, tmp_path / "out", model))


def test_a_stream_is_separated_as_it_was() -> None:
    import torch

    from dpcl import StreamSeparator

    samples, rate = soundfile.read(EXAMPLE)
    stream = StreamSeparator("causal", sources=2, sample_rate=rate)
    blocks = [stream.push(samples[start : start + 3000]) for start in range(0, len(samples), 3000)]
    sources = torch.cat([*blocks, stream.flush()], dim=-1).numpy()
    compare("stream", {f"source {number}": one for number, one in enumerate(sources, start=1)})


@pytest.mark.skipif("DPCL_CORPUS" not in os.environ, reason="DPCL_CORPUS names no corpus")
@pytest.mark.parametrize("model", SCORED)
def test_the_scores_of_the_shipped_models_stay(model: str, tmp_path: Path) -> None:
    from dpcl.evaluation.evaluate import evaluate
    from dpcl.mixtures.lists import read_list
    from dpcl.separators.registry import find_method

    rows = read_list(ROOT / "lists" / f"{SCORED[model]}.csv")
    means = evaluate(
        rows, os.environ["DPCL_CORPUS"], find_method(model), tmp_path, limit=MIXTURES
    ).overall
    found = {name: getattr(means, name) for name in ("si_sdr", "si_sdri", "sdr", "sdri")}
    stored = json.loads(STORED.read_text())
    name = f"scores of {model} on {SCORED[model]}"
    if os.environ.get("DPCL_GOLDEN") == "write":
        STORED.write_text(json.dumps(stored | {name: found}, sort_keys=True) + "\n")
        return
    assert found == pytest.approx(stored[name], abs=DECIBELS)
