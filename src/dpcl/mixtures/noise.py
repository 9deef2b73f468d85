"""Noise in a mixture: drawn for the rows of any list, and added as WHAM! adds it."""

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

_STREAM = 1  # of the seed: other draws of the same seed stay as they are


def draw_noise(
    rows: Sequence[MixtureRow],
    folder: str | os.PathLike[str],
    root: str | os.PathLike[str],
    seed: int,
    snr_db: tuple[float, float] = (-6.0, 3.0),
) -> list[MixtureRow]:
    """The rows with a noise each, the same ones for the same recordings and seed.

    The recordings below `folder`, which lies below the corpus `root`, are used equally often.
    Where they begin is uniform, to 1 ms, and so is the ratio in dB, to 0.01 (WHAM!: -6 to 3).
    Raises InputError for a folder without recordings or elsewhere, and for rendered rows.
    """
    folder, root = Path(folder), Path(root)
    if not -np.inf < snr_db[0] <= snr_db[1] < np.inf:
        raise InputError(
            f"Noise cannot lie {snr_db[0]} to {snr_db[1]} dB under speech: give the lower first."
        )
    relative = Path(os.path.relpath(folder, root))  # of a link too, which it may be
    if ".." in relative.parts:
        raise InputError(
            f"{folder} lies outside of {root}: link or copy the noise into the corpus."
        )
    files = [path for path in sorted(folder.rglob("*")) if is_audio(path)]
    if not files:
        raise InputError(f"{folder} holds no recordings: give a folder of noise.")
    seconds = [measure_seconds(path, str(folder)) for path in files]
    rng = np.random.default_rng(np.random.SeedSequence((seed, _STREAM)))
    order: list[int] = []
    noisy = []
    for row in rows:
        if row.mixture:
            raise InputError(f"{row.where} is rendered: noise comes before.")
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
    """Sources (C, T) and, as the last row, the noise (T_n,) at `snr_db`: (C + 1, T), one scale.

    The ratio is, as in WHAM! (Wichern et al. 2019), that of the loudest talker to the noise; his
    level is the active one, as pauses are no speech, the noise's that of its power. Noise shorter
    than the mixture goes on from its beginning (see prolonged); the mixture is the sum of all rows,
    and neither it nor one of them exceeds the peak (see scale_to_peak). Noise is not a source: what
    is separated is scored against the talkers alone.
    Raises ValueError for noise that is silent or empty.
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
