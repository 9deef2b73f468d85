"""Noise in mixtures: drawn for the rows of any list, and added as in WHAM!."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.mixtures.backgrounds import coloured_noise
from dpcl.mixtures.corpus import is_audio, measure_seconds, read_corpus
from dpcl.mixtures.mixing import prolonged, scale_to_peak
from dpcl.mixtures.rows import BABBLE, PINK, MixtureRow, NoiseRow
from dpcl.signal.audio import parse_part, read_part, resample
from dpcl.signal.level import active_level_db, normalise_to_level

_PINK_RATE = 16000  # Hz, rate at which pink noise is drawn
_PINK_STEP = 100_000  # seeds of pink noise between two seeds of a list
_STREAM = 1  # number of the random stream: other draws of the same seed do not change


def draw_noise(
    rows: Sequence[MixtureRow],
    folder: str | os.PathLike[str],
    root: str | os.PathLike[str],
    seed: int,
    snr_db: tuple[float, float] = (-6.0, 3.0),
    split: str | None = None,
) -> list[MixtureRow]:
    """Draw a noise for each row, the same ones for the same recordings and seed.

    The recordings are used equally often. Their beginnings are uniform, to 1 ms.

    Args:
        rows: the list.
        folder: folder of the noise, below `root`.
        root: folder of the corpus.
        seed: seed of the random numbers.
        snr_db: range of the ratio of speech to noise in dB, drawn uniformly, to 0.01 dB; the
            default is WHAM!'s.
        split: use only recordings of this split of the corpus index.

    Returns:
        The rows with noise.

    Raises:
        InputError: the folder has no recordings, lies elsewhere or holds a talker of the rows, or a
            row is rendered.
    """
    folder, root = Path(folder), Path(root)
    if not -np.inf < snr_db[0] <= snr_db[1] < np.inf:
        raise InputError(
            f"noise cannot lie {snr_db[0]} to {snr_db[1]} dB under speech; give the lower first"
        )
    relative = Path(os.path.relpath(folder, root))  # keeps links, unlike Path.resolve
    if ".." in relative.parts:
        raise InputError(f"{folder} lies outside of {root}; link or copy the noise into the corpus")
    files = [path for path in sorted(folder.rglob("*")) if is_audio(path)]
    if split is not None:
        of_split = {u.path for u in read_corpus(root, split).utterances}
        files = [path for path in files if path in of_split]
    if not files:
        of = "" if split is None else f" of split {split}"
        raise InputError(f"{folder} holds no recordings{of}; give a folder of noise")
    own = _talkers(rows)
    recordings = {path for row in rows for source in row.sources for path in source.paths}
    for file in files:
        inside = relative / file.relative_to(folder)
        if inside.parts[:2] in own or inside.as_posix() in recordings:
            raise InputError(
                f"--noise {folder}: {inside} is of a talker of the mixtures; give a folder of other"
                " sounds"
            )
    seconds = [measure_seconds(path, str(folder)) for path in files]
    rng = np.random.default_rng(np.random.SeedSequence((seed, _STREAM)))
    order: list[int] = []
    noisy = []
    for row in rows:
        if row.mixture:
            raise InputError(f"{row.where} is rendered already; add noise before rendering")
        order = order or rng.permutation(len(files)).tolist()
        chosen = order.pop()
        latest = max(seconds[chosen] - row.seconds, 0.0)
        path = (relative / files[chosen].relative_to(folder)).as_posix()
        start = int(rng.uniform(0.0, latest) * 1000) / 1000
        noise = NoiseRow(path, start, round(float(rng.uniform(*snr_db)), 2))
        noisy.append(replace(row, noise=noise))
    return noisy


def draw_pink(
    rows: Sequence[MixtureRow], seed: int, snr_db: tuple[float, float]
) -> list[MixtureRow]:
    """Add pink noise of its own to each row, the same for the same seed and place in the list.

    Raises InputError for rendered rows and an empty range.
    """
    ratios = _ratios(rows, seed, snr_db)
    return [
        replace(row, noise=NoiseRow(f"{PINK}{seed * _PINK_STEP + number}", 0.0, ratio))
        for number, (row, ratio) in enumerate(zip(rows, ratios, strict=True))
    ]


def draw_babble(
    rows: Sequence[MixtureRow],
    voices: Sequence[MixtureRow],
    seed: int,
    snr_db: tuple[float, float],
    talkers: int = 8,
) -> list[MixtureRow]:
    """Add babble to each row: that number of talkers at once, taken in turn from other mixtures.

    Raises InputError for rendered rows, an empty range, and voices that are talkers of `rows`.
    """
    sources = [source for row in voices for source in row.sources]
    if both := sorted(_talkers(rows) & _talkers(voices)):
        raise InputError(
            f"--babble: {both[0][1]} of {both[0][0]} is also a talker of the mixtures; give a list"
            " of other talkers"
        )
    ratios = _ratios(rows, seed, snr_db)
    turn = cycle(sources)
    noisy = []
    for row, ratio in zip(rows, ratios, strict=True):
        paths = "|".join(next(turn).paths[0] for _ in range(talkers))
        noisy.append(replace(row, noise=NoiseRow(f"{BABBLE}{paths}", 0.0, ratio)))
    return noisy


def _talkers(rows: Sequence[MixtureRow]) -> set[tuple[str, ...]]:
    """The talkers of the rows, by the first folder of their recordings and their name."""
    return {(PurePosixPath(s.paths[0]).parts[0], s.speaker) for row in rows for s in row.sources}


def _ratios(rows: Sequence[MixtureRow], seed: int, snr_db: tuple[float, float]) -> list[float]:
    """Signal-to-noise ratios of the rows, uniform, to 0.01 dB."""
    if rendered := [row for row in rows if row.mixture]:
        raise InputError(f"{rendered[0].where} is rendered: noise comes before.")
    if not -np.inf < snr_db[0] <= snr_db[1] < np.inf:
        raise InputError(
            f"Noise cannot lie {snr_db[0]} to {snr_db[1]} dB under speech: give the lower first."
        )
    rng = np.random.default_rng(np.random.SeedSequence((seed, _STREAM)))
    return [round(float(rng.uniform(*snr_db)), 2) for _ in rows]


def noise_paths(noise: NoiseRow) -> list[str]:
    """The recordings that a noise is made of."""
    if noise.path.startswith(PINK):
        return []
    return noise.path.removeprefix(BABBLE).split("|")


def read_noise(
    noise: NoiseRow, samples: int, root: str | os.PathLike[str], sample_rate: int
) -> NDArray[np.float32]:
    """Return the noise of a row from its start: (T,), `samples` long if it is computed.

    The voices of a babble have the same active level, and are repeated where they are too short.
    """
    if noise.path.startswith(PINK):
        rng = np.random.default_rng(int(noise.path.removeprefix(PINK)))
        # Drawn at one rate, so that a list means the same noise at all rates.
        length = math.ceil(samples * _PINK_RATE / sample_rate)
        return resample(coloured_noise(rng, length, _PINK_RATE, 1.0), _PINK_RATE, sample_rate)
    pieces = [read_part(parse_part(path, root), sample_rate) for path in noise_paths(noise)]
    if noise.path.startswith(BABBLE):
        voices = [normalise_to_level(piece, sample_rate) for piece in pieces]
        together = np.sum([prolonged(voice, samples, sample_rate) for voice in voices], axis=0)
        return np.asarray(together, np.float32)
    return pieces[0][round(noise.start * sample_rate) :]


def add_noise(
    sources: NDArray[np.float32], noise: NDArray[np.float32], snr_db: float, sample_rate: int
) -> NDArray[np.float32]:
    """Add noise to sources, and scale all.

    The ratio is the level of the loudest talker to the level of the noise, as in WHAM! (Wichern et
    al. 2019). The talker's level is the active level, since pauses are no speech; the noise's level
    is its power. Noise shorter than the mixture is repeated (see `prolonged`). The mixture is the
    sum of all rows; neither it nor a row exceeds the peak (see `scale_to_peak`). Noise is not a
    source: scores compare with the talkers alone.

    Args:
        sources: (C, T).
        noise: (T_n,).
        snr_db: ratio in dB.
        sample_rate: in Hz.

    Returns:
        (C + 1, T), the noise in the last row.

    Raises:
        ValueError: the noise is silent or empty.
    """
    total = sources.shape[1]
    if not len(noise):
        raise ValueError("the noise ends before it begins")
    noise = prolonged(noise[:total], total, sample_rate)
    power = float(np.mean(np.square(noise, dtype=np.float64)))
    if power == 0.0:
        raise ValueError("the noise is silent")
    loudest = max(active_level_db(source, sample_rate) for source in sources)
    gain = 10.0 ** ((loudest - snr_db) / 20.0) / np.sqrt(power)
    return scale_to_peak(np.concatenate([sources, (noise * np.float32(gain))[None]]))
