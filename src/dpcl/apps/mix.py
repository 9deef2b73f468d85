"""`dpcl mix`: lists of mixtures, drawn from a corpus and rendered as audio."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpcl.apps.screen import Force, Limit, progress
from dpcl.errors import InputError

app = typer.Typer(help="Draw mixture lists from a corpus, and render them.")


@app.command()
def draw(
    corpus: Annotated[
        Path, typer.Argument(help="CSV index, a folder with one, or a folder per speaker.")
    ],
    out: Annotated[Path, typer.Option(help="The list to write (CSV).")],
    count: Annotated[int, typer.Option(help="Mixtures.", min=1)] = 300,
    sources: Annotated[
        int | None,
        typer.Option(help="Talkers of a mixture, 1 to 10; 2 if left out.", min=1, max=10),
    ] = None,
    kinds: Annotated[
        Path | None, typer.Option(help="Which sounds meet (YAML); see lists/open-general.yaml.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Rows of the index to use.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A corpus of the index; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws another list.", min=0)] = 0,
    shortest: Annotated[float, typer.Option(help="Seconds.")] = 4.0,
    longest: Annotated[float, typer.Option(help="Seconds.")] = 8.0,
    level: Annotated[float, typer.Option(help="Largest relative level in dB.", min=0)] = 5.0,
    force: Force = False,
) -> None:
    """Draw a list of mixtures: a frozen CSV file that says everything about each.

    Example: **dpcl mix draw corpus/index.csv --split test --out lists/open2.csv**
    """
    from dpcl.apps.files import refuse_existing
    from dpcl.mixtures.corpus import read_corpus
    from dpcl.mixtures.drawing import draw_list
    from dpcl.mixtures.lists import write_list

    refuse_existing(out, force)
    found_kinds = None
    if kinds is not None:
        from dpcl.training.recipe import read_kinds

        found_kinds = read_kinds(kinds)
        if sources not in (None, found_kinds.num_sources):
            raise InputError(
                f"{kinds} is of {found_kinds.num_sources} sources, not of {sources}; leave out"
                " --sources"
            )
        sources = found_kinds.num_sources
    found = read_corpus(corpus, split, only or None)
    rows = draw_list(
        found, out.stem, seed, count, sources or 2, (shortest, longest), level, found_kinds
    )
    write_list(rows, out)
    print(out)


@app.command()
def render(
    mixture_list: Annotated[Path, typer.Argument(help="A list (CSV).", metavar="LIST")],
    root: Annotated[Path, typer.Option(help="Folder that the list's paths are relative to.")],
    out: Annotated[Path, typer.Option(help="Folder for mix/, s1/, s2/, …")],
    rate: Annotated[int, typer.Option(help="Hz.", min=1000, max=192000)] = 8000,
    limit: Limit = None,
    force: Force = False,
) -> None:
    """Write a list as audio: mix/ID.wav and its sources s1/ID.wav, s2/ID.wav, …

    Example: **dpcl mix render lists/open2.csv --root corpus --out open2**
    """
    from dpcl.apps.rendering import render_files
    from dpcl.mixtures.lists import read_list

    rows = read_list(mixture_list)[:limit]
    with progress("rendering mixtures") as move:
        render_files(rows, root, out, rate, force, move)
    print(out)
