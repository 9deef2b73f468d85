"""LibriMix (Cosentino et al. 2020): mixtures of LibriSpeech by the published metadata.

LibriMix reads every recording at 16 kHz, multiplies it by its gain, and converts its rate. Then
it cuts all to the shortest ("min") or pads them to the longest ("max"). Sums are not scaled.
The noise, of WHAM!, is the first channel from its beginning. If it is too short, it is repeated
with cross-fades of half a second.

`KINDS` of mixtures: "clean" is the sum of the talkers, "both" of the talkers and the noise,
"single" of the first talker and the noise. The noise is not a source.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from dpcl.errors import InputError
from dpcl.io import Progress, Report, no_report
from dpcl.mixtures.noise import prolonged
from dpcl.mixtures.render import Mode, fitted, write_rendered
from dpcl.mixtures.rows import MixtureRow
from dpcl.signal.audio import read_audio, write_audio

KINDS = ("clean", "both", "single")
_RATE = 16000  # Hz, sample rate of LibriSpeech and of the noise
_MOST_GAIN = 1e6  # largest factor of a source

Kind = Literal["clean", "both", "single"]


@dataclass(frozen=True)
class MetadataRow:
    """One row of the metadata."""

    where: str  # file and row, for messages
    name: str
    paths: tuple[str, ...]  # relative to LibriSpeech: test-clean/4077/13754/4077-13754-0001.flac
    gains: tuple[float, ...]  # factors, not dB
    noise: str  # path relative to wham_noise: tt/….wav
    noise_gain: float


def read_metadata(path: str | os.PathLike[str]) -> list[MetadataRow]:
    """Read a metadata file, such as libri2mix_test-clean.csv.

    Raises:
        InputError: the file or a row is wrong; the message names the row.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            header = list(reader.fieldnames or [])
            numbered = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as metadata of LibriMix ({error}); copy it again"
        ) from error
    count = sum(name.startswith("source_") and name.endswith("_gain") for name in header)
    sources = range(1, max(count, 1) + 1)
    columns = [f"source_{k}_{what}" for k in sources for what in ("path", "gain")]
    columns += ["mixture_ID", "noise_path", "noise_gain"]
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(
            f"{path} is no metadata of LibriMix: it has no column {missing[0]}; copy it again"
        )
    rows = []
    names: set[str] = set()
    for number, row in numbered:
        where = f"{path} row {number}"
        try:
            gains = [float(row[f"source_{k}_gain"]) for k in sources] + [float(row["noise_gain"])]
        except ValueError:
            gains = [math.nan]
        name = row["mixture_ID"]
        paths = tuple(row[f"source_{k}_path"] for k in sources)
        if not (np.abs(gains) < _MOST_GAIN).all() or not all(paths) or not name or "/" in name:
            raise InputError(f"{where} lacks a name, path or gain; correct it")
        if name in names:
            raise InputError(f"{where} repeats {name}; remove it")
        names.add(name)
        rows.append(
            MetadataRow(where, name, paths, tuple(gains[:-1]), row["noise_path"], gains[-1])
        )
    if not rows:
        raise InputError(f"{path} lists no mixtures; copy it again")
    return rows


def check_metadata(rows: Sequence[MetadataRow], librispeech: Path, wham: Path | None) -> None:
    """Raise InputError for the first row without its files; noise is checked only with `wham`."""
    for row in rows:
        paths = [librispeech / path for path in row.paths]
        paths += [wham / row.noise] if wham else []
        for path in paths:
            if not path.is_file():
                raise InputError(
                    f"{row.where}: {path} does not exist; give the folder that contains its path"
                )


def mix_metadata(
    row: MetadataRow, librispeech: Path, wham: Path | None, sample_rate: int, mode: Mode, kind: Kind
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
    """Mix one row of the metadata.

    Args:
        row: the row.
        librispeech: folder of LibriSpeech.
        wham: folder of the noise; needed for "both" and "single".
        sample_rate: of the result, in Hz.
        mode: cut to the shortest, or pad to the longest.
        kind: "clean", "both" or "single".

    Returns:
        The mixture (T,), its sources (C, T), and the noise (T,), which is None for "clean".

    Raises:
        InputError: a file cannot be read or is not at 16 kHz.
    """
    signals = [_read(librispeech / path) for path in row.paths]
    gains = list(row.gains)
    if kind != "clean":
        assert wham is not None
        longest = max(map(len, signals))
        signals.append(prolonged(_read(wham / row.noise)[:longest], longest, _RATE))
        gains.append(row.noise_gain)
    up, down = sample_rate // 1000, _RATE // 1000
    converted = [
        resample_poly(signal * gain, up, down) for signal, gain in zip(signals, gains, strict=True)
    ]
    together = fitted(converted, mode)
    talkers = 1 if kind == "single" else len(row.paths)
    sources = together[:talkers]
    noise = None if kind == "clean" else together[-1]
    mixture: NDArray[np.float64] = sources.sum(axis=0)
    if noise is not None:
        mixture += noise
    return mixture, sources, noise


def _read(path: Path) -> NDArray[np.float64]:
    """Read the first channel of a file at 16 kHz."""
    channels, rate = read_audio(path)
    if rate != _RATE:
        raise InputError(f"{path} is at {rate} Hz, where LibriMix needs {_RATE}; use the original")
    first: NDArray[np.float64] = channels[0].astype(np.float64)
    return first


def read_genders(librispeech: Path) -> dict[str, str]:
    """Read genders by speaker from SPEAKERS.TXT, if it exists: `14 | F | train-clean-360 | …`."""
    path = librispeech / "SPEAKERS.TXT"
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    fields = ([field.strip() for field in line.split("|")] for line in lines if "|" in line)
    return {words[0]: words[1].lower() for words in fields if words[1] in ("F", "M")}


def render_metadata(
    rows: Sequence[MetadataRow],
    librispeech: Path,
    wham: Path | None,
    out: Path,
    sample_rate: int,
    mode: Mode,
    kind: Kind,
    report: Report = no_report,
) -> list[MixtureRow]:
    """Render mixtures, sources and noise of the metadata to WAV files.

    Args:
        rows: the metadata.
        librispeech: folder of LibriSpeech.
        wham: folder of the noise; needed for "both" and "single".
        out: output folder: out/mix_KIND/NAME.wav, out/s1/NAME.wav, …, out/noise/NAME.wav.
        sample_rate: of the files, in Hz.
        mode: cut to the shortest, or pad to the longest.
        kind: "clean", "both" or "single".
        report: called after each mixture.

    Returns:
        The rows of a list of the rendered mixtures.
    """
    genders = read_genders(librispeech)
    rendered = []
    for done, row in enumerate(rows, 1):
        mixture, sources, noise = mix_metadata(row, librispeech, wham, sample_rate, mode, kind)
        speakers = [PurePosixPath(path).name.partition("-")[0] for path in row.paths]
        talkers = [(speaker, genders.get(speaker, "")) for speaker in speakers][: len(sources)]
        place = PurePosixPath(f"mix_{kind}", f"{row.name}.wav")
        rendered.append(write_rendered(out, place, mixture, sources, talkers, sample_rate))
        if noise is not None:
            (out / "noise").mkdir(exist_ok=True)
            write_audio(out / "noise" / place.name, noise, sample_rate)
        report(Progress(done, len(rows), "mixtures"))
    return rendered
