"""Recordings of `dpcl bulk`: files below folders, and the files that are omitted."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpcl.apps.console import show_omitted
from dpcl.errors import InputError

if TYPE_CHECKING:
    from dpcl.mixtures.index import Omitted

OMITTED = "bulk-omitted.csv"  # in the folder of the outputs


def find_recordings(
    given: Sequence[Path], out: Path, omitted: Omitted | None = None
) -> dict[str, Path]:
    """Find all recordings, and the folder of the outputs of each.

    Links are followed. A folder is read once, so that links cannot form a loop.

    Args:
        given: files, and folders that stand for all recordings in them.
        out: folder of the outputs. Files below it are not recordings.
        omitted: gets the files that are no recordings, by reason.

    Returns:
        Folder of the outputs by absolute name of the recording.

    Raises:
        InputError: A file does not exist, a folder holds no recordings, or outputs of two
            recordings would have the same names.
    """
    from dpcl.mixtures.index import Omitted

    omitted = Omitted() if omitted is None else omitted
    folders: dict[str, Path] = {}
    owners: dict[tuple[Path, str], Path] = {}  # recording by folder and stem of its outputs
    for path in given:
        found = {path: out}
        if path.is_dir():
            found = {p: out / p.parent.relative_to(path) for p in _below(path, out, omitted)}
            if not found:
                raise InputError(f"{path}: holds no recordings; give another folder")
        elif not path.exists():
            raise InputError(f"{path}: does not exist; check the name of the recording")
        elif not path.is_file():
            raise InputError(f"{path}: is not a file; separate it with `dpcl separate`")
        for recording, folder in found.items():
            other = owners.setdefault((folder, recording.stem), recording)
            if other.resolve() != recording.resolve():
                raise InputError(f"{other} and {recording} would share output names; rename one")
            folders[str(recording.resolve())] = folder
    return folders


def _below(root: Path, out: Path, omitted: Omitted) -> Iterator[Path]:
    """Yield the recordings below a folder, sorted by name, without those below `out`."""
    import soundfile

    from dpcl.mixtures.corpus import AUDIO_SUFFIXES, is_audio
    from dpcl.signal.av import SUFFIXES

    suffixes = {f".{name.lower()}" for name in soundfile.available_formats()}
    suffixes |= AUDIO_SUFFIXES | SUFFIXES | {".oga", ".wv2"}
    read: set[str] = set()
    outputs = str(out.resolve())
    for folder, folders, files in os.walk(
        root, followlinks=True, onerror=lambda e: omitted.add(e.filename, "folder cannot be read")
    ):
        real = os.path.realpath(folder)
        if real in read:
            omitted.add(folder, "link to a folder that is already listed")
            folders.clear()
            continue
        read.add(real)
        if real == outputs:
            folders.clear()
            continue
        folders.sort()
        for hidden in [name for name in folders if name.startswith(".")]:
            omitted.add(Path(folder, hidden), "hidden")
            folders.remove(hidden)
        for name in sorted(files):
            path = Path(folder, name)
            if name.startswith("."):
                omitted.add(path, "hidden")
            elif not is_audio(path, suffixes):
                omitted.add(path, "no audio file by its name")
            elif not path.exists():
                omitted.add(path, "link to a file that does not exist")
            elif not path.is_file():
                omitted.add(path, "not a regular file")
            else:
                yield path


def list_omitted(omitted: Omitted, out: Path) -> None:
    """Print omitted files, and list all of them in `out`."""
    path = out / OMITTED
    if not omitted.files:
        path.unlink(missing_ok=True)
        return
    show_omitted(omitted.files, f"{path} lists all")
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "reason"))
        writer.writerows((name, why) for why, names in omitted.files.items() for name in names)
