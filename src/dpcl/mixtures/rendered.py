"""Rendered mixtures: audio in folders mix/, s1/, s2/, …, as in wsj0-mix and similar corpora."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.mixtures.corpus import is_audio, measure_seconds
from dpcl.mixtures.rows import MixtureRow, SourceRow, gender_condition
from dpcl.signal.audio import read_audio, resample, write_audio


def rendered_rows(path: str | os.PathLike[str]) -> list[MixtureRow]:
    """Return the mixtures of a folder, sorted by name; the speakers are unknown.

    `path` holds mix/, s1/, s2/, … with files of the same names. Or it is one of several folders of
    mixtures (mix_clean, mix_both, mix_single; mix_both_reverb). Then s1, s2, … lie in the same
    folder as `path`, or s1_reverb, … as in WHAMR!. A mix_single uses s1 alone. Paths in the rows
    are relative to the folder of the sources, the root of such a list (see `rendered_root`).

    Raises:
        InputError: the folder has another structure, or a file is missing; the message names the
            first one.
    """
    path = Path(path)
    root, mixtures = _places(path)
    folders = _source_folders(root, mixtures.name) if mixtures.is_dir() else []
    if not folders:
        kinds = ", ".join(sorted(kind.name for kind in path.glob("mix_*") if kind.is_dir()))
        raise InputError(
            f"{path} is no folder of rendered mixtures: it has no mix/ with s1/, s2/, … beside it;"
            f" give {f'one of its {kinds}' if kinds else 'another folder'}"
        )
    rows = []
    for file in sorted(mixtures.iterdir()):
        if not is_audio(file):
            continue
        paths = [f"{folder}/{file.name}" for folder in folders]
        for name in paths:
            if not (root / name).is_file():
                raise InputError(f"{file} has no source {root / name}; copy it, or remove both")
        sources = tuple(
            SourceRow(folder, (name,), 0.0, 0.0)
            for folder, name in zip(folders, paths, strict=True)
        )
        rows.append(
            MixtureRow(
                id=file.stem,
                list=root.name or "rendered",
                seed=0,
                seconds=measure_seconds(file, str(path)),
                corpora="within",
                genders="unknown",
                sources=sources,
                mixture=f"{mixtures.name}/{file.name}",
            )
        )
    if not rows:
        raise InputError(f"{mixtures} holds no audio; give a folder of rendered mixtures")
    return rows


def rendered_root(path: str | os.PathLike[str], rows: Sequence[MixtureRow]) -> Path | None:
    """Return the folder that the paths of rendered rows are relative to; None for rows of a corpus.

    Args:
        path: the folder that `rendered_rows` read, or a list in the folder of the rendered files.
        rows: the rows.
    """
    path = Path(path)
    if path.is_dir():
        return _places(path)[0]
    return path.parent if all(row.mixture for row in rows) else None


def _places(path: Path) -> tuple[Path, Path]:
    """Return the root of a folder of rendered mixtures, and the folder of the mixtures."""
    if path.name in ("", ".."):  # a path without a name has no parent
        path = path.resolve()
    if path.name.startswith("mix") and not (path / "mix").is_dir():
        return path.parent, path
    return path, path / "mix"


def _source_folders(root: Path, mixtures: str) -> list[str]:
    """Return s1, s2, … beside the folder of mixtures, or those with its variant's suffix."""
    variant = "_" + mixtures.rpartition("_")[2]
    for suffix in ("", variant):
        folders = []
        for k in count(1):
            if not (root / f"s{k}{suffix}").is_dir():
                break
            folders.append(f"s{k}{suffix}")
        if folders:
            return folders[:1] if mixtures.startswith("mix_single") else folders
    return []


def read_rendered(
    row: MixtureRow, root: str | os.PathLike[str], sample_rate: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read a rendered mixture and its sources, converted to `sample_rate` Hz.

    The sources need not sum to the mixture: there may be noise.

    Returns:
        The mixture (T,) and its sources (C, T).

    Raises:
        InputError: a file cannot be read, has several channels, or has another rate or length than
            the mixture; the message names the row and the file.
    """
    paths = [Path(root) / name for name in (row.mixture, *(s.paths[0] for s in row.sources))]
    signals: list[NDArray[np.float32]] = []
    first = (0, 0)  # rate and length of the mixture
    for path in paths:
        try:
            channels, rate = read_audio(path)
        except InputError as error:
            raise InputError(f"{row.where}: {error}") from error
        if len(channels) > 1:
            raise InputError(f"{row.where}: {path} has {len(channels)} channels; render it to one")
        found = (rate, channels.shape[1])
        first = found if not signals else first
        if found != first:
            raise InputError(
                f"{row.where}: {path} has {found[1]} samples at {found[0]} Hz, its mixture"
                f" {first[1]} at {first[0]} Hz; render both alike"
            )
        signals.append(resample(channels[0], rate, sample_rate))
    return signals[0], np.stack(signals[1:])


def write_rendered(
    out: Path,
    place: PurePosixPath,
    mixture: NDArray[np.floating],
    sources: NDArray[np.floating],
    talkers: Sequence[tuple[str, str]],
    sample_rate: int,
) -> MixtureRow:
    """Write a mixture and its sources as WAV files, each rounded to 16 bits by itself.

    Args:
        out: output folder, the root of the list.
        place: file of the mixture below `out`: …/mix/NAME.wav. Sources go to …/s1/NAME.wav, ….
        mixture: (T,).
        sources: (C, T).
        talkers: speaker and gender ("f", "m" or "") of each source.
        sample_rate: in Hz.

    Returns:
        The row of the mixture in a list.
    """
    folder = place.parent.parent
    paths = [folder / f"s{k}" / place.name for k in range(1, len(sources) + 1)]
    for path, signal in zip((place, *paths), (mixture, *sources), strict=True):
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        write_audio(out / path, signal, sample_rate)
    return MixtureRow(
        id=place.stem,
        list=folder.name or place.parent.name,
        seed=0,
        seconds=round(len(mixture) / sample_rate, 4),
        corpora="within",
        genders=gender_condition(gender for _, gender in talkers),
        sources=tuple(
            SourceRow(speaker, (str(path),), 0.0, 0.0)
            for (speaker, _), path in zip(talkers, paths, strict=True)
        ),
        mixture=str(place),
    )
