"""Noise in mixtures: drawn for the rows of any list, and added as in WHAM!."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.mixtures.corpus import is_audio, measure_seconds
from dpcl.mixtures.mixing import prolonged, scale_to_peak
from dpcl.mixtures.rows import MixtureRow, NoiseRow
from dpcl.signal.level import active_level_db

_STREAM = 1  # number of the random stream: other draws of the same seed do not change


def draw_noise(
    rows: Sequence[MixtureRow],
    folder: str | os.PathLike[str],
    root: str | os.PathLike[str],
    seed: int,
    snr_db: tuple[float, float] = (-6.0, 3.0),
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

    Returns:
        The rows with noise.

    Raises:
        InputError: the folder has no recordings or lies elsewhere, or a row is rendered.
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
    if not files:
        raise InputError(f"{folder} holds no recordings; give a folder of noise")
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
