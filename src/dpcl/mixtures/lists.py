"""Mixture lists: CSV files that fix every mixture of a test set, including gains."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.io import Progress, Report, atomic, no_report
from dpcl.mixtures.channels import (
    Channel,
    band_limited,
    check_codec,
    clipped,
    coded,
    gain_controlled,
)
from dpcl.mixtures.mixing import mix_sources, scale_to_peak
from dpcl.mixtures.noise import add_noise, noise_paths, read_noise
from dpcl.mixtures.parts import parse_part, read_part
from dpcl.mixtures.rendered import read_rendered, rendered_rows
from dpcl.mixtures.rooms import images, reverberant
from dpcl.mixtures.rows import (
    COLUMNS,
    KIND_COLUMNS,
    SOURCE_COLUMNS,
    Fields,
    numbered_columns,
    optional_columns,
    optional_fields,
    parse_row,
)
from dpcl.mixtures.rows import MixtureRow as MixtureRow
from dpcl.mixtures.rows import SourceRow as SourceRow
from dpcl.signal.audio import write_audio


def write_list(rows: Sequence[MixtureRow], path: str | os.PathLike[str]) -> None:
    """Write the rows as a CSV file, atomically, replacing an existing file; make its folder.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    num_sources = max((len(row.sources) for row in rows), default=0)
    by_kind = any(source.pause or source.group for row in rows for source in row.sources)
    columns = (*SOURCE_COLUMNS, *(KIND_COLUMNS if by_kind else ()))
    header = [*COLUMNS, *numbered_columns(columns, num_sources)]
    optional = [optional_fields(row) for row in rows]
    additions = [
        name for name in optional_columns(num_sources) if any(name in fields for fields in optional)
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header + additions)
            for row, optional_row in zip(rows, optional, strict=True):
                fields: list[object] = [getattr(row, name) for name in COLUMNS]
                for source in row.sources:
                    values = {**vars(source), "paths": "|".join(source.paths)}
                    fields += [values[name] for name in columns]
                fields += [""] * (len(header) - len(fields))
                fields += [optional_row.get(name, "") for name in additions]
                writer.writerow(fields)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); give another path"
        ) from error


def read_list(path: str | os.PathLike[str]) -> list[MixtureRow]:
    """Read and check a list, or a folder of rendered mixtures (see `rendered_rows`).

    Raises:
        InputError: a row or a column is wrong or unknown; the message names it.
    """
    path = Path(path)
    if path.is_dir():
        return rendered_rows(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            header = list(reader.fieldnames or [])
            numbered = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as a mixture list ({error}); give another list"
        ) from error
    for separator, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and header[0].count(separator) > 1:
            raise InputError(f"{path}: its fields are separated by {word}; separate them by commas")
    num_sources = sum(name.startswith("speaker_") for name in header)
    expected = [*COLUMNS, *numbered_columns(SOURCE_COLUMNS, max(num_sources, 1))]
    missing = [name for name in expected if name not in header]
    if missing:
        raise InputError(
            f"{path} is no mixture list: it has no column {', '.join(missing)}; give another list"
        )
    by_kind = numbered_columns(KIND_COLUMNS, num_sources)
    known = {*expected, *by_kind, *optional_columns(num_sources)}
    unknown = [name for name in header if name and name not in known]
    if unknown:
        raise InputError(f"{path} has an unknown column {unknown[0]}; correct or remove it")
    if not numbered:
        raise InputError(f"{path} lists no mixtures; draw them with `dpcl mix`")

    rows: list[MixtureRow] = []
    seen: set[str] = set()
    for number, fields in numbered:
        if "" in fields:
            raise InputError(f"{path} row {number} has more fields than the header; correct it")
        row = parse_row(Fields(f"{path} row {number}", fields), num_sources)
        if row.id in seen:
            raise InputError(f"{path} row {number}, column id: {row.id} occurs twice; rename one")
        seen.add(row.id)
        rows.append(row)
    return rows


def check_files(rows: Sequence[MixtureRow], root: str | os.PathLike[str]) -> None:
    """Raise InputError for the first row with a file that is missing below `root`.

    Also for a codec that is not installed.
    """
    for row in rows:
        if row.channel and row.channel.codec:
            check_codec(row.channel.codec)
        for path in row_files(row, root):
            if not path.is_file():
                raise InputError(
                    f"{row.where}: {path} does not exist; correct the row or copy the file"
                )


def row_files(row: MixtureRow, root: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a mixture, below `root`."""
    names = [path for source in row.sources for path in source.paths]
    names += [row.mixture] if row.mixture else []
    names += noise_paths(row.noise) if row.noise else []
    return [parse_part(name, root).path for name in names]


def render_mixture(
    row: MixtureRow, root: str | os.PathLike[str], sample_rate: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Render a mixture and its sources from a corpus.

    Each source is read at the sample rate, joined with its pauses, and cut. Then it is reverberated
    if the row has a room (see `reverberant`), and brought to its active level and gain. All sources
    get one scale (see `mix_sources`). They sum to the mixture, except for noise (see
    `add_noise`). A channel's band applies to sources and noise, its clipping and codec to the
    mixture alone. Rendered mixtures are read as they are (see `read_rendered`). A room with several
    microphones gives every signal a dimension for them; the levels are those at the first.

    Args:
        row: the mixture.
        root: folder of the corpus.
        sample_rate: in Hz.

    Returns:
        The mixture (T,) and its sources (C, T); for M microphones (M, T) and (C, M, T).

    Raises:
        InputError: a file is missing, cannot be read or ends too early; the message names the row
            and the file.
    """
    if row.mixture:
        return read_rendered(row, root, sample_rate)
    samples = round(row.seconds * sample_rate)
    signals = []
    for source in row.sources:
        try:
            pieces = [read_part(parse_part(path, root), sample_rate) for path in source.paths]
        except InputError as error:
            raise InputError(f"{row.where}: {error}") from error
        if source.pause:
            silence = np.zeros(round(source.pause * sample_rate), np.float32)
            pieces = [part for piece in pieces for part in (piece, silence)]
        start = round(source.start * sample_rate)
        signal = np.concatenate(pieces)[start : start + samples]
        missing = samples - len(signal)
        if missing > len(pieces) + 1:  # rounding is half a sample for each length
            raise InputError(
                f"{row.where}: {'|'.join(source.paths)} ends"
                f" {missing / sample_rate:.3f} s too early; give the corpus of the list"
            )
        signals.append(np.pad(signal, (0, missing)))
    channel = row.channel or Channel()
    if channel.agc:
        signals = [gain_controlled(signal, sample_rate, channel.agc) for signal in signals]
    if row.room and row.room.array:
        return _at_array(row, images(signals, row.room, sample_rate), sample_rate)
    if row.room:
        signals = reverberant(signals, row.room, sample_rate)
    sources = mix_sources(signals, [source.gain_db for source in row.sources], sample_rate)
    if row.noise is None:
        return _through_channel(row, sources, channel, sample_rate)
    try:
        noise = read_noise(row.noise, samples, root, sample_rate)
        together = add_noise(sources, noise, row.noise.snr_db, sample_rate)
    except (InputError, ValueError) as error:
        raise InputError(f"{row.where}: {row.noise.path}: {error}; give another noise") from error
    return _through_channel(row, together, channel, sample_rate)


def _at_array(
    row: MixtureRow, at_microphones: NDArray[np.float32], sample_rate: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mixture (M, T) and the sources (C, M, T) of images (M, C, T)."""
    first = at_microphones[0]
    mixed = mix_sources(list(first), [source.gain_db for source in row.sources], sample_rate)
    gains = (mixed * first).sum(1) / np.maximum(np.square(first).sum(1), 1e-30)
    sources = at_microphones.swapaxes(0, 1) * gains[:, None, None]
    return sources.sum(0), sources


def _through_channel(
    row: MixtureRow, parts: NDArray[np.float32], channel: Channel, sample_rate: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mixture (T,) of sources and background (C or C + 1, T), and the sources (C, T)."""
    if channel.highpass or channel.lowpass:
        parts = band_limited(parts, sample_rate, channel.highpass, channel.lowpass)
        parts = scale_to_peak(parts)
    mixture = parts.sum(axis=0)
    if channel.clip:
        mixture = clipped(mixture, channel.clip)
    if channel.codec:
        try:
            mixture = coded(mixture, sample_rate, channel.codec)
        except InputError as error:
            raise InputError(f"{row.where}: {error}") from error
    return mixture, parts[: len(row.sources)]


def render_list(
    rows: Sequence[MixtureRow],
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    sample_rate: int,
    report: Report = no_report,
) -> None:
    """Write mixtures and sources as 16-bit WAV files, replacing older ones.

    The files are out/mix/ID.wav, out/s1/ID.wav, out/s2/ID.wav, …, and out/noise/ID.wav for noise
    and for the difference that clipping and codecs make.
    Sources and noise are rounded to 16 bits before they are summed, so the files sum exactly.

    Args:
        rows: the list.
        root: folder of the corpus.
        out: output folder.
        sample_rate: in Hz.
        report: called after each mixture.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    out = Path(out)
    check_files(rows, root)
    for done, row in enumerate(rows, 1):
        mixture, sources = render_mixture(row, root, sample_rate)
        named = [(f"s{k}", source) for k, source in enumerate(sources, 1)]
        if row.has_background:
            named.append(("noise", mixture - sources.sum(axis=0)))
        named = [(folder, np.rint(samples * 32768.0) / 32768.0) for folder, samples in named]
        named.append(("mix", mixture if row.mixture else sum(samples for _, samples in named)))
        for folder, samples in named:
            (out / folder).mkdir(parents=True, exist_ok=True)
            write_audio(out / folder / f"{row.id}.wav", samples, sample_rate)
        report(Progress(done, len(rows), "mixtures"))
