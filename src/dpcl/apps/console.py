"""Shared parts of the commands: console, progress bar and common options."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dpcl.errors import InputError
from dpcl.io import Progress, Report, no_report
from dpcl.shipped import shipped_models

# Console on standard error, as standard output is for results; file names are printed unchanged.
screen = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)

OUT = Path("separated")  # default folder of outputs


class Device(str, Enum):
    """Device that runs the network."""

    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"
    auto = "auto"


def complete_model(incomplete: str) -> list[str]:
    """Return the shipped models that begin with these letters, for shell completion.

    Example:
        >>> complete_model("gen")
        ['general']
    """
    return [model.name for model in shipped_models() if model.name.startswith(incomplete)]


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
        "--model",
        "-m",
        help="Shipped model (see `dpcl models`), hf://ORG/NAME, or a .safetensors file.",
        autocompletion=complete_model,
    ),
]
DeviceName = Annotated[
    Device,
    typer.Option(help="Device that runs the network; auto: a GPU if there is one."),
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
        help="Metrics besides si_sdr and sdr: pesq, stoi, wer, or several as pesq,stoi.",
        show_default=False,
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


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and results only.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print details, and the traceback of an error.")
]


@dataclass
class Verbosity:
    """How much is printed on standard error, for one call of the program.

    Attributes:
        quiet: print errors only.
        verbose: print details, and the traceback of an error.
    """

    quiet: bool = False
    verbose: bool = False


verbosity = Verbosity()


def set_verbosity(quiet: bool = False, verbose: bool = False) -> None:
    """Choose the lines that are printed on standard error.

    Args:
        quiet: errors only.
        verbose: details, and the traceback of an error.

    Raises:
        InputError: Both were chosen.
    """
    verbosity.quiet = verbosity.verbose = screen.quiet = False
    if quiet and verbose:
        raise InputError("--quiet, --verbose: they exclude each other; give one of them")
    verbosity.quiet, verbosity.verbose, screen.quiet = quiet, verbose, quiet


def detail(text: str) -> None:
    """Print a line with --verbose only."""
    if verbosity.verbose:
        screen.print(text, style="dim")


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with the options --quiet and --verbose besides its own.

    Args:
        command: function of a command.

    Returns:
        Function for `typer`, with both options at the end of its signature.
    """
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(*, quiet: bool, verbose: bool, **given: Any) -> None:
        """Set the verbosity and run the command."""
        set_verbosity(quiet, verbose)
        command(**given)

    kind = inspect.Parameter.KEYWORD_ONLY
    more = [
        inspect.Parameter(name, kind, default=False, annotation=annotation)
        for name, annotation in (("quiet", Quiet), ("verbose", Verbose))
    ]
    own = [parameter.replace(kind=kind) for parameter in signature.parameters.values()]
    run.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *more)}
    return run


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
    if not screen.is_interactive or verbosity.quiet:
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


def print_json(document: Any) -> None:
    """Print a JSON document on standard output, paths as text."""
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str)  # paths as text
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # names that are not Unicode
        text = json.dumps(document, indent=2, default=str)
    print(text)
