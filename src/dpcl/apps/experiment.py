"""`dpcl experiment`: a table of systems on the lists of a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpcl.apps.console import Force, Limit, Metrics, more_metrics, progress, screen, warn
from dpcl.catalogue import find_folder
from dpcl.io import Progress, Report

if TYPE_CHECKING:
    from dpcl.evaluation.descriptions import Experiment, System
    from dpcl.evaluation.experiment import Places


def experiment(
    name: Annotated[
        str | None,
        typer.Argument(help="Name of the experiment; all are listed if omitted.", metavar="NAME"),
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Folder with the recordings.", envvar="DPCL_CORPUS")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for report.html, .md and .csv.")
    ] = None,
    systems: Annotated[
        str | None, typer.Option(help="Systems to score, separated by commas.")
    ] = None,
    limit: Limit = None,
    metrics: Metrics = "",
    weights: Annotated[Path, typer.Option(help="Folder of the training runs.")] = Path("runs"),
    train: Annotated[
        bool, typer.Option("--train", help="Train the systems that have no weights yet.")
    ] = False,
    lists: Annotated[
        Path | None, typer.Option(help="Folder of frozen lists.", show_default="those that ship")
    ] = None,
    recipes: Annotated[
        Path | None,
        typer.Option(help="Folder of recipes, for --train.", show_default="those that ship"),
    ] = None,
    cache: Annotated[Path, typer.Option(help="Folder of the cached scores.")] = Path("runs/scores"),
    workers: Annotated[int, typer.Option(help="Number of processes; 0: one per core.", min=0)] = 0,
    force: Force = False,
) -> None:
    """Score all systems of an experiment, and write its tables with sounds and pictures.

    Earlier scores are reused. Run the same command again to resume.

    Example: **dpcl experiment two-speakers --corpus corpus --out results/two-speakers**
    """
    from dpcl.evaluation.descriptions import experiment_names, read_experiment

    if name is None:
        for known in experiment_names():
            print(f"{known}  {read_experiment(known).title}")
        return
    if corpus is None or out is None:
        raise typer.BadParameter("give --corpus and --out")
    chosen = None if systems is None else tuple(part.strip() for part in systems.split(","))
    described = read_experiment(name, chosen)
    from dpcl.evaluation.experiment import Places, run_experiment

    lists, recipes = lists or find_folder("lists"), recipes or find_folder("recipes")
    places = Places(corpus, out, lists, weights, recipes, cache)
    with progress("scoring") as move:
        if train:
            train_missing(described, places, move)
        done = run_experiment(
            described,
            places,
            {system.name: _separator(system, places) for system in described.systems},
            limit=limit,
            metrics=more_metrics(metrics),
            workers=workers,
            force=force,
            report=move,
        )
    for note in done.notes:
        warn(note)
    print(done.markdown, end="")
    for path in done.outputs:
        screen.print(str(path))


def train_missing(experiment: Experiment, places: Places, report: Report) -> None:
    """Train every system of a recipe that has no weights; continue a run that was interrupted.

    Args:
        experiment: its systems.
        places: folders of runs and recipes, and the corpus.
        report: called with the steps of each training.

    Raises:
        InputError: A recipe is missing, or the training refuses its data.
    """
    from dpcl.training.phases import read_plan
    from dpcl.training.run import run_plan

    for system in experiment.systems:
        run = places.weights / system.folder
        if system.recipe is None or result(run).is_file():
            continue
        changes = [f"{key}={value}" for key, value in system.changes.items()]
        recipe = places.recipes / f"{system.recipe}.yaml"
        run_plan(
            read_plan(recipe, changes, [places.corpus], system.row),
            run,
            resume=True,
            report=lambda phase, row, name=system.folder: report(  # type: ignore[misc]
                Progress(row.step, row.steps, "steps", f"{name}, {phase}, loss {row.loss:.3f}")
            ),
            packing=report,
        )


def result(run: Path) -> Path:
    """Return the file of the model that a finished run writes."""
    return run / f"{run.name}.safetensors"


def _separator(system: System, places: Places) -> str | None:
    """Return the value of --separator; None for a recipe without a finished run."""
    from dpcl.separators.registry import LOCAL

    if system.recipe is None:
        return system.name
    path = result(places.weights / system.folder)
    return f"{path}{LOCAL if system.local else ''}" if path.is_file() else None
