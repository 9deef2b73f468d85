"""Quicker start and end of the process of a command."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

quick_exit = False  # flag, set by commands that close all their files


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Suspend garbage collection while torch is imported, as all imported objects stay.

    Later collections skip the imported objects too.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
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
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # a closed pipe or stream
        return
    os._exit(status)
