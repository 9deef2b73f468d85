"""The program `dpcl`: reads the command line, shows progress and prints results.

Each command imports heavy packages itself, so that `--help` appears at once.
"""

from __future__ import annotations

import codecs
import math
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import dpcl
from dpcl.apps import (
    bulk,
    corpus,
    experiment,
    live,
    mix,
    mix_sets,
    models,
    process,
    serve,
    show,
    train,
)
from dpcl.apps.console import (
    OUT,
    Device,
    DeviceName,
    FileFormat,
    Floor,
    Force,
    KnownVoices,
    Language,
    Limit,
    MaxSources,
    Metrics,
    ModelName,
    Only,
    Sources,
    Spatial,
    Transcribe,
    detail,
    more_metrics,
    one_line,
    print_json,
    progress,
    screen,
    set_verbosity,
    verbosity,
    warn,
    with_verbosity,
)
from dpcl.errors import FLOOR_DB, InputError


class Program(TyperGroup):
    """The program, whose commands are listed in the order in which people need them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of COMMANDS."""
        return [
            str(command.info.name) if isinstance(command, typer.Typer) else command.__name__
            for command in COMMANDS
        ]


app = typer.Typer(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"]},  # for all commands
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
mix.app.command()(mix_sets.wsj0)
mix.app.command()(mix_sets.librimix)
UsageError: Any = typer.BadParameter.__base__  # class of click, or of the copy in newer typers

INTERRUPTED = 130  # status that newer typers return after Ctrl-C

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def main() -> None:
    """Run the command line, the one boundary that failures do not cross as a traceback.

    Status 0: done. 2: a failure of the input or the machine, in one sentence. 1: a defect of dpcl,
    as a short report. 128 and the number of a signal: ended by it.
    """
    _print_any_name()
    set_verbosity()
    status, message = _run(sys.argv[1:] or ["--help"])
    if message:
        with suppress(OSError):  # standard error may be full or closed
            screen.print(f"dpcl: {message}", style="red")
    sys.exit(status)


def _run(arguments: list[str]) -> tuple[int, str]:
    """Run a command; return its exit status, and a message on a failure."""
    try:
        status = app(arguments, prog_name="dpcl", standalone_mode=False)
        process.flush_output()
    except InputError as error:
        return _failed(2, str(error).rstrip("."))
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "dpcl"
        return _failed(2, f"{error.format_message().rstrip('.')}; try `{command} --help`")
    except (typer.Abort, KeyboardInterrupt):
        return process.interrupted(), ""
    except (BrokenPipeError, SystemExit):  # typer exits for a reader that has enough, like `head`
        process.abandon_output()
        return 0, ""
    except Exception as error:
        return _failure(error)
    if status == INTERRUPTED:
        status = process.interrupted()
    return status if isinstance(status, int) else 0, ""


def _failure(error: Exception) -> tuple[int, str]:
    """Return exit status and message of a failure that no command has turned into a sentence."""
    sentence = process.sentence(error)
    if sentence is None:
        return _failed(1, process.report_of(error))
    return _failed(2, sentence)


def _failed(status: int, message: str) -> tuple[int, str]:
    """Return both, after the traceback of the error that is being handled with `-v`."""
    screen.quiet = False
    if verbosity.verbose:
        with suppress(OSError):
            screen.print(traceback.format_exc().rstrip(), style="dim")
    return status, one_line(message) if status == 2 else message


def _print_any_name() -> None:
    """Let standard output print file names that its encoding lacks: as their bytes, or escaped."""

    def replaced(error: UnicodeError) -> tuple[str | bytes, int]:
        """Handle characters that cannot be encoded."""
        try:
            return codecs.lookup_error("surrogateescape")(error)
        except UnicodeError:
            return codecs.lookup_error("backslashreplace")(error)

    codecs.register_error("dpcl", replaced)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="dpcl")


def _print_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        print(f"dpcl {dpcl.__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Separate recordings of overlapping talkers: one recording in, one file per voice out."""


def separate(
    recordings: Annotated[
        list[Path],
        typer.Argument(help="Audio files; `-` reads standard input.", metavar="REC"),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the outputs: STEM_s1.wav, STEM_s2.wav, …")
    ] = OUT,
    sources: Sources = None,
    max_sources: MaxSources = 4,
    model: ModelName = "default",
    file_format: FileFormat = "wav",
    background: Annotated[
        bool,
        typer.Option(
            help="Write STEM_background.wav if the model estimates a background. With"
            " `--no-background`, the sources share it."
        ),
    ] = True,
    spatial: Spatial = True,
    floor: Floor = FLOOR_DB,
    device: DeviceName = Device.cpu,
    voice: KnownVoices = None,
    only: Only = None,
    timeline: Annotated[
        bool,
        typer.Option(
            "--timeline",
            help="Also write who speaks when: STEM_timeline.rttm, .txt (Audacity), .json.",
        ),
    ] = False,
    transcribe: Transcribe = None,
    language: Language = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Separate recordings into sources.

    Outputs keep the input's sample rate, channels and length, and sum to it.

    Example: **dpcl separate examples/two_talkers.flac --out talkers --sources 2**
    """
    from dpcl.apps.files import Separated, read_voices, separate_files

    process.quick_exit = True
    finished: list[Separated] = []
    with progress("separating") as move:

        def done(separated: Separated) -> None:
            """Print the warnings of a finished recording."""
            finished.append(separated)
            for warning in separated.warnings:
                warn(warning)
            detail(
                f"{separated.recording}: {separated.seconds:.1f} s at {separated.sample_rate} Hz"
                f" in {len(separated.outputs)} files, {separated.took:.1f} s of work by {model}"
            )

        separate_files(
            recordings,
            out,
            model,
            sources,
            force,
            done,
            file_format.lower(),
            move,
            max_sources,
            background,
            device=device.value,
            timeline=timeline,
            transcribe=transcribe,
            language=language,
            spatial=spatial,
            floor=floor,
            voices=read_voices(voice or []),
            only=only,
        )
    if as_json:
        print_json([asdict(separated) for separated in finished])
        return
    for separated in finished:
        for path in separated.outputs:
            print(path)


def evaluate(
    mixture_list: Annotated[
        Path,
        typer.Argument(
            help="List (CSV), or folder with mix/, s1/, s2/, …; for `--timeline` an RTTM file, or"
            " a folder with recordings and RTTM files.",
            metavar="LIST",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for results.csv and summary.json.")
    ],
    root: Annotated[
        Path | None, typer.Option(help="Folder that the paths of the list are relative to.")
    ] = None,
    separator: Annotated[
        str,
        typer.Option(
            help="Model or .safetensors file, either optionally followed by `:local`, `:local25`,"
            " `:guided`, `:more` or `:live`; or one of live, nmf, fhmm, casa, spectral, mixture,"
            " ibm, irm, psm."
        ),
    ] = "default",
    limit: Limit = None,
    metrics: Metrics = "",
    device: DeviceName = Device.cpu,
    timeline: Annotated[
        bool,
        typer.Option("--timeline", help="Score who speaks when, against RTTM files: DER and JER."),
    ] = False,
    estimates: Annotated[
        Path | None,
        typer.Option(help="With `--timeline`: score this RTTM file, and separate nothing."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Score a separator on a list: SI-SDR, SDR and their improvements, by condition.

    Example: **dpcl evaluate lists/open2.csv --root corpus --out results/open2**
    """
    if timeline:
        _evaluate_timelines(mixture_list, out, separator, estimates, limit, force, as_json)
        return
    if estimates is not None:
        raise InputError("--estimates: scores timelines; add --timeline")
    from dpcl.evaluation.evaluate import evaluate as score_list
    from dpcl.evaluation.evaluate import summary_document
    from dpcl.evaluation.summary import summary_table
    from dpcl.io import refuse_existing
    from dpcl.mixtures.lists import read_list, rendered_root
    from dpcl.separators.registry import find_method

    rows = read_list(mixture_list)
    root = root or rendered_root(mixture_list, rows)
    if root is None:
        raise InputError(f"{mixture_list}: its paths need a folder; give it as --root")
    for name in ("results.csv", "summary.json"):
        refuse_existing(out / name, force)
    method = find_method(separator, device.value)
    with progress("evaluating mixtures") as move:
        summary = score_list(
            rows,
            root,
            method,
            out,
            limit=limit,
            report=move,
            metrics=more_metrics(metrics),
        )
    if as_json:
        print_json(summary_document(summary))
    else:
        print(summary_table(summary))


def _evaluate_timelines(
    place: Path,
    out: Path,
    separator: str,
    estimates: Path | None,
    limit: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Score who speaks when."""
    from dpcl.evaluation.evaluate import write_files
    from dpcl.evaluation.meetings import evaluate_timelines, json_document, timeline_files
    from dpcl.io import refuse_existing

    for name in ("results.csv", "summary.json"):
        refuse_existing(out / name, force)
    with progress("evaluating recordings") as move:
        document = evaluate_timelines(place, separator, estimates, limit, move)
    write_files(out, timeline_files(document))
    if as_json:
        print(json_document(document))
        return
    der = math.nan if document["der"] is None else document["der"]
    print(
        f"{document['recordings']} recordings: DER {100 * der:.1f} %,"
        f" JER {100 * document['jer']:.1f} %,"
        f" number of talkers right in {document['right']}"
    )


# In the order of `dpcl --help`.
COMMANDS: tuple[typer.Typer | Callable[..., None], ...] = (
    separate,
    show.show,
    serve.web,
    serve.serve,
    live.live,
    bulk.bulk,
    models.app,
    mix.app,
    corpus.corpus,
    train.train,
    evaluate,
    experiment.experiment,
    models.export,
)
for command in COMMANDS:
    if isinstance(command, typer.Typer):
        for registered in command.registered_commands:
            assert registered.callback is not None
            registered.callback = with_verbosity(registered.callback)
        app.add_typer(command)
    else:
        app.command()(with_verbosity(command))
