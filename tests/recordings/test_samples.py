"""Calls from Python: any samples are separated, or refused in one sentence; forks do not hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dpcl
from dpcl.errors import InputError

NOISE = np.random.default_rng(0).standard_normal(4000) / 8


@pytest.mark.parametrize(
    "kind", [np.float16, np.float64, list, torch.tensor, "strided", "readonly"]
)
def test_samples_of_any_float_type(tiny_model: Path, kind: Any) -> None:
    expected = dpcl.separate(NOISE.astype(np.float32), 8000, 2, str(tiny_model)).sources
    if kind == "strided":
        samples = np.repeat(NOISE, 2)[::2]
    elif kind == "readonly":
        samples = NOISE.copy()
        samples.flags.writeable = False
    else:
        samples = kind(NOISE) if kind in (list, torch.tensor) else NOISE.astype(kind)
    found = dpcl.separate(samples, 8000.0, 2, str(tiny_model)).sources  # a whole float as the rate
    atol = 1e-2 if kind is np.float16 else 1e-5
    torch.testing.assert_close(found.sum(0), expected.sum(0), rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ("talk.wav", "'talk.wav' is a path; separate files with"),
        (Path("talk.wav"), "is a path"),
        ([[0.1, 0.2], [0.3]], "rows of different lengths"),
        (None, "are NoneType of object"),
        ({"a": 1}, "are dict of object"),
        ([True, False], "of bool"),
        (NOISE + 1j, "of complex128"),
        ((NOISE * 32768).astype(np.int16), "samples are int16; give floating point"),
        (np.stack([NOISE, NOISE], 1), "perhaps samples.T"),
    ],
)
def test_other_samples_get_a_sentence(samples: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dpcl.separate(samples, 8000)


@pytest.mark.parametrize("rate", [None, "8000", True, 8000.5, float("nan")])
def test_other_rates_get_a_sentence(rate: Any) -> None:
    with pytest.raises(InputError, match="is no whole number of Hz"):
        dpcl.separate(NOISE, rate)


def test_true_is_no_number_of_sources() -> None:
    with pytest.raises(InputError, match="cannot separate into True sources"):
        dpcl.separate(NOISE, 8000, sources=True)


def test_channels_last_are_no_batch(tiny_model: Path) -> None:
    separator = dpcl.load_separator(str(tiny_model))
    with pytest.raises(InputError, match=r"perhaps mixture\.T"):
        separator(np.stack([NOISE, NOISE], 1), 2)


FORK = """
import os, sys, numpy as np, torch, dpcl
torch.set_num_threads(4)
separator = dpcl.load_separator(sys.argv[1])
x = np.random.default_rng(0).standard_normal(40000) / 8
torch.randn(1000, 1000) @ torch.randn(1000, 1000)  # starts torch's threads
one = separator(x, 2).sources
pid = os.fork()
if pid == 0:
    torch.randn(1000, 1000) @ torch.randn(1000, 1000)
    same = torch.allclose(separator(x, 2).sources, one, atol=1e-4)
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_separates(tiny_model: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORK, str(tiny_model)], start_new_session=True
    )
    try:
        assert child.wait(timeout=100) == 0
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
