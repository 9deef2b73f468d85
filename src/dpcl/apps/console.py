"""Shared parts of the commands: console, progress bar and common options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from dpcl.io import Progress, Report, no_report

# Console on standard error, as standard output is for results; file names are printed unchanged.
screen = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)

Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
Limit = Annotated[int | None, typer.Option(help="Use only the first N mixtures.", min=1)]

Sources = Annotated[
    int | None,
    typer.Option("--sources", "-n", help="Number of sources, 1 to 10. Estimated if omitted."),
]
MaxSources = Annotated[int, typer.Option(help="Upper limit for the estimated number of sources.")]
ModelName = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Shipped model (see `dpcl models`), or a .safetensors file."
    ),
]
FileFormat = Annotated[
    str,
    typer.Option(
        "--format",
        help="Output format: wav, flac, mp3, …; `input` keeps each recording's format.",
    ),
]
Metrics = Annotated[
    str,
    typer.Option(
        help="Metrics besides si_sdr and sdr: pesq, stoi or pesq,stoi.", show_default=False
    ),
]


def more_metrics(text: str) -> tuple[str, ...]:
    """Return the metrics of a list such as `si_sdr,sdr,pesq` that are not always measured.

    Example:
        >>> more_metrics("si_sdr,sdr,pesq")
        ('pesq',)
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    return tuple(dict.fromkeys(name for name in names if name not in ("si_sdr", "sdr")))


SHOWN = 3  # omitted files listed per reason


def show_omitted(files: Mapping[str, Sequence[str]], all_in: str = "--json lists all") -> None:
    """Print omitted files by reason.

    Args:
        files: names by reason.
        all_in: end of the line for further files, which says where all are listed.
    """
    for reason, names in files.items():
        screen.print(f"omitted {len(names)}: {reason}")
        for name in names[:SHOWN]:
            screen.print(f"  {name}")
        if len(names) > SHOWN:
            screen.print(f"  and {len(names) - SHOWN} more; {all_in}")


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """Show a progress bar if the console is interactive.

    Args:
        title: text before the bar.

    Yields:
        Function that moves the bar.
    """
    if not screen.is_interactive:
        yield no_report
        return
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}"),
    )
    with rich.Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(title, total=None, note="")

        def move(moved: Progress) -> None:
            """Move the bar to the progress."""
            note = f"{moved.unit} {moved.note}".strip()
            bar.update(task, completed=round(moved.done), total=round(moved.total), note=note)

        yield move
