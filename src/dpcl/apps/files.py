"""Recordings from disk to the files of their sources: all of a piece of work, or none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpcl.apps.process import heavy_imports
from dpcl.errors import InputError
from dpcl.io import Progress, Report, folder_aside, no_report, refuse_existing
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
    report: Report = no_report,
    most: int = MOST_SOURCES,
    background: bool = True,
) -> None:
    """Write out/STEM_s1.wav ... for every recording, and out/STEM_background.wav.

    Recordings stream from disk to disk. All checks come before anything is written. An interrupted
    run leaves the outputs of the recordings that are done, and nothing of the others. A recording
    that is cut off is separated up to its end, with a warning.

    Args:
        recordings: paths; "-" is standard input.
        out: folder of the outputs.
        model: as of `dpcl.separate`.
        sources: number of sources; None to estimate it.
        force: replace outputs that exist.
        done: called after each recording.
        file_format: a suffix that AudioWriter knows, or "input" for the recording's own.
        report: called with seconds of audio done and in all.
        most: limit of the estimated number of sources.
        background: write the background, where the model estimates it; False shares it among the
            sources.

    Raises:
        InputError: A recording cannot be read, two share a name, an output exists, the folder
            cannot be written, or `dpcl.separate` refuses an argument.
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

            def report_one(share: Progress, number: int = number) -> None:
                seconds = sum(lengths[:number]) + share.done / share.total * lengths[number]
                report(Progress(seconds, sum(lengths), "s of audio"))

            with (
                opened(recording) as reader,
                RecordingSeparation(
                    reader,
                    separator,
                    sources,
                    most,
                    report_one,
                    scans[number],
                    threads,
                    background,
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

    @property
    def background(self) -> Path:
        """Of the background."""
        return self.folder / f"{self.stem}_background{self.suffix}"

    def existing(self) -> list[Path]:
        """Outputs of an earlier run, also of one with more sources."""
        places = (*(self.path(k + 1) for k in range(MOST_SOURCES)), self.background)
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
    link = separation.link()
    paths = tuple(place.path(k + 1) for k in range(link.num_sources))
    if link.background and separation.background:
        paths = (*paths, place.background)
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
                signals = [*piece.sources] + (
                    [] if piece.background is None else [piece.background]
                )
                for writer, signal in zip(writers, signals, strict=True):
                    writer.write(signal.numpy())
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
