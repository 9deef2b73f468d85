"""`dpcl live`: raw samples through pipes, and the ends that a pipe can come to."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import dpcl as package
from dpcl.apps import live
from dpcl.apps.cli import main
from dpcl.errors import InputError
from dpcl.recordings.stream import StreamSeparator

RATE = 16000


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    status: int
    out: bytes
    err: str


Live = Callable[..., Ran]


def noises(seconds: float = 1.5) -> NDArray[np.float32]:
    """Noise that comes and goes, on the grid of 16 bits."""
    rng = np.random.default_rng(0)
    gates = (rng.random(round(seconds * 20)) ** 2).repeat(RATE // 20)
    x = gates * rng.standard_normal(len(gates)) * 0.1
    return np.asarray(np.round(x * 32768) / 32768, np.float32)


def expected(model: Path, x: NDArray[np.float32], sources: int = 2) -> NDArray[np.float32]:
    """(T, C) of the stream object."""
    stream = StreamSeparator(str(model), sources, RATE)
    return torch.cat([stream.push(x), stream.flush()], -1).T.numpy()


@pytest.fixture
def run_live(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Live:
    """`dpcl live ARGUMENTS` in this process, from bytes to bytes."""

    def run(data: bytes, *arguments: object) -> Ran:
        came, went = tmp_path / "in.raw", tmp_path / "out.raw"
        came.write_bytes(data)
        capsys.readouterr()
        with came.open() as taken, went.open("w") as given, monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["dpcl", "live", *map(str, arguments)])
            patch.setattr(sys, "stdin", taken)
            patch.setattr(sys, "stdout", given)
            with pytest.raises(SystemExit) as end:
                main()
        return Ran(int(end.value.code or 0), went.read_bytes(), capsys.readouterr().err)

    return run


@contextlib.contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m dpcl live ARGUMENTS` with pipes."""
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    running = subprocess.Popen(
        [sys.executable, "-m", "dpcl", "live", *map(str, arguments)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()
        for pipe in (running.stdin, running.stdout, running.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]


def test_floats(causal_model: Path, run_live: Live) -> None:
    x = noises()
    ran = run_live(x.tobytes(), "--model", causal_model, "--rate", RATE, "--format", "f32le")
    assert (ran.status, ran.err) == (0, "")
    y = np.frombuffer(ran.out, "<f4").reshape(-1, 2)
    np.testing.assert_allclose(y, expected(causal_model, x), rtol=0, atol=2e-5)
    np.testing.assert_allclose(y.sum(1), x, rtol=0, atol=1e-5)


def test_sixteen_bits(causal_model: Path, run_live: Live) -> None:
    x = noises()
    pcm = (x * 32768).astype("<i2").tobytes()
    ran = run_live(pcm, "--model", causal_model, "--rate", RATE, "--sources", 3)
    assert (ran.status, ran.err) == (0, "")
    y = np.frombuffer(ran.out, "<i2").reshape(-1, 3) / 32768
    assert len(y) == len(x)
    np.testing.assert_allclose(y, expected(causal_model, x, 3), rtol=0, atol=0.51 / 32768)
    np.testing.assert_allclose(y.sum(1), x, rtol=0, atol=1.6 / 32768)


def test_full_scale_stays_full_scale(causal_model: Path, run_live: Live) -> None:
    """A sample of -32768 or 32767 that is rounded beyond must not come out with the other sign."""
    pcm = np.tile(np.array([32767, -32768], "<i2").repeat(40), 200)
    ran = run_live(pcm.tobytes(), "--model", causal_model, "--sources", 1)
    assert np.abs(np.frombuffer(ran.out, "<i2").astype(int) - pcm).max() <= 1


@pytest.mark.parametrize(("form", "more"), [("s16le", 1), ("f32le", 3)])
def test_an_end_amid_a_sample(causal_model: Path, run_live: Live, form: str, more: int) -> None:
    whole = np.zeros(1000, live.TYPES[form]).tobytes()
    ran = run_live(whole + b"x" * more, "--model", causal_model, "--format", form)
    assert ran.status == 0
    assert len(ran.out) == 2 * len(whole)
    assert f"ends {more} bytes into a sample" in ran.err and ran.err.count("\n") == 1


def test_no_input_at_all(causal_model: Path, run_live: Live) -> None:
    assert run_live(b"", "--model", causal_model) == Ran(0, b"", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sources", 0], "cannot separate into 0 sources"),
        (["--rate", 10], "a sample rate of 10 Hz is not between"),
        (["--format", "s24le"], "s24le"),
        (["--model", "cauzal"], "unknown model 'cauzal'"),
        (["--model", "default"], "cannot separate a stream"),
    ],
)
def test_wrong_arguments(run_live: Live, arguments: list[object], message: str) -> None:
    ran = run_live(b"", *arguments)
    assert ran.status == 2 and ran.out == b""
    assert ran.err.startswith("dpcl: ") and ran.err.count("\n") == 1
    assert message in ran.err


def test_samples_that_are_no_numbers(causal_model: Path, run_live: Live) -> None:
    x = np.array([0.1, np.nan], "<f4").tobytes()
    ran = run_live(x, "--model", causal_model, "--format", "f32le")
    assert ran.status == 2 and "NaN" in ran.err


@pytest.mark.parametrize(
    ("stream", "message"),
    [("stdin", "standard input is a terminal"), ("stdout", "standard output is a terminal")],
)
def test_a_terminal_is_no_pipe(
    stream: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    controller, terminal = os.openpty()
    (tmp_path / "in.raw").touch()
    try:
        with (tmp_path / "in.raw").open() as taken, (tmp_path / "out.raw").open("w") as given:
            monkeypatch.setattr(sys, "stdin", taken)
            monkeypatch.setattr(sys, "stdout", given)
            with os.fdopen(terminal, "r" if stream == "stdin" else "w") as screen:
                monkeypatch.setattr(sys, stream, screen)
                with pytest.raises(InputError, match=message):
                    live.separate_live("causal", 2, None, "s16le", False)
    finally:
        os.close(controller)


def test_sources_come_while_the_input_still_runs(causal_model: Path) -> None:
    """And Ctrl-C ends it without a word."""
    with process("--model", causal_model) as running:
        assert running.stdin and running.stdout
        running.stdin.write(bytes(2 * 8000))
        running.stdin.flush()
        due = 4 * (8000 - 320)  # one window of 40 ms may be missing
        assert len(running.stdout.read(due)) == due
        running.send_signal(signal.SIGINT)
        rest, errors = running.communicate(timeout=60)
        assert (running.returncode, errors) == (0, b"")
        # all the rest, but for a Ctrl-C before the last block was written
        assert due + len(rest) <= 4 * 8000 and len(rest) % 4 == 0


def test_who_leaves_early_leaves_quietly(causal_model: Path) -> None:
    with process("--model", causal_model) as running:
        assert running.stdin and running.stdout and running.stderr
        running.stdin.write(bytes(2 * 8000))
        running.stdin.flush()
        running.stdout.read(100)
        running.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # it may be gone before all is written
            running.stdin.write(bytes(2 * 8000))
            running.stdin.close()
        assert running.wait(timeout=60) == 0
        assert running.stderr.read() == b""


class Microphone:
    """sounddevice's RawInputStream for as long as it has samples; then Ctrl-C: the rest comes."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.samples = noises()

    def __enter__(self) -> Microphone:
        assert self.settings["channels"] == 1 and self.settings["dtype"] == "float32"
        return self

    def __exit__(self, *_: object) -> None:
        self.samples = self.samples[:0]

    def read(self, size: int) -> tuple[bytes, bool]:
        if not len(self.samples):
            raise KeyboardInterrupt
        block, self.samples = self.samples[:size], self.samples[size:]
        return block.tobytes(), len(self.samples) <= size  # the last two


def sounddevice(stream: type) -> ModuleType:
    module = ModuleType("sounddevice")
    module.PortAudioError = type("PortAudioError", (Exception,), {})  # type: ignore[attr-defined]
    module.RawInputStream = stream  # type: ignore[attr-defined]
    return module


def test_a_microphone(causal_model: Path, run_live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice(Microphone))
    arguments = ("--model", causal_model, "--rate", RATE, "--format", "f32le", "--microphone")
    ran = run_live(b"", *arguments)
    assert ran.status == 0
    y = np.frombuffer(ran.out, "<f4").reshape(-1, 2)
    np.testing.assert_allclose(y, expected(causal_model, noises()), rtol=0, atol=2e-5)
    assert ran.err.count("samples were lost") == 1


def test_a_microphone_that_there_is_not(
    causal_model: Path, run_live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--model", causal_model, "--microphone")
    monkeypatch.setitem(sys.modules, "sounddevice", None)  # not installed
    ran = run_live(b"", *arguments)
    assert ran.status == 2 and 'pip install "dpcl[live]"' in " ".join(ran.err.split())

    def refuse(**settings: Any) -> None:
        raise module.PortAudioError("Invalid sample rate")

    module = sounddevice(refuse)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    ran = run_live(b"", *arguments)
    assert ran.status == 2 and "cannot be used at 8000 Hz: Invalid sample rate" in ran.err
