"""`dpcl experiment`: a table of the paper on a corpus, every system side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpcl.apps.console import Force, Limit, Metrics, more_metrics, progress, screen
from dpcl.io import Progress, Report

if TYPE_CHECKING:
    from dpcl.evaluation.descriptions import Experiment, System
    from dpcl.evaluation.experiment import Places
    from dpcl.training.recipe import Recipe


def experiment(
    name: Annotated[str | None, typer.Argument(help="Which; without one, all are listed.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Folder with the recordings.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for report.html, .md and .csv.")] = None,
    systems: Annotated[str | None, typer.Option(help="Only these, as a,b.")] = None,
    limit: Limit = None,
    metrics: Metrics = "",
    weights: Annotated[Path, typer.Option(help="Folder of the training runs.")] = Path("runs"),
    train: Annotated[
        bool, typer.Option("--train", help="Train what has no weights there.")
    ] = False,
    lists: Annotated[Path, typer.Option(help="Folder of frozen lists.")] = Path("lists"),
    recipes: Annotated[Path, typer.Option(help="Folder of recipes, for --train.")] = Path(
        "recipes"
    ),
    cache: Annotated[Path, typer.Option(help="Folder where scores are kept.")] = Path(
        "runs/scores"
    ),
    workers: Annotated[int, typer.Option(help="Processes; 0: one a core.", min=0)] = 0,
    force: Force = False,
) -> None:
    """Score all systems of an experiment, and write its tables with sounds and pictures.

    What was scored before is not scored again; stopped, it goes on where it was.

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
        screen.print(f"dpcl: {note}", style="yellow")
    print(done.markdown, end="")
    for path in done.outputs:
        screen.print(str(path))


def train_missing(experiment: Experiment, places: Places, report: Report) -> None:
    """Train every system of a recipe that has no weights; what was stopped goes on.

    report: called with steps of each training. Raises InputError for a
    recipe that is not there and what the training refuses.
    """
    from dpcl.training.checkpoint import latest_checkpoint
    from dpcl.training.loop import train

    for system in experiment.systems:
        run = places.weights / system.folder
        started = latest_checkpoint(run) is not None
        if system.recipe is None or (_weights(system, places) is not None and not started):
            continue
        recipe = _recipe(system, places)
        train(
            recipe,
            run,
            resume=started,
            report=lambda row, name=system.folder: report(  # type: ignore[misc]
                Progress(row.step, row.steps, "steps", f"{name}, loss {row.loss:.3f}")
            ),
        )


def _recipe(system: System, places: Places) -> Recipe:
    """With the changes of the system, and weights to start from below the folder of runs."""
    from dpcl.training.recipe import read_recipe

    changes = tuple(f"{key}={value}" for key, value in system.changes.items())
    recipe = read_recipe(places.recipes / f"{system.recipe}.yaml", changes)
    if recipe.init is not None and recipe.init.startswith("runs/"):
        init = places.weights / recipe.init.removeprefix("runs/")
        recipe = recipe.model_copy(update={"init": str(init)})
    return recipe


def _weights(system: System, places: Places) -> Path | None:
    """What a recipe's training left, the best or else the last; None if there is nothing."""
    from dpcl.training.checkpoint import latest_checkpoint

    run = places.weights / system.folder
    if (run / "best.safetensors").is_file():
        return run / "best.safetensors"
    last = latest_checkpoint(run)
    return last / "model.safetensors" if last else None


def _separator(system: System, places: Places) -> str | None:
    """What --separator would be; None for a recipe that was not trained yet."""
    from dpcl.separators.registry import LOCAL

    if system.recipe is None:
        return system.separator or system.name
    path = _weights(system, places)
    return None if path is None else f"{path}{LOCAL if system.local else ''}"
