"""Recordings from disk to the files of their sources: all of a piece of work, or none."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpcl.apps.process import heavy_imports
from dpcl.errors import InputError
from dpcl.separators.limits import MOST_SOURCES, check_recording, check_sources
from dpcl.signal.formats import check_output, output_subtype
from dpcl.signal.reader import AudioReader
from dpcl.signal.writer import AudioWriter

if TYPE_CHECKING:
    from dpcl.recordings.separate import RecordingSeparation

STANDARD = Path("-")  # standard input


@dataclass(frozen=True)
class Separated:
    """One recording, done."""

    recording: Path
    outputs: tuple[Path, ...]
    sample_rate: int
    seconds: float  # of audio
    took: float  # seconds of work
    warnings: tuple[str, ...]  # a sentence each: what is not as one would expect


def separate_files(
    recordings: Sequence[Path],
    out: Path,
    model: str = "default",
    sources: int | None = None,
    force: bool = False,
    done: Callable[[Separated], None] = lambda separated: None,
    file_format: str = "wav",
    progress: Callable[[float, float], None] = lambda seconds, total: None,
    most: int = MOST_SOURCES,
) -> None:
    """Write out/STEM_s1.wav … for every recording; `done` is called after each.

    A recording is a path, or "-" for standard input. sources: None for as many as are found, up to
    `most`. file_format: a suffix that AudioWriter knows, or "input" for the recording's own.
    progress: called with seconds of audio done and in all. Recordings stream from disk to disk.
    Everything that can be wrong is found before anything is written, and stopped in the middle it
    leaves the outputs of the recordings that are done, and nothing of the others. One that is cut
    off is separated as far as it goes, with a warning.
    Raises InputError for recordings that cannot be read or share a name, outputs that exist
    (unless `force`), a folder that cannot be written, and what `separate` refuses.
    """
    check_sources(sources)
    check_sources(most)
    with ExitStack() as stack:
        piped = (
            stack.enter_context(AudioReader(sys.stdin.buffer)) if STANDARD in recordings else None
        )

        def opened(recording: Path) -> AbstractContextManager[AudioReader]:
            """Anew for each pass, so that a thousand recordings need one open file."""
            if piped and recording == STANDARD:
                return nullcontext(piped)
            return AudioReader(recording)

        places = []
        for recording in recordings:
            with opened(recording) as reader:
                places.append(_place(recording, reader, out, file_format))
        _check_outputs(recordings, places, force)
        with heavy_imports():  # here: a mistyped name is answered at once
            from dpcl.networks.precision import single_thread
            from dpcl.recordings.recording import scan
            from dpcl.recordings.separate import RecordingSeparation
            from dpcl.separators.registry import build

        threads = stack.enter_context(single_thread())  # so that busy cores do not stop it
        separator = build(model)
        scans, lengths = [], []
        for recording in recordings:
            with opened(recording) as reader:
                scans.append(scan(reader))
                lengths.append(scans[-1].samples / reader.sample_rate)
        for number, (recording, place) in enumerate(zip(recordings, places, strict=True)):
            start = time.monotonic()

            def report(share: float, number: int = number) -> None:
                progress(sum(lengths[:number]) + share * lengths[number], sum(lengths))

            with (
                opened(recording) as reader,
                RecordingSeparation(
                    reader, separator, sources, most, report, scans[number], threads
                ) as separation,
            ):
                outputs, clipped = _write(place, reader, separation)
                warnings = _warnings(reader, clipped)
                took = time.monotonic() - start
                done(
                    Separated(
                        recording, outputs, reader.sample_rate, lengths[number], took, warnings
                    )
                )


def check_reader(reader: AudioReader) -> None:
    """Raise InputError, naming it, unless a separator takes what is read."""
    try:
        check_recording((reader.channels, reader.frames or 1), reader.sample_rate)
    except InputError as error:
        raise InputError(f"{reader.name}: {error}") from error


def refuse_existing(path: Path, force: bool) -> None:
    """Raise InputError if there is something at `path`, unless `force`."""
    if path.exists() and not force:
        raise InputError(f"{path}: exists; add --force to replace it, or give another --out")


@dataclass(frozen=True)
class _Place:
    """Where the sources of one recording go, and how they are coded."""

    folder: Path
    stem: str
    suffix: str
    subtype: str

    def path(self, number: int) -> Path:
        """Of source `number`, from 1 on."""
        return self.folder / f"{self.stem}_s{number}{self.suffix}"

    def existing(self) -> list[Path]:
        """Outputs of an earlier run, also of one with more sources."""
        places = (self.path(k + 1) for k in range(MOST_SOURCES))
        return [place for place in places if place.exists()]


def _place(recording: Path, reader: AudioReader, out: Path, file_format: str) -> _Place:
    """InputError where no separator takes the recording, or its format cannot hold the sources."""
    check_reader(reader)
    piped = recording == STANDARD
    if file_format != "input":
        suffix = f".{file_format}"
    else:
        suffix = f".{reader.format.lower()}" if piped else recording.suffix
    stem = "stdin" if piped else recording.stem
    place = _Place(out, stem, suffix, output_subtype(suffix[1:], reader.subtype))
    check_output(place.path(1), reader.sample_rate, reader.channels, place.subtype)
    return place


def _check_outputs(recordings: Sequence[Path], places: Sequence[_Place], force: bool) -> None:
    own = {recording.resolve() for recording in recordings}
    stems: dict[str, Path] = {}
    for recording, place in zip(recordings, places, strict=True):
        out = place.folder
        nearest = next((folder for folder in (out, *out.parents) if folder.exists()), out)
        if nearest.exists() and not nearest.is_dir():
            raise InputError(f"{nearest}: is a file, not a folder; give another --out")
        other = stems.setdefault(place.stem, recording)
        if other is not recording:
            raise InputError(f"{other} and {recording} would share output names; rename one")
        for existing in place.existing():
            refuse_existing(existing, force)
            if existing.is_dir() or existing.resolve() in own:
                what = "a folder" if existing.is_dir() else "one of the recordings"
                raise InputError(f"{existing}: is {what} and stays; give another --out")


def _write(
    place: _Place, reader: AudioReader, separation: RecordingSeparation
) -> tuple[tuple[Path, ...], int]:
    """All sources aside first, then into place; and how many samples were clipped."""
    paths = tuple(place.path(k + 1) for k in range(separation.link().num_sources))
    length = separation.scan.samples
    with folder_aside(place.folder) as aside:
        with ExitStack() as stack:
            writers = [
                AudioWriter(
                    aside / path.name, reader.sample_rate, reader.channels, place.subtype, length
                )
                for path in paths
            ]
            for writer in writers:
                stack.enter_context(writer)
            for piece in separation.pieces():
                for writer, source in zip(writers, piece.sources, strict=True):
                    writer.write(source.numpy())
        for path in paths:
            (aside / path.name).replace(path)
        for old in place.existing():
            if old not in paths:
                old.unlink()
    return paths, sum(writer.clipped for writer in writers)


def _warnings(reader: AudioReader, clipped: int) -> tuple[str, ...]:
    warnings = []
    if reader.cut_off:
        seconds = reader.read / reader.sample_rate
        warnings.append(
            f"{reader.name} is cut off after {seconds:.2f} s: what could be read is separated"
        )
    if clipped:
        warnings.append(
            f"{clipped} samples of the sources of {reader.name} passed full scale and were clipped;"
            " use --format wav"
        )
    return tuple(warnings)


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
