"""Recordings and lists from disk to separated or mixed files: all of a piece of work, or none."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.separators.limits import MOST_SOURCES, check_recording, check_sources
from dpcl.signal.audio import read_audio, write_audio

if TYPE_CHECKING:
    from dpcl.mixtures.lists import MixtureRow


@dataclass(frozen=True)
class Separated:
    """One recording, done."""

    recording: Path
    outputs: tuple[Path, ...]
    sample_rate: int
    seconds: float  # of audio
    took: float  # seconds of work


def separate_files(
    recordings: Sequence[Path],
    out: Path,
    model: str = "default",
    sources: int | None = None,
    force: bool = False,
    done: Callable[[Separated], None] = lambda separated: None,
) -> None:
    """Write out/STEM_s1.wav … for every recording; `done` is called after each.

    Everything that can be wrong is found before anything is written, and stopped in the middle
    it leaves the outputs of the recordings that are done, and nothing of the others.
    Raises InputError for recordings that cannot be read or share a name, outputs that exist
    (unless `force`), a folder that cannot be written, and what `separate` refuses.
    """
    check_sources(sources)
    _check_outputs(recordings, out, force)
    # A bad one is named before hours of work on the others; one is kept, not all in memory.
    for recording in reversed(recordings):
        first = read_audio(recording)
        try:
            check_recording(first[0].shape, first[1])
        except InputError as error:
            raise InputError(f"{recording}: {error}") from error
    # torch is imported here: a mistyped name is answered at once.
    from dpcl.separators.load import load_separator
    from dpcl.separators.recording import separate_recording

    separator = load_separator(model)
    for number, recording in enumerate(recordings):
        start = time.monotonic()
        samples, rate = read_audio(recording) if number else first
        mono = samples[0] if len(samples) == 1 else samples
        estimates = separate_recording(mono, rate, separator, sources).sources.numpy()
        outputs = _write(out, recording.stem, estimates, rate)
        took = time.monotonic() - start
        done(Separated(recording, outputs, rate, samples.shape[1] / rate, took))


def render_files(
    rows: Sequence[MixtureRow],
    root: Path,
    out: Path,
    rate: int,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write out/mix/ID.wav, out/s1/ID.wav, … for all rows of a list, or nothing.

    With `force` files of the same names are replaced; others stay.
    Raises InputError for out/mix or a folder of sources that exists (unless `force`), a folder
    that cannot be written, and what render_list finds wrong.
    """
    from dpcl.mixtures.lists import render_list  # loads scipy, which `separate` need not wait for

    sources = max(len(row.sources) for row in rows)
    for name in ("mix", *(f"s{k + 1}" for k in range(sources))):
        refuse_existing(out / name, force)
    with folder_aside(out) as aside:
        render_list(rows, root, aside, rate, progress)
        for path in sorted(aside.glob("*/*.wav")):
            place = out / path.relative_to(aside)
            place.parent.mkdir(exist_ok=True)
            path.replace(place)


def refuse_existing(path: Path, force: bool) -> None:
    """Raise InputError if there is something at `path`, unless `force`."""
    if path.exists() and not force:
        raise InputError(f"{path}: exists; add --force to replace it, or give another --out")


def _check_outputs(recordings: Sequence[Path], out: Path, force: bool) -> None:
    nearest = next((folder for folder in (out, *out.parents) if folder.exists()), out)
    if nearest.exists() and not nearest.is_dir():
        raise InputError(f"{nearest}: is a file, not a folder; give another --out")
    own = {recording.resolve() for recording in recordings}
    stems: dict[str, Path] = {}
    for recording in recordings:
        other = stems.setdefault(recording.stem, recording)
        if other is not recording:
            raise InputError(f"{other} and {recording} would share output names; rename one")
        for existing in _outputs(out, recording.stem):
            refuse_existing(existing, force)
            if existing.is_dir() or existing.resolve() in own:
                what = "a folder" if existing.is_dir() else "one of the recordings"
                raise InputError(f"{existing}: is {what} and stays; give another --out")


def _outputs(out: Path, stem: str) -> list[Path]:
    """Outputs of an earlier run, also of one with more sources."""
    places = (out / f"{stem}_s{k + 1}.wav" for k in range(MOST_SOURCES))
    return [place for place in places if place.exists()]


def _write(out: Path, stem: str, estimates: NDArray[np.float32], rate: int) -> tuple[Path, ...]:
    """All sources (C, T) or (C, channels, T) aside first, then into place."""
    # A source can be louder than the mixture, where sources cancelled: keep it rather than clip it.
    subtype = "PCM_16" if np.abs(estimates).max(initial=0) <= 1 else "FLOAT"
    places = tuple(out / f"{stem}_s{k + 1}.wav" for k in range(len(estimates)))
    with folder_aside(out) as aside:
        for place, estimate in zip(places, estimates, strict=True):
            write_audio(aside / place.name, estimate, rate, subtype)
        for place in places:
            (aside / place.name).replace(place)
        for old in _outputs(out, stem):
            if old not in places:
                old.unlink()
    return places


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
