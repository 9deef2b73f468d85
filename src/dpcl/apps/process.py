"""The process of a command: what its start and its end can do without."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

quick_exit = False  # set by commands that close all that they open


@contextmanager
def heavy_imports() -> Iterator[None]:
    """While torch is imported: no search for garbage among objects that all stay.

    Nor later: what was imported is left out of every search to come.
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
    """End this process at once, if nothing is left to do; else return.

    Taking down an interpreter with torch in it lasts a third of a second. Who calls this has
    closed all files; what is printed is flushed here, and where that fails or a thread still runs,
    the usual end says so.
    """
    if threading.active_count() > 1:
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # a closed pipe, or a stream closed before
        return
    os._exit(status)
