"""Mixtures from a corpus to mixed files: all of them, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dpcl.apps.files import folder_aside, refuse_existing
from dpcl.errors import InputError
from dpcl.mixtures.librimix import Kind, check_metadata, read_metadata, render_metadata
from dpcl.mixtures.lists import MixtureRow, render_list, write_list
from dpcl.mixtures.mixing import Mode
from dpcl.mixtures.wsj0 import (
    RATES,
    WSJ0,
    check_utterances,
    read_levels,
    read_published,
    render_published,
)


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
    names = ["mix", *(f"s{k + 1}" for k in range(sources))]
    names += ["noise"] if any(row.has_background for row in rows) else []
    with all_or_none(out, names, force) as aside:
        render_list(rows, root, aside, rate, progress)


def render_wsj0(
    root: Path,
    lists: Path,
    out: Path,
    splits: Sequence[str],
    sources: int,
    rate: int,
    mode: Mode,
    levels: Path | None = None,
    limit: int | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write out/SPLIT/mix, s1, s2, … of the published lists, and a list out/SPLIT.csv of each.

    All of it or nothing. Raises InputError where something exists (unless `force`), for lists and
    utterances that are missing, before any work, and for those that cannot be read.
    """
    if rate not in RATES:
        raise InputError(f"wsj0-mix is made at 8000 and 16000 Hz, not at {rate}.")
    published = {split: read_published(lists, split, sources)[:limit] for split in splits}
    levels_db = None if levels is None else read_levels(levels)
    with all_or_none(out, [name for s in splits for name in (s, f"{s}.csv")], force) as aside:
        copy = WSJ0(root)
        together = sum(map(len, published.values()))
        before = 0
        for mixtures in published.values():
            check_utterances(mixtures, copy)
        for split, mixtures in published.items():

            def move(done: int, _: int, before: int = before) -> None:
                if progress is not None:
                    progress(before + done, together)

            rows = render_published(mixtures, copy, aside, split, rate, mode, levels_db, move)
            write_list(rows, aside / f"{split}.csv")
            before += len(mixtures)


def render_librimix(
    librispeech: Path,
    metadata: Path,
    out: Path,
    wham: Path | None,
    rate: int,
    mode: Mode,
    kind: Kind,
    limit: int | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write out/mix_KIND, s1, s2, … (and noise) of a metadata file, and a list out/mix_KIND.csv.

    All of it or nothing. Raises InputError where something exists (unless `force`), and before any
    work for files that are missing.
    """
    if rate not in RATES:
        raise InputError(f"LibriMix is made at 8000 and 16000 Hz, not at {rate}.")
    if kind != "clean" and wham is None:
        raise InputError(f"mix_{kind} has noise: give the folder wham_noise with --wham.")
    rows = read_metadata(metadata)[:limit]
    check_metadata(rows, librispeech, None if kind == "clean" else wham)
    names = [f"s{k + 1}" for k in range(1 if kind == "single" else len(rows[0].paths))]
    names += [f"mix_{kind}", f"mix_{kind}.csv", *(["noise"] if kind != "clean" else [])]
    with all_or_none(out, names, force) as aside:
        rendered = render_metadata(rows, librispeech, wham, aside, rate, mode, kind, progress)
        write_list(rendered, aside / f"mix_{kind}.csv")


@contextmanager
def all_or_none(out: Path, names: Sequence[str], force: bool) -> Iterator[Path]:
    """A folder aside, all of whose files go to `out` in the end; `names` are what lies there then.

    With `force` files of the same names are replaced; others stay. Raises InputError for a name
    that exists (unless `force`), for a folder where a file shall be or the other way round, and
    for a folder that cannot be written.
    """
    for name in names:
        refuse_existing(out / name, force)
    with folder_aside(out) as aside:
        yield aside
        places = {path: out / path.relative_to(aside) for path in sorted(aside.rglob("*"))}
        for path, place in places.items():
            if place.exists() and place.is_dir() != path.is_dir():
                raise InputError(f"{place} is in the way: remove it, or give another --out")
        for path, place in places.items():
            if path.is_dir():
                place.mkdir(exist_ok=True)
            else:
                path.replace(place)
