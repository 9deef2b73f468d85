"""Backgrounds of mixtures: recorded sounds, babble, coloured noise, hum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.fft import irfft, next_fast_len

from dpcl.errors import InputError
from dpcl.mixtures.corpus import Corpus, read_corpus
from dpcl.mixtures.room_bank import Range
from dpcl.mixtures.rows import MixtureRow
from dpcl.settings import Settings

PINK = 1.0  # exponent of pink noise: power falls with 1 / frequency
KINDS = ("sound", "sounds", "babble", "noise", "hum")  # what backgrounds consist of
OWN_ROOM = 0.45  # probability of a room around sounds
SLOPE = (0.0, 2.2)  # exponent of the power of coloured noise: 0 white, 1 pink, 2 brown
HISS_SNR_DB = (15.0, 50.0)  # power of all talkers together over the power of white noise

_FLATTEST = 30.0  # Hz, frequency below which coloured noise rises no further
_MARGIN = 0.5  # s of noise drawn beyond the length, so that nothing repeats within it
_HUM_STEP = 0.7  # s between two random gains of noise that swells


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
        """Whether some backgrounds are recordings of a corpus."""
        return self.probability > 0 and any(self.shares.get(k) for k in ("sound", "sounds"))


def check_range(name: str, bounds: Range) -> None:
    """Raise ValueError where two limits are no range."""
    low, high = bounds
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"{name} {low:g} to {high:g} is no range; give the lower limit first")


def check_shares(name: str, shares: dict[str, float], known: Iterable[str]) -> None:
    """Raise ValueError for a share of something unknown, a negative one, and a sum other than 1."""
    known = tuple(known)
    if unknown := [key for key in shares if key not in known]:
        raise ValueError(f"{name} has {unknown[0]!r}; there are {', '.join(known)}")
    total = sum(shares.values())
    if any(share < 0 for share in shares.values()) or abs(total - 1.0) > 1e-6:
        raise ValueError(f"{name} add up to {total:g}; give shares of 0 or more that add up to 1")


def read_sounds(
    path: str, settings: BackgroundSettings, held_out: Sequence[MixtureRow] = ()
) -> Corpus:
    """Read the sounds of backgrounds from the corpus at `path`.

    held_out: mixtures of lists whose talkers may not occur among the sounds. Raises InputError for
    a corpus that is missing, that lacks the split or all of `only`, or that holds such a talker.
    """
    whole = read_corpus(path, settings.split)
    there = {u.corpus for u in whole.utterances}
    chosen = there & set(settings.only)
    if not chosen:
        raise InputError(
            f"{path}: split {settings.split} has no sounds of background.only"
            f" ({', '.join(settings.only)}); name corpora that it has"
        )
    corpus = Corpus(whole.root, tuple(u for u in whole.utterances if u.corpus in chosen))
    check_talkers(corpus, held_out, path)
    return corpus


def check_talkers(background: Corpus, rows: Sequence[MixtureRow], where: str) -> None:
    """Raise InputError where a talker of a list occurs in a corpus of backgrounds."""
    talkers = {
        (PurePosixPath(path).parts[0], source.speaker): row
        for row in rows
        for source in row.sources
        for path in source.paths[:1]
    }
    paths = {path for row in rows for source in row.sources for path in source.paths}
    root = background.root
    for u in background.utterances:
        name = u.path.relative_to(root).as_posix() if u.path.is_relative_to(root) else ""
        if (u.corpus, u.speaker) in talkers or name in paths:
            raise InputError(
                f"{where}: the background holds {u.speaker} of {u.corpus or 'the corpus'}, a talker"
                " of the mixtures; leave out that corpus or split"
            )


def coloured_noise(
    rng: np.random.Generator, samples: int, sample_rate: int, slope: float
) -> NDArray[np.float32]:
    """Gaussian noise (samples,) whose power falls with frequency to the power of `slope`."""
    length = next_fast_len(samples + round(_MARGIN * sample_rate), real=True)
    frequencies = np.linspace(0.0, sample_rate / 2.0, length // 2 + 1, dtype=np.float32)
    shape = np.maximum(frequencies, np.float32(_FLATTEST)) ** np.float32(-slope / 2.0)
    spectrum = rng.standard_normal((len(frequencies), 2), np.float32).view(np.complex64)[:, 0]
    noise = np.asarray(irfft(spectrum * shape, length), np.float32)
    return np.asarray(noise[:samples] / noise.std(), np.float32)


def swelling(rng: np.random.Generator, samples: int, sample_rate: int) -> NDArray[np.float32]:
    """A gain (samples,) that wanders within 6 dB."""
    points = int(samples / sample_rate / _HUM_STEP) + 2
    gains_db = np.interp(
        np.linspace(0, points - 1, samples), np.arange(points), rng.uniform(-6.0, 6.0, points)
    )
    return (10.0 ** (gains_db / 20.0)).astype(np.float32)


def mains_hum(rng: np.random.Generator, samples: int, sample_rate: int) -> NDArray[np.float32]:
    """Hum (samples,) of 50, 60, 100 or 120 Hz with up to 19 harmonics."""
    pitch = float(rng.choice([50, 60, 100, 120]) * rng.uniform(0.995, 1.005))
    harmonics = np.arange(1, int(rng.integers(3, 20)))
    harmonics = harmonics[harmonics * pitch < sample_rate / 2]
    falls = harmonics ** -rng.uniform(0.5, 1.5, len(harmonics))
    phases = rng.uniform(0.0, 2.0 * np.pi, len(harmonics))
    # The harmonics as powers of one rotating phasor: sines of each would take 4 times as long.
    turn = np.exp(2j * np.pi * pitch / sample_rate * np.arange(samples))
    hum = np.polyval([*(falls * np.exp(1j * phases))[::-1], 0.0], turn)
    return np.asarray(hum.imag, np.float32)
