"""Render mixtures: sources at their levels, rooms, noise and channels; and rendered files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.io import Progress, Report, no_report
from dpcl.mixtures.channels import (
    Channel,
    band_limited,
    check_codec,
    clipped,
    coded,
    gain_controlled,
)
from dpcl.mixtures.noise import Float, add_noise, noise_paths, read_noise
from dpcl.mixtures.rooms import images, reverberant
from dpcl.mixtures.rows import MixtureRow, SourceRow, gender_condition
from dpcl.signal.audio import parse_part, read_audio, read_part, resample, write_audio
from dpcl.signal.level import normalise_to_level, scale_to_peak

Mode = Literal["min", "max"]  # length of the shortest source, or of the longest


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
    if row.channel and row.channel.agc:
        signals = [gain_controlled(signal, sample_rate, row.channel.agc) for signal in signals]
    if row.room and row.room.array:
        return _at_array(row, images(signals, row.room, sample_rate), sample_rate)
    if row.room:
        signals = reverberant(signals, row.room, sample_rate)
    parts = mix_sources(signals, [source.gain_db for source in row.sources], sample_rate)
    if row.noise:
        try:
            noise = read_noise(row.noise, samples, root, sample_rate)
            parts = add_noise(parts, noise, row.noise.snr_db, sample_rate)
        except (InputError, ValueError) as error:
            raise InputError(
                f"{row.where}: {row.noise.path}: {error}; give another noise"
            ) from error
    if row.channel:
        return _through_channel(row, parts, row.channel, sample_rate)
    return parts.sum(axis=0), parts[: len(row.sources)]


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


def mix_sources(
    signals: Sequence[NDArray[np.float32]], gains_db: Sequence[float], sample_rate: int
) -> NDArray[np.float32]:
    """Scale the signals of talkers to the sources of a mixture, which is their sum.

    Each signal is brought to active level 0 dB and gets its gain. One common scale follows (see
    `scale_to_peak`).

    Args:
        signals: one (T_k,) for each talker.
        gains_db: gain of each talker in dB.
        sample_rate: in Hz.

    Returns:
        (C, T), padded with zeros to the longest signal.
    """
    levelled = [
        normalise_to_level(signal, sample_rate, gain_db)
        for signal, gain_db in zip(signals, gains_db, strict=True)
    ]
    return scale_to_peak(fitted(levelled, "max"))


def fitted(signals: Sequence[NDArray[Float]], length: Mode) -> NDArray[Float]:
    """Stack signals (T_k,) to (C, T): cut to the shortest, or padded to the longest."""
    lengths = [len(signal) for signal in signals]
    total = min(lengths) if length == "min" else max(lengths)
    rows = np.zeros((len(signals), total), dtype=signals[0].dtype)
    for row, signal in zip(rows, signals, strict=True):
        row[: len(signal)] = signal[:total]
    return rows


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
