"""How a command starts and ends: nothing that matters is left out."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dpcl as package
from dpcl.apps import cli
from dpcl.apps.process import heavy_imports, leave

MakeRecording = Callable[..., Path]
Program = Callable[..., Any]


def test_imports_are_not_searched_for_garbage_and_all_that_follows_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    before = gc.get_freeze_count()
    with heavy_imports():
        assert not gc.isenabled()
    try:
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
def test_too_little_memory_is_one_sentence_and_no_crash(make_recording: MakeRecording) -> None:
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (200 << 20,) * 2)\n"
        "sys.argv = ['dpcl', 'separate', sys.argv[1]]\n"
        "from dpcl.apps.cli import main\nmain()"
    )
    source = str(Path(package.__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, "-c", code, str(make_recording())],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr == "dpcl: not enough memory; free some, or allow this process more\n"


def test_what_others_chose_about_garbage_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    with heavy_imports():  # torch is there: nothing to gain
        assert gc.isenabled()
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    gc.disable()
    try:
        with heavy_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_failing_import_leaves_the_search_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(ImportError), heavy_imports():
        raise ImportError
    gc.unfreeze()
    assert gc.isenabled()


def test_no_process_leaves_while_a_thread_works(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    count, others = threading.active_count, threading.active_count() - 1  # of earlier tests
    monkeypatch.setattr(threading, "active_count", lambda: count() - others)
    working = threading.Event()
    thread = threading.Thread(target=working.wait)
    thread.start()
    leave(0)
    working.set()
    thread.join()
    assert left == []
    leave(3)
    assert left == [3]


def test_no_process_leaves_while_something_printed_has_not_gone_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left: list[int] = []
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(os, "_exit", left.append)
    stream = os.fdopen(writing, "w")
    stream.write("lost")
    monkeypatch.setattr(sys, "stdout", stream)
    leave(0)
    monkeypatch.undo()
    assert left == []
    with pytest.raises(BrokenPipeError):
        stream.close()


@pytest.mark.parametrize(("name", "status"), [("a.wav", 0), ("none.wav", 2)])
def test_separate_prints_all_and_leaves_quickly(
    name: str, status: int, tiny_model: Path, make_recording: MakeRecording, folder: Path
) -> None:
    make_recording("a.wav")
    code = (
        "import atexit, sys\n"
        "from dpcl.__main__ import main\n"
        "atexit.register(print, 'the usual end')\n"
        f"sys.argv = ['dpcl', 'separate', '{name}', '--out=out', '--model={tiny_model}']\n"
        "main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == status, ran.stderr
    assert "the usual end" not in ran.stdout
    assert ran.stdout.split() == ([] if status else [f"out/a_s{k}.wav" for k in (1, 2)])
    assert bool(ran.stderr) == bool(status)
    assert sorted(path.name for path in (folder / "out").glob("*")) == (
        [] if status else ["a_s1.wav", "a_s2.wav"]
    )


def test_ctrl_c_before_the_commands_are_there_is_no_traceback() -> None:
    code = (
        "import sys\n"
        "from dpcl.__main__ import main\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'dpcl.apps.cli':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


FAILURES = [
    (
        OSError(28, "No space left on device"),
        "a file or standard output: No space left on device; free",
    ),
    (OSError(28, "No space left on device", "a.wav"), "a.wav: No space left on device; free"),
    (OSError("the device is gone"), "the device is gone; check the files"),
    (MemoryError(), "not enough memory; free some"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
    (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "not enough memory"),
]


@pytest.mark.parametrize(("error", "sentence"), FAILURES)
def test_a_failure_of_the_machine_is_one_sentence(
    error: Exception,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, text = ended_with(error, monkeypatch, capsys)
    assert status == 2
    assert text.startswith(f"dpcl: {sentence}") and text.count("\n") == 1


def test_a_defect_is_a_short_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ZeroDivisionError("division by zero\nand more")
    status, text = ended_with(error, monkeypatch, capsys)
    assert status == 1
    assert "ZeroDivisionError: division by zero (cli.py:" in text
    assert "Traceback" not in text and text.count("\n") == 1
    monkeypatch.setenv("DPCL_TRACEBACK", "1")
    status, text = ended_with(error, monkeypatch, capsys)
    assert status == 1 and "Traceback" in text


def ended_with(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Return status and message of a command that raises an error."""

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0), capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    ("streams", "status", "said"),
    [
        ("> /dev/full", 2, "standard output: No space left on device; free"),
        (">&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("--wrong 2> /dev/full", 2, ""),
    ],
)
def test_closed_and_full_streams_are_no_traceback(streams: str, status: int, said: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m dpcl models {streams}"],
        env={**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert said in done.stderr and done.stderr.count("\n") == bool(said)


def test_a_stream_needs_standard_output() -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m dpcl live >&-"],
        env={**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])},
        input="",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "standard output: is closed; pipe" in done.stderr


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb.wav", "a\\nb.wav"),
        ("\x1b[31ma.wav", "\\x1b[31ma.wav"),
        ("\u202egnp.wav", "\\u202egnp.wav"),
        ("\udcff.wav", "\\udcff.wav"),
    ],
)
def test_names_with_control_characters_break_no_sentence(
    name: str, shown: str, dpcl: Program, folder: Path
) -> None:
    ran = dpcl("separate", name)
    assert ran.status == 2
    assert ran.err == f"dpcl: {shown} does not exist; check the name of the recording\n"


def test_a_sentence_about_a_long_path_is_cut(dpcl: Program, make_recording: MakeRecording) -> None:
    make_recording("a.wav")
    ran = dpcl("separate", "a.wav", "--out", "/".join(["x" * 100] * 50))
    assert ran.status == 2 and len(ran.err) < 1020
    assert ran.err.startswith("dpcl: xxx") and ran.err.endswith(": File name too long\n")
