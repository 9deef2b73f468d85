"""`dpcl mix`: draw lists of mixtures from a corpus, and render them as audio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpcl.apps.console import Force, Limit, progress, screen
from dpcl.errors import InputError
from dpcl.io import Report, no_report

if TYPE_CHECKING:
    from dpcl.mixtures.rows import MixtureRow


app = typer.Typer(name="mix", help="Draw mixture lists from a corpus, and render them as audio.")


@app.command()
def draw(
    corpus: Annotated[
        Path,
        typer.Argument(
            help="Index (CSV), folder with an index, folder per speaker, or Lhotse manifest.",
            metavar="CORPUS",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="List to write (CSV).")],
    count: Annotated[int, typer.Option(help="Number of mixtures.", min=1)] = 300,
    sources: Annotated[
        int | None,
        typer.Option(
            "--sources",
            "-n",
            help="Number of sources of each mixture, 1 to 10; 2 if omitted.",
            min=1,
            max=10,
        ),
    ] = None,
    kinds: Annotated[
        Path | None,
        typer.Option(help="Kinds of mixtures (YAML); those with --sources sources are drawn."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the index to use.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Corpus of the index to use; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed; each draws another list.", min=0)] = 0,
    shortest: Annotated[float, typer.Option(help="Shortest mixture in s.")] = 4.0,
    longest: Annotated[float, typer.Option(help="Longest mixture in s.")] = 8.0,
    level: Annotated[float, typer.Option(help="Largest relative level in dB.", min=0)] = 5.0,
    speaker: Annotated[
        list[str] | None, typer.Option(help="Speaker to use; may be repeated.")
    ] = None,
    same_speaker: Annotated[
        bool, typer.Option("--same-speaker", help="Mix each speaker with themselves.")
    ] = False,
    force: Force = False,
) -> None:
    """Draw a list of mixtures: a CSV file that describes each mixture completely.

    Example: **dpcl mix draw corpus/index.csv --split test --out lists/open2.csv**
    """
    from dpcl.io import refuse_existing
    from dpcl.mixtures.corpus import read_corpus
    from dpcl.mixtures.drawing import draw_list
    from dpcl.mixtures.lists import write_list

    refuse_existing(out, force)
    found_kinds = None
    if kinds is not None:
        from dpcl.mixtures.drawing import Kinds
        from dpcl.settings import read_settings

        found_kinds = read_settings(Kinds, kinds)
        if sources is None and 2 not in found_kinds.numbers:
            sources = found_kinds.numbers[0]
    found = read_corpus(corpus, split, only or None)
    if speaker:
        found = found.of_speakers(speaker)
    rows = draw_list(
        found,
        out.stem,
        seed,
        count,
        sources or 2,
        (shortest, longest),
        level,
        same_speaker=same_speaker,
        kinds=found_kinds,
    )
    write_list(rows, out)
    if found.root not in (corpus, corpus.parent):
        screen.print(f"the paths of {out} are relative to {found.root}; give this folder as --root")
    print(out)


@app.command()
def render(
    mixture_list: Annotated[Path, typer.Argument(help="List (CSV).", metavar="LIST")],
    root: Annotated[Path, typer.Option(help="Folder that the paths of the list are relative to.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the outputs: mix/, s1/, s2/, …")
    ],
    rate: Annotated[int, typer.Option(help="Sample rate in Hz.", min=1000, max=192000)] = 8000,
    limit: Limit = None,
    force: Force = False,
) -> None:
    """Render a list as audio: mixtures mix/ID.wav, and sources s1/ID.wav, s2/ID.wav, …

    Example: **dpcl mix render lists/open2.csv --root corpus --out open2**
    """
    from dpcl.mixtures.lists import read_list

    rows = read_list(mixture_list)[:limit]
    with progress("rendering mixtures") as move:
        render_files(rows, root, out, rate, force, move)
    print(out)


@app.command()
def add(
    mixture_list: Annotated[Path, typer.Argument(help="List (CSV).", metavar="LIST")],
    root: Annotated[Path, typer.Option(help="Folder that the paths of the list are relative to.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="List to write (CSV).")],
    noise: Annotated[
        Path | None, typer.Option(help="Folder of noise recordings, below --root.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Use only the noise of this split of the corpus index.")
    ] = None,
    pink: Annotated[bool, typer.Option("--pink", help="Add pink noise.")] = False,
    babble: Annotated[
        Path | None, typer.Option(help="List (CSV) whose talkers are the voices of a babble.")
    ] = None,
    snr: Annotated[
        tuple[float, float],
        typer.Option(
            "--snr",
            "--snr-db",
            help="Range of the level of the loudest talker over the noise in dB.",
        ),
    ] = (-6.0, 3.0),
    rooms: Annotated[
        bool, typer.Option("--rooms", help="Add a simulated room to each mixture.")
    ] = False,
    rt60: Annotated[
        tuple[float, float] | None, typer.Option(help="Range of the RT60 of the rooms in s.")
    ] = None,
    highpass: Annotated[
        float, typer.Option(help="Remove frequencies below this one in Hz.", min=0)
    ] = 0.0,
    band: Annotated[
        str, typer.Option(help="Keep only this band in Hz, such as 300-3400.", show_default=False)
    ] = "",
    codec: Annotated[
        str,
        typer.Option(
            help="ulaw, alaw, gsm, opus, mp3, amr or g722; opus:16 sets kbit/s.",
            show_default=False,
        ),
    ] = "",
    agc: Annotated[
        float, typer.Option(help="Gain control per talker, largest change in dB.", min=0)
    ] = 0.0,
    clip: Annotated[float, typer.Option(help="Clip this percentage of the samples.", min=0)] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed; each draws other noise and rooms.", min=0)] = 0,
    force: Force = False,
) -> None:
    """Add rooms, noise and a channel to the mixtures of a list. Writes a new list.

    Example: **dpcl mix add lists/open2.csv --root corpus --noise corpus/esc10 --out noisy2.csv**
    """
    from dataclasses import replace

    from dpcl.io import refuse_existing
    from dpcl.mixtures.channels import check_codec, parse_channel
    from dpcl.mixtures.lists import read_list, write_list
    from dpcl.mixtures.noise import draw_babble, draw_noise, draw_pink
    from dpcl.mixtures.rooms import draw_rooms

    if (noise is not None) + pink + (babble is not None) > 1:
        raise InputError("--noise, --pink, --babble: a mixture has one noise; give one of them")
    words = {"agc": agc, "highpass": highpass, "band": band, "clip": clip, "codec": codec}
    text = "|".join(f"{name}={value}" for name, value in words.items() if value)
    rooms = rooms or rt60 is not None
    if noise is None and babble is None and not (rooms or pink or text):
        raise InputError(
            "there is nothing to add; give --noise FOLDER, --rooms, or another condition"
        )
    try:
        channel = parse_channel(text)
    except ValueError as error:
        raise InputError(str(error)) from error
    if codec:
        check_codec(codec)
    refuse_existing(out, force)
    rows = [replace(row, list=out.stem) for row in read_list(mixture_list)]
    if rooms:
        rows = draw_rooms(rows, seed) if rt60 is None else draw_rooms(rows, seed, rt60)
    if noise is not None:
        rows = draw_noise(rows, noise, root, seed, snr, split)
    elif pink:
        rows = draw_pink(rows, seed, snr)
    elif babble is not None:
        rows = draw_babble(rows, read_list(babble), seed, snr)
    if text:
        if any(row.mixture for row in rows):
            raise InputError(f"{mixture_list}: it is rendered; a channel comes before rendering")
        rows = [replace(row, channel=channel) for row in rows]
    write_list(rows, out)
    print(out)


def render_files(
    rows: Sequence[MixtureRow],
    root: Path,
    out: Path,
    rate: int,
    force: bool = False,
    report: Report = no_report,
) -> None:
    """Write out/mix/ID.wav, out/s1/ID.wav, … for all rows of a list, or nothing.

    Args:
        rows: rows of the list.
        root: folder that the paths of the rows are relative to.
        out: folder of the outputs.
        rate: sample rate of the outputs, Hz.
        force: replace files of the same names; others are kept.
        report: called after each mixture.

    Raises:
        InputError: An output folder exists and `force` is False, a folder cannot be written, or
            `render_list` refuses a row.
    """
    from dpcl.mixtures.render import render_list

    sources = max(len(row.sources) for row in rows)
    names = ["mix", *(f"s{k + 1}" for k in range(sources))]
    names += ["noise"] if any(row.has_background for row in rows) else []
    with all_or_none(out, names, force) as folder:
        render_list(rows, root, folder, rate, report)


@contextmanager
def all_or_none(out: Path, names: Sequence[str], force: bool) -> Iterator[Path]:
    """Yield a temporary folder whose files are moved to `out` at the end, all or none.

    Args:
        out: folder of the outputs.
        names: files and folders that are written to `out`.
        force: replace files of the same names; others are kept.

    Yields:
        Path of the temporary folder.

    Raises:
        InputError: A name exists and `force` is False, a folder has the name of a file or the
            reverse, or the folder cannot be written.
    """
    from dpcl.io import folder_aside, refuse_existing

    for name in names:
        refuse_existing(out / name, force)
    with folder_aside(out) as temporary:
        yield temporary
        targets = {path: out / path.relative_to(temporary) for path in sorted(temporary.rglob("*"))}
        for path, target in targets.items():
            if target.exists() and target.is_dir() != path.is_dir():
                raise InputError(f"{target} is in the way; remove it, or give another --out")
        for path, target in targets.items():
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                path.replace(target)
