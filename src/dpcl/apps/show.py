"""`dpcl show`: draw a page about a recording and its separation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dpcl.apps.console import (
    OUT,
    Device,
    DeviceName,
    Force,
    ModelName,
    Sources,
    Spatial,
    progress,
    warn,
)
from dpcl.errors import InputError, check_sources, need_package
from dpcl.io import Report, no_report


def show(
    recording: Annotated[Path, typer.Argument(help="Audio file.", metavar="REC")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="File (.png, .pdf, .svg, .jpg, .webp or .tif), or folder for STEM.png.",
        ),
    ] = OUT,
    sources: Sources = None,
    model: ModelName = "default",
    start: Annotated[float, typer.Option(help="Start of the part to show in s.")] = 0.0,
    seconds: Annotated[
        float | None, typer.Option(help="Length of the part to show in s; to the end if omitted.")
    ] = None,
    spatial: Spatial = True,
    device: DeviceName = Device.cpu,
    force: Force = False,
) -> None:
    """Draw mixture, sources, masks and embeddings of a recording on one page.

    The whole recording is separated, also if only a part of it is shown. Embeddings come from the
    8 s in which sources overlap most.

    Example: **dpcl show examples/two_talkers.flac --out two_talkers.png**
    """
    with progress("separating") as move:
        shown = show_file(
            recording, out, model, sources, start, seconds, force, device.value, move, spatial
        )
    for warning in shown.warnings:
        warn(warning)
    print(shown.path)


SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".webp", ".tif")  # suffixes of picture formats


@dataclass(frozen=True)
class Shown:
    """The picture that was written.

    Attributes:
        path: file of the picture.
        warnings: sentences about problems, such as a recording that is cut off.
    """

    path: Path
    warnings: tuple[str, ...]


def show_file(
    recording: Path,
    out: Path,
    model: str = "default",
    sources: int | None = None,
    start: float = 0.0,
    seconds: float | None = None,
    force: bool = False,
    device: str = "cpu",
    report: Report = no_report,
    spatial: bool = True,
) -> Shown:
    """Separate a recording, and write a page about all of it or about a part.

    Args:
        recording: audio file.
        out: file whose suffix selects the format, or folder for STEM.png.
        model: separator, as `dpcl.separate` takes it.
        sources: number of sources; None to estimate it.
        start: start of the part, s.
        seconds: length of the part, s; None for the rest of the recording.
        force: replace a file that exists.
        device: device that runs the network.
        report: called with the seconds of audio done and in all.
        spatial: refine the masks by differences of level and phase between channels.

    Returns:
        The file.

    Raises:
        InputError: The recording cannot be read or ends before `start`; the output cannot be
            written, or exists and `force` is False; `dpcl.separate` refuses an argument;
            matplotlib is not installed.
    """
    from dpcl.apps.files import check_reader
    from dpcl.io import folder_aside
    from dpcl.signal.reader import AudioReader

    path = _output(recording, out, force)
    check_sources(sources)
    if seconds is not None and not 0 < seconds < math.inf:
        raise InputError(f"cannot show {seconds} seconds; give --seconds more than 0")
    if not 0 <= start < math.inf:
        raise InputError(f"{recording}: nothing starts at {start} s; give --start 0 or more")
    need_package("show", "pictures need", "matplotlib")
    with AudioReader(recording) as reader:
        check_reader(reader)
        # Imports of torch and matplotlib follow the checks: a mistyped name is reported at once.
        import matplotlib

        from dpcl.evaluation.figures import STYLE
        from dpcl.evaluation.picture import draw_page, picture_of
        from dpcl.separators.registry import build

        separator = build(model, device=device)
        picture = picture_of(reader, separator, sources, start, seconds, report, spatial)
        with matplotlib.rc_context(STYLE), folder_aside(path.parent) as folder:
            draw_page(picture).savefig(folder / path.name)
            (folder / path.name).replace(path)
        warnings = list(reader.notes)
        if reader.cut_off:
            end = reader.read / reader.sample_rate
            sentence = f"{recording} is cut off after {end:.2f} s; only this part is shown"
            warnings.insert(0, sentence)
    return Shown(path, tuple(warnings))


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
