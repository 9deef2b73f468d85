"""Noise: backgrounds of training mixtures, and noise of lists, added as in WHAM!."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.fft import irfft, next_fast_len

from dpcl.errors import InputError
from dpcl.mixtures.corpus import Corpus, is_audio, measure_seconds, read_corpus
from dpcl.mixtures.rooms import Range
from dpcl.mixtures.rows import BABBLE, PINK, MixtureRow, NoiseRow
from dpcl.settings import Settings, check_range, check_shares
from dpcl.signal.audio import parse_part, read_part, resample
from dpcl.signal.level import active_level_db, normalise_to_level, scale_to_peak

KINDS = ("sound", "sounds", "babble", "noise", "hum")  # kinds of backgrounds

_FLATTEST = 30.0  # Hz, frequency below which coloured noise rises no further
_MARGIN = 0.5  # s of noise drawn beyond the length, so that nothing repeats within it
_HUM_STEP = 0.7  # s between two random gains of noise that swells
_PINK_RATE = 16000  # Hz, rate at which pink noise is drawn
_PINK_STEP = 100_000  # seeds of pink noise between two seeds of a list
_STREAM = 1  # number of the random stream: other draws of the same seed do not change
Float = TypeVar("Float", np.float32, np.float64)


class BackgroundSettings(Settings):
    """Backgrounds beside the talkers, and their levels below them."""

    probability: float = Field(default=0.55, ge=0, le=1)  # of a mixture
    snr_db: Range = (-5.0, 25.0)  # power of all talkers together over the power of the background
    # shares of one sound, two sounds, babble, coloured noise and mains hum; together 1
    shares: dict[str, float] = Field(
        default={"sound": 0.5, "sounds": 0.12, "babble": 0.14, "noise": 0.19, "hum": 0.05}
    )
    hiss: float = Field(default=0.3, ge=0, le=1)  # probability of white noise beside it
    # corpora of the index that hold the sounds, and their split
    only: tuple[str, ...] = ("esc10", "blanket", "berklee", "wesnoth")
    split: str = "train"

    @model_validator(mode="after")
    def _shares_add_up(self) -> BackgroundSettings:
        check_range("snr_db", self.snr_db)
        check_shares("shares", self.shares, KINDS)
        return self

    @property
    def needs_sounds(self) -> bool:
        """True if some backgrounds are recordings of a corpus."""
        return self.probability > 0 and any(self.shares.get(k) for k in ("sound", "sounds"))


def read_sounds(path: str, settings: BackgroundSettings) -> Corpus:
    """Read the sounds of backgrounds from a corpus.

    Args:
        path: the corpus.
        settings: split, and names of the corpora of sounds.

    Raises:
        InputError: The corpus is missing, or lacks the split or all of `only`.
    """
    whole = read_corpus(path, settings.split)
    there = {u.corpus for u in whole.utterances}
    chosen = there & set(settings.only)
    if not chosen:
        raise InputError(
            f"{path}: split {settings.split} has no sounds of background.only"
            f" ({', '.join(settings.only)}); name corpora that it has"
        )
    return Corpus(whole.root, tuple(u for u in whole.utterances if u.corpus in chosen))


def coloured_noise(
    rng: np.random.Generator, samples: int, sample_rate: int, slope: float
) -> NDArray[np.float32]:
    """Draw Gaussian noise (samples,) whose power falls with frequency to the power of `slope`."""
    length = next_fast_len(samples + round(_MARGIN * sample_rate), real=True)
    frequencies = np.linspace(0.0, sample_rate / 2.0, length // 2 + 1, dtype=np.float32)
    shape = np.maximum(frequencies, np.float32(_FLATTEST)) ** np.float32(-slope / 2.0)
    spectrum = rng.standard_normal((len(frequencies), 2), np.float32).view(np.complex64)[:, 0]
    noise = np.asarray(irfft(spectrum * shape, length), np.float32)
    return np.asarray(noise[:samples] / noise.std(), np.float32)


def swelling(rng: np.random.Generator, samples: int, sample_rate: int) -> NDArray[np.float32]:
    """Draw a slowly varying gain (samples,) of -6 to 6 dB."""
    points = int(samples / sample_rate / _HUM_STEP) + 2
    gains_db = np.interp(
        np.linspace(0, points - 1, samples), np.arange(points), rng.uniform(-6.0, 6.0, points)
    )
    return (10.0 ** (gains_db / 20.0)).astype(np.float32)


def mains_hum(rng: np.random.Generator, samples: int, sample_rate: int) -> NDArray[np.float32]:
    """Draw hum (samples,) of 50, 60, 100 or 120 Hz with up to 19 harmonics."""
    pitch = float(rng.choice([50, 60, 100, 120]) * rng.uniform(0.995, 1.005))
    harmonics = np.arange(1, int(rng.integers(3, 20)))
    harmonics = harmonics[harmonics * pitch < sample_rate / 2]
    falls = harmonics ** -rng.uniform(0.5, 1.5, len(harmonics))
    phases = rng.uniform(0.0, 2.0 * np.pi, len(harmonics))
    # The harmonics as powers of one rotating phasor: sines of each would take 4 times as long.
    turn = np.exp(2j * np.pi * pitch / sample_rate * np.arange(samples))
    hum = np.polyval([*(falls * np.exp(1j * phases))[::-1], 0.0], turn)
    return np.asarray(hum.imag, np.float32)


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
    """Add pink noise to each row, the same for the same seed and number in the list.

    Args:
        rows: the list.
        seed: seed of the random numbers.
        snr_db: range of the ratio of speech to noise in dB.

    Raises:
        InputError: A row is rendered, or the range is empty.
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
    """Add babble to each row: several talkers at once, taken in turn from other mixtures.

    Args:
        rows: the list.
        voices: mixtures whose talkers make the babble.
        seed: seed of the random numbers.
        snr_db: range of the ratio of speech to babble in dB.
        talkers: number of talkers of a babble.

    Raises:
        InputError: A row is rendered, the range is empty, or a voice is a talker of `rows`.
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
    """Return the talkers of the rows, by the first folder of their recordings and their name."""
    return {(PurePosixPath(s.paths[0]).parts[0], s.speaker) for row in rows for s in row.sources}


def _ratios(rows: Sequence[MixtureRow], seed: int, snr_db: tuple[float, float]) -> list[float]:
    """Draw the signal-to-noise ratio of each row, uniform, to 0.01 dB."""
    if rendered := [row for row in rows if row.mixture]:
        raise InputError(f"{rendered[0].where} is rendered already; add noise before rendering")
    if not -np.inf < snr_db[0] <= snr_db[1] < np.inf:
        raise InputError(
            f"noise cannot lie {snr_db[0]} to {snr_db[1]} dB under speech; give the lower first"
        )
    rng = np.random.default_rng(np.random.SeedSequence((seed, _STREAM)))
    return [round(float(rng.uniform(*snr_db)), 2) for _ in rows]


def noise_paths(noise: NoiseRow) -> list[str]:
    """Return the recordings of a noise."""
    if noise.path.startswith(PINK):
        return []
    return noise.path.removeprefix(BABBLE).split("|")


def read_noise(
    noise: NoiseRow, samples: int, root: str | os.PathLike[str], sample_rate: int
) -> NDArray[np.float32]:
    """Read or compute the noise of a row, from its start.

    The voices of a babble have the same active level. Voices that are too short are repeated.

    Args:
        noise: noise of the row.
        samples: length of noise that is computed.
        root: folder of the corpus.
        sample_rate: in Hz.

    Returns:
        (T,).
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


def prolonged(noise: NDArray[Float], length: int, sample_rate: int) -> NDArray[Float]:
    """Repeat noise (T,) to a length, with cross-fades of 0.5 s.

    The cross-fades are the halves of a Hann window, as in LibriMix. Noise shorter than 1 s has
    cross-fades of half its length.

    Args:
        noise: (T,).
        length: number of samples to return.
        sample_rate: in Hz.

    Returns:
        (length,).
    """
    half = min(sample_rate // 2, len(noise) // 2 - 1)
    rise = np.hanning(2 * half + 1)[: half + 1] if half > 0 else np.zeros(0)
    rise = rise.astype(noise.dtype)
    longer = noise
    while len(longer) < length:
        kept = len(longer) - len(rise)
        crossed = longer[kept:] * rise[::-1] + noise[: len(rise)] * rise
        longer = np.concatenate([longer[:kept], crossed, noise[len(rise) :]])
    return longer[:length]
