"""What the commands share: the screen, its progress bar, and common options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

# Standard output is for results; file names are shown as they are.
from dpcl.io import Progress, Report, no_report

screen = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)

Force = Annotated[bool, typer.Option("--force", help="Replace what exists.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many mixtures.", min=1)]

Sources = Annotated[int | None, typer.Option(help="How many sounds, 1 to 10; counted if left out.")]
MaxSources = Annotated[int, typer.Option(help="Where they are counted, at most so many.")]
ModelName = Annotated[str, typer.Option(help="A shipped model, or a .safetensors file.")]
FileFormat = Annotated[
    str, typer.Option("--format", help="Of the outputs: wav, flac, mp3, …; input: as REC is.")
]
Metrics = Annotated[
    str, typer.Option(help="pesq, stoi or pesq,stoi, besides si_sdr,sdr.", show_default=False)
]


def more_metrics(text: str) -> tuple[str, ...]:
    """The metrics of a list like `si_sdr,sdr,pesq` beyond the two that are always there."""
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    return tuple(dict.fromkeys(name for name in names if name not in ("si_sdr", "sdr")))


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """Show a progress bar if the console is interactive; yields the function that moves it."""
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
            note = f"{moved.unit} {moved.note}".strip()
            bar.update(task, completed=round(moved.done), total=round(moved.total), note=note)

        yield move
