"""The program `dpcl`: reads the command line, shows progress, prints results; the work is below.

Heavy packages are imported by the command that needs them, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

import dpcl
from dpcl.apps import bulk, corpus, experiment, export, live, mix, process, show, train, web
from dpcl.apps.screen import (
    FileFormat,
    Force,
    Limit,
    MaxSources,
    Metrics,
    ModelName,
    Sources,
    more_metrics,
    progress,
    screen,
)
from dpcl.errors import InputError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(mix.app, name="mix")
app.command()(corpus.corpus)
app.command()(experiment.experiment)
app.command()(show.show)
app.command()(export.export)
app.command()(live.live)
app.command()(web.web)
app.command()(bulk.bulk)
UsageError: Any = typer.BadParameter.__base__  # click's, of which newer typers hold a copy

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def main() -> None:
    """Entry point: wrong input ends with one sentence and status 2, never with a traceback."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="dpcl", standalone_mode=False))
    except InputError as error:
        message = str(error).rstrip(".")
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "dpcl"
        message = f"{error.format_message().rstrip('.')}; try `{command} --help`"
    except typer.Abort:  # Ctrl-C, in older typers
        sys.exit(130)
    except OSError as error:
        if error.filename is None:
            raise
        message = f"{error.filename}: {error.strerror}"
    screen.print(f"dpcl: {message}", style="red")
    sys.exit(2)


def _print_version(wanted: bool) -> None:
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
    """One recording in which sounds overlap in, each sound on its own out."""


@app.command()
def separate(
    recordings: Annotated[
        list[Path], typer.Argument(help="Audio files; - is standard input.", metavar="REC...")
    ],
    out: Annotated[Path, typer.Option(help="Folder for STEM_s1.wav, STEM_s2.wav, …")],
    sources: Sources = None,
    max_sources: MaxSources = 4,
    model: ModelName = "default",
    file_format: FileFormat = "wav",
    background: Annotated[
        bool,
        typer.Option(
            help="Write STEM_background.wav where the model estimates the background; with"
            " --no-background it is shared among the sources."
        ),
    ] = True,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write each source of each recording, at its own rate and channels, adding up to it.

    Example: **dpcl separate examples/two_talkers.flac --out separated**
    """
    from dpcl.apps.files import Separated, separate_files

    process.quick_exit = True
    finished: list[Separated] = []
    with progress("separating") as move:

        def done(separated: Separated) -> None:
            finished.append(separated)
            for warning in separated.warnings:
                screen.print(f"dpcl: {warning}", style="yellow")

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
        )
    if as_json:
        _print_json([asdict(separated) for separated in finished])
        return
    for separated in finished:
        for path in separated.outputs:
            print(path)


app.command()(train.train)


@app.command()
def evaluate(
    mixture_list: Annotated[
        Path,
        typer.Argument(help="A list (CSV), or a folder with mix/, s1/, s2/, …", metavar="LIST"),
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.csv and summary.json.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder that the list's paths are relative to.")
    ] = None,
    separator: Annotated[
        str,
        typer.Option(
            help="A model, a .safetensors file, either with :local or :live behind it, live, nmf,"
            " fhmm, casa, spectral, or mixture, ibm, irm, psm."
        ),
    ] = "default",
    limit: Limit = None,
    metrics: Metrics = "",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Score a separator on a list: SI-SDR, SDR and their improvements, by condition.

    Example: **dpcl evaluate lists/open2.csv --root corpus --out results/open2**
    """
    from dpcl.evaluation.evaluate import evaluate as score_list
    from dpcl.evaluation.evaluate import summary_document
    from dpcl.evaluation.summary import summary_table
    from dpcl.io import refuse_existing
    from dpcl.mixtures.lists import read_list
    from dpcl.mixtures.rendered import rendered_root
    from dpcl.separators.registry import find_method

    rows = read_list(mixture_list)
    root = root or rendered_root(mixture_list, rows)
    if root is None:
        raise InputError(f"{mixture_list} needs --root, the folder that its paths are relative to")
    for name in ("results.csv", "summary.json"):
        refuse_existing(out / name, force)
    method = find_method(separator)
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
        _print_json(summary_document(summary))
    else:
        print(summary_table(summary))


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Print the card of this one.")] = None,
    as_json: Json = False,
) -> None:
    """What ships, what it was trained on, how good it is.

    Example: **dpcl models default**
    """
    from dpcl.shipped import shipped_models

    found = shipped_models()
    if name is not None:
        found = [model for model in found if model.name == name]
        if not found:
            raise InputError(f"no model {name!r} ships; `dpcl models` lists what does")
    if as_json:
        _print_json([asdict(model) for model in found])
    elif name is not None:
        print(found[0].card)
    else:
        for model in found:
            size = model.path.stat().st_size / 1e6
            print(f"{model.name}  {size:.1f} MB  {model.summary}")


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))  # paths as text
