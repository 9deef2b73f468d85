"""The short form of the attacks; `python -m tests.attack` is the long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dpcl

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="the attacks fork one warm process")
def test_short_attacks_end_in_output_or_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.attack", "--short"],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(dpcl.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 complaints" in done.stdout
