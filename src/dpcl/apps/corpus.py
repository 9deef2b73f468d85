"""`dpcl corpus`: write the index of a corpus, for training and for drawing mixture lists."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dpcl.apps.console import Force, progress, screen, show_omitted


class Layout(str, Enum):
    """Names of dpcl.mixtures.layouts.LAYOUTS."""

    librispeech = "librispeech"
    librimix = "librimix"
    wsj0 = "wsj0"
    vctk = "vctk"
    common_voice = "common-voice"
    voxceleb = "voxceleb"
    musan = "musan"
    esc50 = "esc50"
    fsd50k = "fsd50k"
    dns_noise = "dns-noise"
    folder_per_speaker = "folder-per-speaker"
    lhotse = "lhotse"


class SplitBy(str, Enum):
    """Origin of the splits."""

    published = "published"
    name = "name"


def corpus(
    layout: Annotated[Layout, typer.Argument(help="Layout of the folder.", metavar="LAYOUT")],
    folder: Annotated[
        Path, typer.Argument(help="Folder of the unpacked corpus.", metavar="FOLDER")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Index to write (CSV).")],
    split_by: Annotated[
        SplitBy,
        typer.Option(
            help="`published` uses the published splits of the corpus, if any; `name` splits by a"
            " hash of the name of the talker or class."
        ),
    ] = SplitBy.published,
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write an index of a corpus: split, talker, gender, file, length and text per recording.

    No talker is in two splits. Corpora without published splits are split by the SHA-256 of the
    talker's name: 80 % train, 10 % valid, 10 % test. Sound classes of esc50 and fsd50k recur in
    their published splits; `--split-by name` separates them.

    Example: **dpcl corpus librispeech LibriSpeech --out librispeech.csv**
    """
    from dpcl.errors import InputError
    from dpcl.io import refuse_existing
    from dpcl.mixtures.index import Tree, summarise, write_index
    from dpcl.mixtures.layouts import read_layout

    refuse_existing(out, force)
    if out.is_dir():
        raise InputError(
            f"{out}: is a folder, not a file; give a file name ending in .csv as --out"
        )
    tree = Tree(folder.resolve())
    with progress("measuring recordings") as move:
        entries = read_layout(layout.value, tree, split_by is SplitBy.name, move)
    write_index(entries, out)

    splits = summarise(entries)
    for name, size in splits.items():
        screen.print(
            f"{name:6}{size.speakers:7d} talkers{size.recordings:9d} recordings{size.hours:10.2f} h"
        )
    show_omitted(tree.omitted.files)
    if not as_json:
        print(out)
        return
    omitted = [
        {"reason": reason, "count": len(files), "files": files}
        for reason, files in tree.omitted.files.items()
    ]
    document = {
        "index": str(out),
        "layout": layout.value,
        "splits": {name: asdict(size) for name, size in splits.items()},
        "omitted": omitted,
    }
    print(json.dumps(document, indent=2, ensure_ascii=False))
