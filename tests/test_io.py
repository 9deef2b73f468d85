"""Temporary files have one owner: the process that made them, or the next one after its death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dpcl
from dpcl import io

posix = pytest.mark.skipif(os.name != "posix", reason="no locks and signals of POSIX")

BUSY = """
import sys, time
from pathlib import Path
from dpcl.io import atomic, folder_aside
out = Path(sys.argv[1])
with folder_aside(out) as folder, atomic(out / "file.txt") as partial:
    (folder / "half.wav").write_text("half")
    partial.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def obey() -> None:
    """Take back that a shell in the background ignores signals."""
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def writing(out: Path, code: str = BUSY) -> subprocess.Popen[str]:
    """Start a process that is writing to `out`."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(out)],
        env={**os.environ, "PYTHONPATH": str(Path(dpcl.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=obey,
    )
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    return process


@posix
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    own = tmp_path / ".dpcl-notes"  # of the user
    own.mkdir()
    process = writing(tmp_path)
    assert len(list(tmp_path.glob(io.PREFIX + "*" + io.SUFFIX))) == 2
    io.sweep(tmp_path, again=True)  # its owner lives
    assert len(list(tmp_path.glob(io.PREFIX + "*" + io.SUFFIX))) == 2
    process.kill()
    process.wait()
    io.sweep(tmp_path, again=True)
    assert list(tmp_path.iterdir()) == [own]


@posix
def test_other_threads_and_runs_keep_theirs(tmp_path: Path) -> None:
    with io.folder_aside(tmp_path) as folder, io.atomic(tmp_path / "a.txt") as partial:
        io.sweep(tmp_path, again=True)
        assert folder.is_dir() and partial.is_file()
        partial.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT"])
def test_signals_that_end_a_command_leave_nothing(tmp_path: Path, name: str) -> None:
    code = (
        "import sys; from dpcl import __main__; from dpcl.apps import cli\n"
        f"cli.app = lambda *a, **k: exec({BUSY!r}, {{}})\n"
        "__main__.main()"
    )
    process = writing(tmp_path, code)
    number = getattr(signal, name)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_atomically_into_a_temporary_folder(tmp_path: Path) -> None:
    with io.folder_aside(tmp_path / "out") as folder:
        with io.atomic(folder / "a.txt") as partial:  # the folder is locked already
            partial.write_text("whole")
        assert (folder / "a.txt").read_text() == "whole"
