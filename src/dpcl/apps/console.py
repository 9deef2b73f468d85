"""Shared parts of the commands: console, progress bar, common options, recordings in folders."""

from __future__ import annotations

import csv
import functools
import glob
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from dpcl.catalogue import shipped_models
from dpcl.errors import InputError
from dpcl.io import Progress, Report, no_report

if TYPE_CHECKING:
    from dpcl.mixtures.index import Omitted

# Console on standard error, as standard output is for results; file names are printed unchanged.
screen = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)

OUT = Path("separated")  # default folder of outputs

OMITTED = "bulk-omitted.csv"  # in the folder of the outputs


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

KnownVoices = Annotated[
    list[str] | None,
    typer.Option(
        "--voice",
        help="Recording of one talker alone, some seconds or more; repeatable. The source with this"
        " voice gets the name: STEM_NAME.wav. Needs a model such as `default`.",
        metavar="NAME=FILE",
    ),
]
Only = Annotated[
    str | None,
    typer.Option("--only", help="Write only the source of this known voice.", metavar="NAME"),
]
Transcribe = Annotated[
    str | None,
    typer.Option(
        "--transcribe",
        help="Also write who says what: STEM_transcript.srt, .vtt, .json. MODEL is a Whisper"
        " model: a folder, or a name in its cache, such as base.",
        metavar="MODEL",
    ),
]
Language = Annotated[
    str | None,
    typer.Option(
        "--language",
        help="Language of the transcript, such as en. Detected for each talker if omitted.",
        metavar="CODE",
    ),
]
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
Spatial = Annotated[
    bool,
    typer.Option(
        help="Refine the masks of a recording with several channels by their differences of level"
        " and phase."
    ),
]
Floor = Annotated[
    float,
    typer.Option(
        help="Level in dB to which inactive talkers are attenuated in recordings longer than 10 s."
    ),
]
Metrics = Annotated[
    str,
    typer.Option(
        help="Metrics besides si_sdr and sdr: pesq, stoi, dnsmos, wer, remix-6, remix-12, or"
        " several.",
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
    """Amount of text on standard error, for one call of the program.

    Attributes:
        quiet: print errors only.
        verbose: print details, and the traceback of an error.
    """

    quiet: bool = False
    verbose: bool = False


verbosity = Verbosity()


LONGEST = 1000  # characters of a sentence; paths may have more than 4,000


def one_line(sentence: str) -> str:
    """Return a sentence of one line: control characters escaped, as of file names, and cut.

    Example:
        >>> one_line("a\\nb.wav: does not exist")
        'a\\\\nb.wav: does not exist'
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence)
    half = LONGEST // 2 - 2
    return shown if len(shown) <= LONGEST else f"{shown[:half]} … {shown[-half:]}"


def warn(sentence: str) -> None:
    """Print a warning on standard error."""
    screen.print(f"dpcl: {one_line(sentence)}", style="yellow")


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
            screen.print(f"  {one_line(name)}")
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


def expand_wildcards(given: Sequence[Path]) -> list[Path]:
    """Expand patterns such as `*.wav`, which not every shell expands.

    Args:
        given: files, folders and patterns. A name that exists is no pattern.

    Returns:
        Files and folders; a pattern without any match stays.
    """
    paths: list[Path] = []
    for path in given:
        pattern = any(mark in str(path) for mark in "*?[") and not os.path.lexists(path)
        matches = sorted(glob.glob(str(path))) if pattern else []  # noqa: PTH207 - any folder
        paths += [Path(match) for match in matches] or [path]
    return paths


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
    for path in expand_wildcards(given):
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
            if str(recording.resolve()) in folders:
                omitted.add(recording, "the same recording as another one")
            folders.setdefault(str(recording.resolve()), folder)
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
            omitted.add(folder, "folder of the outputs")
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
