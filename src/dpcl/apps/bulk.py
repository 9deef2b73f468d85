"""`dpcl bulk`: many recordings on many machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpcl.apps.screen import FileFormat, Force, MaxSources, ModelName, Sources, progress
from dpcl.errors import InputError, need_package


def bulk(
    recordings: Annotated[
        list[Path],
        typer.Argument(help="Audio files, and folders in which all are meant.", metavar="REC..."),
    ],
    out: Annotated[Path, typer.Option(help="Folder; below it sources lie as their recordings do.")],
    sources: Sources = None,
    max_sources: MaxSources = 4,
    model: ModelName = "default",
    file_format: FileFormat = "wav",
    address: Annotated[
        str | None,
        typer.Option(
            help="Of a Ray cluster, or auto; this machine if left out.", show_default=False
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Separate many recordings, one on each processor core of a Ray cluster or of this machine.

    What became of each is in OUT/bulk.csv; stopped, the same command goes on. All machines must
    have dpcl and see the same files. A recording that cannot be separated does not stop the others.

    Example: **dpcl bulk recordings --out separated --address auto**
    """
    need_package("bulk", "many machines need", "ray")
    from dpcl.apps.cluster import JOURNAL, Order, separate_on_cluster

    order = Order(model, sources, max_sources, file_format.lower())
    with progress("separating") as move:
        failed, total = separate_on_cluster(recordings, out, order, address, force, move)
    if failed:
        raise InputError(
            f"{failed} of {total} recordings could not be separated; {out / JOURNAL} says why"
        )
