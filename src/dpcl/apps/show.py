"""`dpcl show`: what a recording looks like, how it is separated, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpcl.apps.screen import Force, ModelName, screen


def show(
    recording: Annotated[Path, typer.Argument(help="An audio file.", metavar="REC")],
    out: Annotated[
        Path, typer.Option(help="A .png, .pdf, .svg, .jpg, .webp or .tif, or a folder for STEM.png")
    ],
    sources: Annotated[
        int | None, typer.Option(help="How many sounds, 1 to 10; two if left out.")
    ] = None,
    model: ModelName = "default",
    start: Annotated[float, typer.Option(help="Seconds to leave out.")] = 0.0,
    seconds: Annotated[float, typer.Option(help="Seconds to show, at most 120.")] = 8.0,
    force: Force = False,
) -> None:
    """Draw mixture, sources, masks and embeddings of a recording, on one page.

    Example: **dpcl show examples/two_talkers.flac --out two_talkers.png**
    """
    from dpcl.apps.picture import show_file

    shown = show_file(recording, out, model, sources, start, seconds, force)
    for warning in shown.warnings:
        screen.print(f"dpcl: {warning}", style="yellow")
    if shown.end - shown.start < shown.seconds:
        screen.print(
            f"shows {shown.start:.2f} to {shown.end:.2f} s of {shown.seconds:.2f} s;"
            " --start and --seconds choose the part"
        )
    print(shown.path)
