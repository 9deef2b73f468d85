"""Write files whole or not at all, and report progress."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dpcl.errors import InputError


@dataclass(frozen=True)
class Progress:
    """Progress of one piece of work, for a bar on the screen."""

    done: float
    total: float
    unit: str = ""  # of done and total: s, mixtures, steps, recordings
    note: str = ""  # what is being worked on


Report = Callable[[Progress], None]


def no_report(progress: Progress) -> None:
    """Report nothing."""


@contextmanager
def atomic(path: str | os.PathLike[str], sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it at the end; removed on error.

    The folder of `path` must exist. The file gets mode 644. sync: write it to the disk before the
    name changes, so that a power failure leaves the old or the new file.
    """
    path = Path(path)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        if sync:
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
        partial.chmod(0o644)  # mkstemp gives 600
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def refuse_existing(path: Path, force: bool) -> None:
    """Raise InputError if there is something at `path`, unless `force`."""
    if path.exists() and not force:
        raise InputError(f"{path}: exists; add --force to replace it, or give another --out")


@contextmanager
def folder_aside(out: Path) -> Iterator[Path]:
    """A folder in `out` for what is not yet whole; with it goes an `out` that is left empty.

    Raises InputError where there can be none.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".dpcl-") as folder:
            yield Path(folder)
    except OSError as error:
        raise InputError(f"{out}: cannot write there; {error.strerror or error}") from error
    finally:
        for folder_made in made:
            with suppress(OSError):  # it is not empty: the work is done
                folder_made.rmdir()
