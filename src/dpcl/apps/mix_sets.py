"""`dpcl mix wsj0` and `dpcl mix librimix`: render the published sets from your own copy."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpcl.apps.console import Force, Limit, progress
from dpcl.apps.mix import all_or_none
from dpcl.errors import InputError
from dpcl.io import Progress, Report, no_report

if TYPE_CHECKING:
    from dpcl.mixtures.librimix import Kind as LibriMixKind
    from dpcl.mixtures.render import Mode


class Kind(str, Enum):
    """Content of LibriMix mixtures: talkers; talkers and noise; one talker and noise."""

    clean = "clean"
    both = "both"
    single = "single"


class Length(str, Enum):
    """Length of mixtures: as in the shortest or in the longest source."""

    min = "min"
    max = "max"


def wsj0(
    root: Annotated[
        Path, typer.Argument(help="Folder of WSJ0 (LDC93S6A), as .wv1 or .wav.", metavar="WSJ0")
    ],
    lists: Annotated[Path, typer.Option(help="Folder of the published lists, mix_2_spk_tr.txt, …")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder of the outputs: tr/mix, tr/s1, …, tr.csv, cv/…, tt/…"
        ),
    ],
    sources: Annotated[
        int, typer.Option(help="Number of sources: 2 for wsj0-2mix, 3 for wsj0-3mix.", min=2)
    ] = 2,
    rate: Annotated[int, typer.Option(help="Sample rate: 8000 or 16000 Hz.")] = 8000,
    mode: Annotated[
        Length, typer.Option(help="Length of the shortest or the longest source.")
    ] = Length.min,
    split: Annotated[
        list[str] | None, typer.Option(help="Split to render: tr, cv or tt; may be repeated.")
    ] = None,
    levels: Annotated[
        Path | None, typer.Option(help="Folder of the published levels, activlev*.txt.")
    ] = None,
    limit: Limit = None,
    force: Force = False,
) -> None:
    """Render wsj0-2mix or wsj0-3mix from WSJ0 and the published lists.

    Example: **dpcl mix wsj0 wsj0 --lists lists --split tt --out wsj0-mix/2speakers/wav8k/min**
    """
    from dpcl.mixtures.wsj0 import SPLITS

    splits = split or SPLITS
    with progress("rendering wsj0-mix") as move:
        render_wsj0(
            root,
            lists,
            out,
            splits,
            sources,
            rate,
            mode.value,
            levels,
            limit,
            force,
            move,
        )
    for name in splits:
        print(out / f"{name}.csv")


def librimix(
    librispeech: Annotated[
        Path, typer.Argument(help="Folder with test-clean, …", metavar="LIBRISPEECH")
    ],
    metadata: Annotated[
        Path, typer.Option(help="Published metadata, such as libri2mix_test-clean.csv.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder of the outputs: mix_clean/, s1/, …, mix_clean.csv."
        ),
    ],
    kind: Annotated[
        Kind,
        typer.Option(
            help="`clean`: talkers; `both`: talkers and noise; `single`: one talker and noise."
        ),
    ] = Kind.clean,
    wham: Annotated[Path | None, typer.Option(help="Folder wham_noise with the noise.")] = None,
    rate: Annotated[int, typer.Option(help="Sample rate: 8000 or 16000 Hz.")] = 8000,
    mode: Annotated[
        Length, typer.Option(help="Length of the shortest or the longest source.")
    ] = Length.min,
    limit: Limit = None,
    force: Force = False,
) -> None:
    """Render LibriMix from LibriSpeech and the published metadata.

    Example: **dpcl mix librimix LibriSpeech --metadata libri2mix_test-clean.csv --out test**
    """

    with progress("rendering LibriMix") as move:
        render_librimix(
            librispeech, metadata, out, wham, rate, mode.value, kind.value, limit, force, move
        )
    print(out / f"mix_{kind.value}.csv")


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
    report: Report = no_report,
) -> None:
    """Write out/SPLIT/mix, s1, s2, … and the list out/SPLIT.csv of each split, all or nothing.

    Args:
        root: folder of WSJ0.
        lists: folder of the published lists.
        out: folder of the outputs.
        splits: splits to render, of tr, cv and tt.
        sources: number of sources.
        rate: sample rate of the outputs: 8000 or 16000 Hz.
        mode: `min` or `max`: length of the shortest or of the longest source.
        levels: folder of the published levels; None to measure them.
        limit: number of mixtures of each split, from the first on; None for all.
        force: replace files of the same names; others are kept.
        report: called after each mixture.

    Raises:
        InputError: Before any work, the rate is another, an output exists and `force` is False, or
            a list or an utterance is missing. Later, a file cannot be read.
    """
    from dpcl.mixtures.lists import write_list
    from dpcl.mixtures.wsj0 import (
        RATES,
        WSJ0,
        check_utterances,
        read_levels,
        read_published,
        render_published,
    )

    if rate not in RATES:
        raise InputError(f"wsj0-mix is defined at 8000 and 16000 Hz, not at {rate}; change --rate")
    published = {split: read_published(lists, split, sources)[:limit] for split in splits}
    levels_db = None if levels is None else read_levels(levels)
    with all_or_none(out, [name for s in splits for name in (s, f"{s}.csv")], force) as folder:
        copy = WSJ0(root)
        total = sum(map(len, published.values()))
        rendered = 0
        for mixtures in published.values():
            check_utterances(mixtures, copy)
        for split, mixtures in published.items():

            def move(progress: Progress, earlier: int = rendered) -> None:
                """Report the progress over all splits."""
                report(Progress(earlier + progress.done, total, progress.unit))

            rows = render_published(mixtures, copy, folder, split, rate, mode, levels_db, move)
            write_list(rows, folder / f"{split}.csv")
            rendered += len(mixtures)


def render_librimix(
    librispeech: Path,
    metadata: Path,
    out: Path,
    wham: Path | None,
    rate: int,
    mode: Mode,
    kind: LibriMixKind,
    limit: int | None = None,
    force: bool = False,
    report: Report = no_report,
) -> None:
    """Write out/mix_KIND, s1, s2, …, noise and the list out/mix_KIND.csv, all or nothing.

    Args:
        librispeech: folder of LibriSpeech.
        metadata: published metadata file.
        out: folder of the outputs.
        wham: folder wham_noise; required unless `kind` is `clean`.
        rate: sample rate of the outputs: 8000 or 16000 Hz.
        mode: `min` or `max`: length of the shortest or of the longest source.
        kind: `clean` (talkers), `both` (talkers and noise) or `single` (one talker and noise).
        limit: number of mixtures, from the first on; None for all.
        force: replace files of the same names; others are kept.
        report: called after each mixture.

    Raises:
        InputError: The rate is another, `wham` is missing, an output exists and `force` is False,
            or a file is missing; all before any work.
    """
    from dpcl.mixtures.librimix import check_metadata, read_metadata, render_metadata
    from dpcl.mixtures.lists import write_list
    from dpcl.mixtures.wsj0 import RATES

    if rate not in RATES:
        raise InputError(f"LibriMix is defined at 8000 and 16000 Hz, not at {rate}; change --rate")
    if kind != "clean" and wham is None:
        raise InputError(f"mix_{kind} has noise; give the folder wham_noise with --wham")
    rows = read_metadata(metadata)[:limit]
    check_metadata(rows, librispeech, None if kind == "clean" else wham)
    names = [f"s{k + 1}" for k in range(1 if kind == "single" else len(rows[0].paths))]
    names += [f"mix_{kind}", f"mix_{kind}.csv", *(["noise"] if kind != "clean" else [])]
    with all_or_none(out, names, force) as folder:
        rendered = render_metadata(rows, librispeech, wham, folder, rate, mode, kind, report)
        write_list(rendered, folder / f"mix_{kind}.csv")
