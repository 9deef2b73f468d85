"""`dpcl train`: all phases of a recipe, from corpora to a model."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpcl.apps.console import Force, progress, screen
from dpcl.io import Progress

if TYPE_CHECKING:
    from dpcl.training.checkpoint import LogRow


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Recipe (YAML), or the name of one that ships; see recipes/.", metavar="RECIPE"
        ),
    ],
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder with index.csv, index (CSV), folder per speaker or Lhotse manifest;"
            " may be repeated.",
            envvar="DPCL_CORPUS",
        ),
    ] = None,
    row: Annotated[str | None, typer.Option(help="Variant of the recipe: one of its rows.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="runs/RECIPE")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Initial weights: a model, a trained recipe or a .safetensors file."),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting to change: KEY=VALUE; may be repeated."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run from its last checkpoint.")
    ] = False,
    force: Force = False,
) -> None:
    """Train a model by all phases of a recipe. Resuming a run yields identical weights.

    Writes the model, its card and a copy of the recipe into the folder of the run.

    Example: **dpcl train quick --corpus examples/quick --set seed=1**
    """
    from dpcl.training.phases import read_plan

    changes = list(change or ())
    if init is not None:
        changes.append(f"init={json.dumps(init, ensure_ascii=False)}")
    plan = read_plan(recipe, changes, corpus or (), row)
    from dpcl.training.run import run_plan

    with progress("training") as move:

        def report(phase: str, logged: LogRow) -> None:
            note = f"{phase}: loss {logged.loss:.3f}, {logged.speed:.0f} h of audio per hour"
            move(Progress(logged.step, logged.steps, "steps", note))
            if logged.si_sdri is not None:
                screen.print(
                    f"{phase}, step {logged.step}: {logged.si_sdri:.2f} dB SI-SDRi on the"
                    " validation list"
                )

        folder = run or Path("runs") / plan.name
        try:
            result = run_plan(plan, folder, resume, force, report=report, packing=move)
        except KeyboardInterrupt:
            if (folder / f"{folder.name}.yaml").is_file():  # the run has begun
                command = resume_command(recipe, corpus or (), row, run, change or (), init)
                screen.print(f"dpcl: stopped; resume with `{command}`", style="yellow")
            raise
    # With several devices this command runs once for each; one of them prints.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(result)


def resume_command(
    recipe: str,
    corpora: Sequence[Path],
    row: str | None,
    run: Path | None,
    changes: Sequence[str],
    init: str | None,
) -> str:
    """Return the command that resumes a training.

    Example:
        >>> resume_command("quick", [Path("my corpus")], None, None, ["seed=1"], None)
        "dpcl train quick --corpus 'my corpus' --set seed=1 --resume"
    """
    words = ["dpcl", "train", recipe]
    for option, values in (
        ("--corpus", corpora),
        ("--row", [row]),
        ("--run", [run]),
        ("--init", [init]),
        ("--set", changes),
    ):
        words += [word for value in values if value is not None for word in (option, str(value))]
    return shlex.join([*words, "--resume"])
