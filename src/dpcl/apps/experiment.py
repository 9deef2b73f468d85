"""`dpcl experiment`: a table of the paper on a corpus, every system side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dpcl.apps.screen import Force, Limit, Metrics, more_metrics, progress, screen


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
    from dpcl.evaluation.experiment import experiment_names, read_experiment

    if name is None:
        for known in experiment_names():
            print(f"{known}  {read_experiment(known).title}")
        return
    if corpus is None or out is None:
        raise typer.BadParameter("give --corpus and --out")
    chosen = None if systems is None else tuple(part.strip() for part in systems.split(","))
    described = read_experiment(name, chosen)
    from dpcl.apps.experimenting import Places, run_experiment, train_missing

    places = Places(corpus, out, lists, weights, recipes, cache)
    with progress("scoring") as move:
        if train:
            train_missing(described, places, _trained(move))
        done = run_experiment(
            described,
            places,
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


def _trained(move: Callable[..., None]) -> Callable[[str, int, int, float], None]:
    """What the bar says of a training: whose, step, steps and loss."""

    def report(system: str, step: int, steps: int, loss: float) -> None:
        move(step, steps, f"loss {loss:.3f}", f"training {system}")

    return report
