"""`dpcl show`: draw a page about a recording and its separation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpcl.apps.console import Force, ModelName, screen
from dpcl.errors import InputError, need_package
from dpcl.separators.limits import check_sources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dpcl.evaluation.page import Picture
    from dpcl.separators.base import Separator


def show(
    recording: Annotated[Path, typer.Argument(help="Audio file.", metavar="REC")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="File (.png, .pdf, .svg, .jpg, .webp or .tif), or folder for STEM.png.",
        ),
    ],
    sources: Annotated[
        int | None, typer.Option(help="Number of sources, 1 to 10. Estimated if omitted.")
    ] = None,
    model: ModelName = "default",
    start: Annotated[float, typer.Option(help="Start of the part to show in s.")] = 0.0,
    seconds: Annotated[
        float, typer.Option(help="Length of the part to show in s, at most 120.")
    ] = 8.0,
    force: Force = False,
) -> None:
    """Draw mixture, sources, masks and embeddings of a recording on one page.

    Example: **dpcl show examples/two_talkers.flac --out two_talkers.png**
    """

    shown = show_file(recording, out, model, sources, start, seconds, force)
    for warning in shown.warnings:
        screen.print(f"dpcl: {warning}", style="yellow")
    if shown.end - shown.start < shown.seconds:
        screen.print(
            f"shows {shown.start:.2f} to {shown.end:.2f} s of {shown.seconds:.2f} s;"
            " --start and --seconds select the part"
        )
    print(shown.path)


SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".webp", ".tif")  # suffixes of picture formats
LONGEST = 120.0  # longest part, s: more is too dense to read, and embeddings take gigabytes


@dataclass(frozen=True)
class Shown:
    """The picture that was written, and the part of the recording that it shows.

    Attributes:
        path: file of the picture.
        start: start of the part, s.
        end: end of the part, s.
        seconds: duration of the whole recording, s.
        warnings: sentences about problems, such as a recording that is cut off.
    """

    path: Path
    start: float
    end: float
    seconds: float
    warnings: tuple[str, ...]


def show_file(
    recording: Path,
    out: Path,
    model: str = "default",
    sources: int | None = None,
    start: float = 0.0,
    seconds: float = 8.0,
    force: bool = False,
) -> Shown:
    """Separate a part of a recording, and write a page about it.

    The part is separated alone, without the rest of the recording.

    Args:
        recording: audio file.
        out: file whose suffix selects the format, or folder for STEM.png.
        model: separator, as `dpcl.separate` takes it.
        sources: number of sources; None to estimate it.
        start: start of the part, s.
        seconds: length of the part, s, at most 120.
        force: replace a file that exists.

    Returns:
        The file and the part that it shows.

    Raises:
        InputError: The recording cannot be read or ends before `start`; the output cannot be
            written, or exists and `force` is False; `dpcl.separate` refuses an argument;
            matplotlib is not installed.
    """
    from dpcl.io import folder_aside

    path = _output(recording, out, force)
    check_sources(sources)
    if not 0 < seconds <= LONGEST:
        raise InputError(
            f"cannot show {seconds} seconds; give --seconds more than 0 and up to {LONGEST:.0f}"
        )
    if not 0 <= start < math.inf:
        raise InputError(f"{recording}: nothing starts at {start} s; give --start 0 or more")
    need_package("show", "pictures need", "matplotlib")
    part, rate, whole, warnings = _part(recording, start, seconds)
    first = round(start * rate)
    # Imports of torch and matplotlib follow the checks: a mistyped name is reported at once.
    import matplotlib

    from dpcl.evaluation.figures import STYLE
    from dpcl.evaluation.page import draw_page
    from dpcl.separators.registry import build

    picture = picture_of(part, rate, build(model), sources, first / rate)
    with matplotlib.rc_context(STYLE), folder_aside(path.parent) as folder:
        draw_page(picture).savefig(folder / path.name)
        (folder / path.name).replace(path)
    end = (first + part.shape[1]) / rate
    if picture.embedded is None:
        warnings.append("embeddings are shown for up to 10 s; give a smaller --seconds to see them")
    return Shown(path, first / rate, end, whole, tuple(warnings))


def picture_of(
    samples: NDArray[np.float32],
    sample_rate: int,
    separator: Separator,
    sources: int | None = None,
    start: float = 0.0,
) -> Picture:
    """Separate samples, and return the content of a page about them.

    Magnitudes are root mean squares over the channels. Embeddings are included for up to 10 s.

    Args:
        samples: (channels, T).
        sample_rate: in Hz.
        separator: separator whose separation holds masks.
        sources: number of sources; None to estimate it.
        start: time of the first sample within the recording, s.

    Raises:
        ValueError: The separation holds no masks.
    """
    import torch

    from dpcl.evaluation.figures import Grid
    from dpcl.evaluation.page import Embedded, Picture
    from dpcl.recordings.separate import separate_recording
    from dpcl.signal.band import Band

    separation = separate_recording(samples, sample_rate, separator, sources)
    masks, vectors = separation.masks, separation.embeddings
    if masks is None:
        raise ValueError("the separator gave no masks to show")
    stft = Band(sample_rate, separator.sample_rate, separator.stft).stft
    spectra = stft(torch.cat([torch.from_numpy(samples)[None], separation.sources])).abs()
    spectra = spectra.square().mean(1).sqrt()  # (1 + C, L, F)
    grid = Grid(stft.hop / sample_rate, sample_rate / stft.window, start)
    seconds = samples.shape[1] / sample_rate
    embedded = None
    if vectors is not None:
        bins = min(
            vectors.shape[1], stft.bins
        )  # number of frequencies of both network and recording
        embedded = Embedded(
            vectors[:, :bins], spectra[0, :, :bins], masks.argmax(0)[:, :bins], grid
        )
    return Picture(spectra[0], spectra[1:], masks, grid, seconds, embedded)


def _part(
    recording: Path, start: float, seconds: float
) -> tuple[NDArray[np.float32], int, float, list[str]]:
    """Return samples (channels, n), sample rate, duration of the recording (s), and warnings."""
    import numpy as np

    from dpcl.apps.files import check_reader
    from dpcl.signal.reader import AudioReader

    with AudioReader(recording) as reader:
        rate = reader.sample_rate
        check_reader(reader)
        first = round(start * rate)
        last = first + max(1, round(seconds * rate))
        parts, read = [], 0
        for block in reader.blocks(1 << 18):
            parts.append(block[:, max(0, first - read) : max(0, last - read)])
            read += block.shape[1]
    if first >= read:
        raise InputError(
            f"{recording} lasts {read / rate:.2f} s: nothing starts at {start} s; give a smaller"
            " --start"
        )
    warnings = [*reader.notes]
    if reader.cut_off:
        sentence = f"{recording} is cut off after {read / rate:.2f} s; only this part is shown"
        warnings.insert(0, sentence)
    return np.concatenate(parts, axis=1), rate, read / rate, warnings


def _output(recording: Path, out: Path, force: bool) -> Path:
    """Return the file of the picture; raise InputError if it must not or cannot be written."""
    from dpcl.io import refuse_existing

    path = out / f"{recording.stem}.png" if out.is_dir() or not out.suffix else out
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path}: no picture is written as {path.suffix!r}; end its name in "
            + ", ".join(SUFFIXES)
        )
    refuse_existing(path, force)
    if path.is_dir():
        raise InputError(f"{path}: is a folder and cannot be replaced; give another --out")
    nearest = next(folder for folder in path.parents if folder.exists())
    if not nearest.is_dir():
        raise InputError(f"{nearest}: is a file, not a folder; give another --out")
    return path
