"""A list from a corpus to mixed files: all of them, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dpcl.apps.files import folder_aside, refuse_existing
from dpcl.mixtures.lists import MixtureRow, render_list


def render_files(
    rows: Sequence[MixtureRow],
    root: Path,
    out: Path,
    rate: int,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write out/mix/ID.wav, out/s1/ID.wav, … for all rows of a list, or nothing.

    With `force` files of the same names are replaced; others stay.
    Raises InputError for out/mix or a folder of sources that exists (unless `force`), a folder
    that cannot be written, and what render_list finds wrong.
    """
    sources = max(len(row.sources) for row in rows)
    for name in ("mix", *(f"s{k + 1}" for k in range(sources))):
        refuse_existing(out / name, force)
    with folder_aside(out) as aside:
        render_list(rows, root, aside, rate, progress)
        for path in sorted(aside.glob("*/*.wav")):
            place = out / path.relative_to(aside)
            place.parent.mkdir(exist_ok=True)
            path.replace(place)
