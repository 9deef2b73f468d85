"""`import dpcl` is quick, and gives the names that others build on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dpcl

HEAVY = ("torch", "lightning", "scipy", "matplotlib", "safetensors")


def run(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(dpcl.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_heavy() -> None:
    loaded = run(f"import sys, dpcl; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded.strip() == "[]"


@pytest.mark.parametrize(("word", "printed"), [("--help", "separate"), ("models", "default")])
def test_what_only_prints_loads_nothing_heavy(word: str, printed: str) -> None:
    loaded = run(
        f"import sys; from dpcl.apps.cli import main; sys.argv = ['dpcl', '{word}']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert loaded.splitlines()[-1] == "[]"
    assert printed in loaded


def test_a_wrong_name_is_answered_before_torch_is_loaded() -> None:
    loaded = run(
        "import sys; from dpcl.apps.cli import main\n"
        "sys.argv = ['dpcl', 'separate', 'none.wav', '--out', 'none']\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_separating_does_not_wait_for_what_it_does_without() -> None:
    """A quarter of a short recording's time once went into loading scipy, which nothing used."""
    loaded = run(
        "import sys, numpy, dpcl; dpcl.separate(numpy.zeros(800, 'f'), 8000, sources=2)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert loaded.strip() == "['torch', 'safetensors']"


def test_a_stream_does_not_wait_for_a_compiler() -> None:
    """A second went into loading torch._dynamo, for random weights that were replaced at once."""
    loaded = run(
        "import sys, dpcl; dpcl.StreamSeparator('causal'); print('torch._dynamo' in sys.modules)"
    )
    assert loaded.strip() == "False"
    loaded = run(
        "import sys, torch; from dpcl.model import NetworkSettings\n"
        "with torch.device('meta'): NetworkSettings(embedding=4, anchors=3).build(33)\n"
        "print('torch.fx.experimental.symbolic_shapes' in sys.modules)"
    )
    assert loaded.strip() == "False"


def test_the_names_that_others_build_on() -> None:
    for name in dpcl.__all__:
        assert getattr(dpcl, name).__name__ == name
    assert callable(dpcl.objectives.affinity_loss)
    assert callable(dpcl.clustering.kmeans)
    assert issubclass(dpcl.InputError, ValueError)


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'seperate'"):
        _ = dpcl.seperate
    assert not hasattr(dpcl, "__wrapped__")
