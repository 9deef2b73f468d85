"""Start and end of the process of a command: quick, and clean after any failure or signal."""

from __future__ import annotations

import errno
import gc
import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import dpcl

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

LEAST_MEMORY = 288 << 20  # bytes that torch needs to be imported and to run, at least
quick_exit = False  # flag, set by commands that close all their files
TRACEBACK = "DPCL_TRACEBACK"  # environment variable that adds the traceback to a report
ENDING = ("SIGTERM", "SIGHUP", "SIGQUIT")  # signals that end a command as Ctrl-C does
_ended_by = signal.SIGINT  # signal that ended the command


def end_cleanly_on_signals() -> None:
    """Let the signals that end a process end the command as Ctrl-C does: it cleans up.

    A signal that the caller ignores, as `nohup` does, stays ignored.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt; further signals do not interrupt the clean-up."""
        global _ended_by
        _ended_by = signal.Signals(number)
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, interrupt)


closed_streams: set[str] = set()  # names of the standard streams that the shell closed


def open_closed_streams() -> None:
    """Connect standard streams that the shell closed (`>&-`) to the null device.

    A file that is opened later would get the number of the stream, and what libraries print.
    Standard input stays None, so that commands refuse to read it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
            closed_streams.add(name)
            if number:
                setattr(sys, name, os.fdopen(number, "w", closefd=False))


def interrupted() -> int:
    """Return the exit status of a command that a signal ended: 130 for Ctrl-C."""
    return 128 + _ended_by


def flush_output() -> None:
    """Write what standard output still holds; OSError if it cannot be written."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except ValueError:  # closed by the program that embeds the command line
            return
        except OSError as error:
            abandon_output()
            if error.errno != errno.EPIPE:  # the reader of a pipe may stop early
                raise OSError(error.errno, error.strerror, "standard output") from error


def abandon_output() -> None:
    """Discard what standard output holds, so that the shutdown cannot fail on it again."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def sentence(error: Exception) -> str | None:
    """Return the sentence for a failure of the input or the machine; None for a defect of dpcl.

    Args:
        error: exception that no command has turned into an InputError.

    Returns:
        `{where}: {problem}; {remedy}`, or None.

    Example:
        >>> print(sentence(FileNotFoundError(2, "No such file or directory", "a.wav")))
        a.wav: No such file or directory
        >>> sentence(ZeroDivisionError()) is None
        True
    """
    text = str(error)
    memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    memory = memory or "out of memory" in text or "can't allocate memory" in text
    if memory or "failed to map segment" in text or "Cannot allocate memory" in text:
        return "not enough memory; free some, or allow this process more"
    if not isinstance(error, OSError):
        return None
    problem = error.strerror or text or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        named = error.filename is not None
        where = os.fsdecode(error.filename) if named else "a file or standard output"
        return f"{where}: {problem}; free some space, or choose another place"
    if error.filename is None:
        return f"{problem}; check the files and streams that were given"
    return f"{os.fsdecode(error.filename)}: {problem}"


def report_of(error: BaseException) -> str:
    """Return a short report of a defect, with the traceback if DPCL_TRACEBACK is set."""
    if os.environ.get(TRACEBACK):
        return "".join(traceback.format_exception(error)).rstrip()
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}dpcl{os.sep}" in frame.filename] or frames
    last = own[-1] if own else None
    place = f"{Path(last.filename).name}:{last.lineno}, {last.name}" if last else "unknown place"
    first, *_ = str(error).strip().splitlines() or [""]
    problem = f"{type(error).__name__}: {first}".rstrip(": ")[:300]
    return (
        f"this is a defect of dpcl {dpcl.__version__}: {problem} ({place}; Python"
        f" {platform.python_version()}, {platform.system()}); please report it, with the output"
        f" of the same command after `export {TRACEBACK}=1`"
    )


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Suspend garbage collection while torch is imported, as all imported objects stay.

    Later collections skip the imported objects too.

    Raises:
        MemoryError: the limit of this process (`ulimit -d`) is so low that torch would crash.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    if resource is not None:
        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        if limit != resource.RLIM_INFINITY and limit < LEAST_MEMORY:
            raise MemoryError
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def leave(status: int) -> None:
    """End this process at once, or return if a thread still runs or output cannot be flushed.

    The usual shutdown of an interpreter with torch takes a third of a second. The caller must have
    closed all files; standard output and standard error are flushed here. If that fails, the usual
    shutdown reports the error.

    Args:
        status: exit status.
    """
    if threading.active_count() > 1:
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed by the shell with >&-
                stream.flush()
    except (OSError, ValueError):  # a closed pipe or stream
        return
    os._exit(status)
