"""Atomic writing of files, the one owner of temporary files, and reports of progress."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dpcl.errors import InputError


@dataclass(frozen=True)
class Progress:
    """Progress of one task, for a progress bar.

    Attributes:
        done: amount of work done, in `unit`.
        total: amount of work in all, in `unit`.
        unit: unit of both, such as s, mixtures, steps or recordings.
        note: name of the item in progress, or figures such as the loss.
    """

    done: float
    total: float
    unit: str = ""
    note: str = ""


Report = Callable[[Progress], None]

# Names of temporary files and folders. They stand beside what they will become, never elsewhere.
PREFIX, SUFFIX = ".dpcl-", ".part"
_swept: set[Path] = set()  # folders that this process has cleared of abandoned ones
_own: set[Path] = set()  # temporary files and folders that this process holds


def no_report(progress: Progress) -> None:
    """Ignore the progress: the default where a function takes a `report`."""


def as_report(progress: Any) -> Report:
    """Return a report that moves a progress bar.

    Args:
        progress: function of the amounts done and in all, a bar of tqdm, a `rich.progress.Progress`
            (which gets a new task), or None.

    Returns:
        The report.

    Raises:
        InputError: `progress` is none of these.

    Example:
        >>> report = as_report(lambda done, total: print(f"{done:.0f} of {total:.0f}"))
        >>> report(Progress(3, 60, "s of audio"))
        3 of 60
    """
    if progress is None:
        return no_report
    if hasattr(progress, "add_task"):  # rich
        task = progress.add_task("separating", total=None)
        return lambda moved: progress.update(task, completed=moved.done, total=moved.total)
    if hasattr(progress, "update") and hasattr(progress, "n"):  # tqdm

        def move(moved: Progress) -> None:
            """Move the bar to the progress."""
            progress.total = moved.total
            progress.update(moved.done - progress.n)

        return move
    if callable(progress):
        return lambda moved: progress(moved.done, moved.total)
    raise InputError(
        f"progress: {progress!r} is no progress bar; give a function of done and total, or a bar of"
        " tqdm or rich"
    )


@contextmanager
def atomic(path: str | os.PathLike[str], sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path; at the end that file replaces `path`, on an error it is removed.

    The file gets mode 644.

    Args:
        path: file to write or replace. Its folder must exist.
        sync: write the file to the disk before it is renamed, so that a power failure leaves
            either the old or the new file.

    Yields:
        Path of an empty temporary file in the same folder.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "a.txt"
        >>> with atomic(path) as partial:
        ...     _ = partial.write_text("whole")
        >>> path.read_text()
        'whole'
        >>> folder.cleanup()
    """
    path = Path(path)
    with _temporary(path.parent) as partial:
        yield partial
        if sync:
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
        partial.chmod(0o644)  # temporary files have mode 600
        partial.replace(path)


def write_indexed(data: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file and its index, the file of the same name with the suffix .json.

    A power failure leaves no index without its file.

    Args:
        data: file to write or replace; its folder is made.
        write: function that writes the file, and returns the index as JSON can hold it.
    """
    data.parent.mkdir(parents=True, exist_ok=True)
    with atomic(data, sync=True) as partial, partial.open("wb") as file:
        index = write(file)
    with atomic(data.with_suffix(".json"), sync=True) as partial:
        partial.write_text(json.dumps(index))


@contextmanager
def _temporary(parent: Path, folder: bool = False) -> Iterator[Path]:
    """Yield an empty temporary file or folder below `parent`, and remove it at the end.

    A process that is killed cannot remove it. So the owner holds a lock on it, and the next process
    that writes to `parent` removes those without an owner.
    """
    import tempfile  # slow, and commands that write nothing do not need it

    # No other process removes it before its owner holds it. A temporary folder of this process is
    # locked already.
    with nullcontext() if parent in _own else locked(parent):
        sweep(parent)
        if folder:
            path = Path(tempfile.mkdtemp(SUFFIX, PREFIX, parent))
        else:
            descriptor, name = tempfile.mkstemp(SUFFIX, PREFIX, parent)
            os.close(descriptor)
            path = Path(name)
        held = _hold(path)
        _own.add(path)
    try:
        yield path
    finally:
        _own.discard(path)
        _remove(path)
        if held is not None:
            os.close(held)


def sweep(folder: Path, again: bool = False) -> None:
    """Remove the temporary files and folders of processes that were killed.

    Args:
        folder: folder of outputs, not its subfolders.
        again: clear a folder that this process has cleared already.
    """
    if folder in _swept and not again:
        return
    _swept.add(folder)
    with suppress(OSError):
        for path in folder.glob(f"{PREFIX}*{SUFFIX}"):
            held = _hold(path)
            if held is not None:
                _remove(path)
                os.close(held)


def _hold(path: Path) -> int | None:
    """Lock a file or folder until the descriptor is closed; None if another process holds it."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(path: Path) -> None:
    """Remove a temporary file or folder as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def refuse_existing(path: Path, force: bool) -> None:
    """Check that `path` does not exist yet.

    Args:
        path: file or folder to be written.
        force: accept a path that exists.

    Raises:
        InputError: The path exists, and `force` is False.
    """
    if path.exists() and not force:
        raise InputError(f"{path}: exists; add --force to replace it, or give another --out")


@contextmanager
def folder_aside(out: Path) -> Iterator[Path]:
    """Yield a temporary folder inside `out`, for files that are not complete yet.

    The temporary folder is removed at the end. Folders made for `out` are removed if they are empty
    by then.

    Args:
        out: folder of the outputs; made where it does not exist.

    Yields:
        Path of the temporary folder, on the same file system as `out`.

    Raises:
        InputError: `out` cannot be written.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _temporary(out, folder=True) as folder:
            yield folder
    except OSError as error:
        raise InputError(
            f"{out}: cannot write there ({error.strerror or error}); give another --out"
        ) from error
    finally:
        for folder_made in made:
            with suppress(OSError):  # not empty: it holds outputs
                folder_made.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs of dpcl from renaming files in a folder meanwhile.

    Without effect where the system or the file system has no such locks.

    Args:
        folder: an existing folder.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def move_new(source: Path, path: Path) -> None:
    """Rename a file to a name that does not exist yet.

    Args:
        source: file on the same file system.
        path: its new name.

    Raises:
        InputError: The name exists.
    """
    try:
        os.link(source, path)  # fails if another run took the name
    except FileExistsError:
        refuse_existing(path, force=False)
    except OSError:  # no hard links here
        refuse_existing(path, force=False)
        source.replace(path)
    else:
        source.unlink()
