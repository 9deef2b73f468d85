"""`dpcl export`: the file is whole or not there, and wrong arguments are told in one sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpcl import errors
from dpcl.evaluation.metrics import best_permutation, si_sdr
from dpcl.recordings.separate import load_separator
from dpcl.signal.audio import read_audio, resample

onnxruntime = pytest.importorskip("onnxruntime")
Program = Callable[..., Any]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_a_shipped_network_becomes_a_file(dpcl: Program, tmp_path: Path) -> None:
    out = tmp_path / "new" / "causal.onnx"
    ran = dpcl("export", "causal", "--out", str(out))
    assert ran.status == 0
    assert ran.out == f"{out}\n"
    assert [path.name for path in out.parent.iterdir()] == ["causal.onnx"]
    graph = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert graph.get_inputs()[0].name == "magnitude"


@pytest.mark.parametrize(
    ("model", "name", "reason"),
    [
        ("causal", "network.pt", ".onnx"),
        ("causal", "there.onnx", "--force"),
        ("causal", "folder.onnx", "folder"),
        ("nobody", "network.onnx", "unknown model 'nobody'"),
    ],
)
def test_what_cannot_be_written(
    dpcl: Program, tmp_path: Path, model: str, name: str, reason: str
) -> None:
    (tmp_path / "there.onnx").write_text("keep")
    (tmp_path / "folder.onnx").mkdir()
    ran = dpcl("export", model, "--out", str(tmp_path / name))
    assert ran.status == 2
    assert reason in ran.err and ran.err.count("\n") == 1
    assert (tmp_path / "there.onnx").read_text() == "keep"
    assert len(list(tmp_path.iterdir())) == 2


def test_without_onnx_it_says_what_to_install(
    dpcl: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda package: None)
    ran = dpcl("export", "causal", "--out", str(tmp_path / "causal.onnx"))
    assert ran.status == 2
    assert 'pip install "dpcl[onnx]"' in ran.err


@pytest.mark.parametrize("model", ["default", "clean"])
def test_a_program_without_torch_separates_as_we_do(
    dpcl: Program, tmp_path: Path, model: str
) -> None:
    pytest.importorskip("sklearn")
    graph, separated = tmp_path / f"{model}.onnx", tmp_path / "separated"
    assert dpcl("export", model, "--out", graph).status == 0
    command = [EXAMPLES / "onnx_separation.py", graph, EXAMPLES / "two_talkers.flac", separated]
    subprocess.run([sys.executable, *command], check=True)
    found = [read_audio(path)[0][0] for path in sorted(separated.iterdir())]
    samples, rate = read_audio(EXAMPLES / "two_talkers.flac")
    mixture = torch.from_numpy(resample(samples[0], rate, 8000))
    ours = load_separator(model)(mixture, 2).sources
    theirs = torch.from_numpy(np.stack(found))
    assert si_sdr(theirs[best_permutation(theirs, ours)], ours).min() > 40  # dB
