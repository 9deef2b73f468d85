"""wsj0-2mix and wsj0-3mix: mixtures of WSJ0 (LDC93S6A) by the published lists.

Mixtures follow MERL's create_wav_2speakers.m and create_wav_3speakers.m (Hershey et al. 2016),
which differ from the lists of dpcl:

- each utterance is converted to 8 kHz and brought to an active level of 0 dB by activlev of
  Voicebox; the filter of activlev changes the level by some dB;
- the utterance is multiplied by its gain, then cut to the shortest ("min") or padded to the longest
  ("max");
- the mixture and its sources get one scale, so that the peak of the loudest is 0.9;
- at 16 kHz the utterances get their levels at 8 kHz;
- each signal is rounded to 16 bits by itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from dpcl.errors import InputError
from dpcl.io import Progress, Report, no_report
from dpcl.mixtures.render import Mode, fitted, write_rendered
from dpcl.mixtures.rows import MixtureRow
from dpcl.signal.audio import read_audio
from dpcl.signal.level import PEAK, activlev_db

SPLITS = ("tr", "cv", "tt")
RATES = (8000, 16000)
_SUFFIXES = (".wav", ".flac", ".wv1", ".sph")  # suffixes by priority: the first that exists is read


@dataclass(frozen=True)
class ListedMixture:
    """One line of a published list."""

    where: str  # file and line, for messages
    utterances: tuple[str, ...]  # wsj0/si_tr_s/40n/40na010x.wav
    gains_db: tuple[float, ...]

    @property
    def name(self) -> str:
        """Return UTTERANCE_GAIN_UTTERANCE_GAIN, with gains as Matlab's num2str writes them."""
        stems = [PurePosixPath(utterance).stem for utterance in self.utterances]
        parts = zip(stems, self.gains_db, strict=True)
        return "_".join(f"{stem}_{gain + 0.0:.5g}" for stem, gain in parts)


class WSJ0:
    """A user's copy of WSJ0: the LDC's discs or one folder, converted or original.

    Utterances are found by the last three parts of their names, in any case: si_tr_s/01t/01to030v.
    Genders are read from spkrinfo.txt, if the copy has one.

    Args:
        root: folder of the copy.

    Raises:
        InputError: `root` is no folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"{root} is no folder; give your copy of WSJ0")
        self._files: dict[str, Path] = {}
        self.genders: dict[str, str] = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                if path.suffix.lower() in _SUFFIXES:
                    known = self._files.setdefault(_key(path), path)
                    if _rank(path) < _rank(known):
                        self._files[_key(path)] = path
                elif name.lower() == "spkrinfo.txt":
                    self.genders |= _genders(path)

    def find(self, utterance: str) -> Path | None:
        """Return the file of an utterance of a list, or None."""
        return self._files.get(_key(PurePosixPath(utterance)))


def _key(path: PurePosixPath | Path) -> str:
    """Return the last three parts of a path, in lower case and without suffix."""
    return "/".join([*path.parts[-3:-1], path.stem]).lower()


def _rank(path: Path) -> int:
    """Return the priority of a file's suffix."""
    return _SUFFIXES.index(path.suffix.lower())


def _genders(path: Path) -> dict[str, str]:
    """Read lines of a speaker and "F" or "M"; comments begin with a semicolon."""
    lines = path.read_text(encoding="latin-1").lower().splitlines()
    fields = (line.split() for line in lines if ";" not in line)
    return {words[0]: words[1] for words in fields if len(words) > 1 and words[1] in ("f", "m")}


def read_published(
    folder: str | os.PathLike[str], split: str, num_sources: int
) -> list[ListedMixture]:
    """Read folder/mix_N_spk_SPLIT.txt: lines of a path and a gain in dB for each talker.

    Raises:
        InputError: the file or a line is wrong; the message names it.
    """
    path = Path(folder) / f"mix_{num_sources}_spk_{split}.txt"
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read ({getattr(error, 'strerror', 'no ASCII text')}); give the"
            " folder with the published lists of wsj0-mix"
        ) from error
    found: list[ListedMixture] = []
    names: set[str] = set()
    for number, line in enumerate(lines, 1):
        where = f"{path} line {number}"
        fields = line.split()
        if not fields:
            continue
        try:
            gains = tuple(float(field) for field in fields[1::2])
        except ValueError:
            gains = ()
        if len(fields) != 2 * num_sources or not gains or not np.isfinite(gains).all():
            raise InputError(f"{where} is not {num_sources} times a path and a gain; correct it")
        found.append(ListedMixture(where, tuple(fields[0::2]), gains))
        if found[-1].name in names:
            raise InputError(f"{where} lists {found[-1].name} again; remove it")
        names.add(found[-1].name)
    if not found:
        raise InputError(f"{path} lists no mixtures; copy it again")
    return found


def check_utterances(mixtures: Sequence[ListedMixture], copy: WSJ0) -> None:
    """Raise InputError for the first line with an utterance that the copy lacks."""
    for mixture in mixtures:
        for utterance in mixture.utterances:
            if copy.find(utterance) is None:
                raise InputError(
                    f"{mixture.where}: {copy.root} has no {utterance} (nor as"
                    f" {', '.join(_SUFFIXES[1:])}); give a complete copy of WSJ0"
                )


def read_levels(folder: str | os.PathLike[str]) -> dict[str, float]:
    """Read published active levels in dB by utterance, from lines of a name and a power.

    The files are activlev*.txt. The ones published with pywsj0-mix are output of the original
    scripts.

    Raises:
        InputError: a line is wrong; the message names it.
    """
    levels = {}
    for path in sorted(Path(folder).glob("activlev*.txt")):
        for number, line in enumerate(path.read_text(encoding="latin-1").splitlines(), 1):
            try:
                name, power = line.split()
                levels[name] = 10.0 * math.log10(float(power))
            except ValueError as error:
                raise InputError(
                    f"{path} line {number} is no name and power; correct it"
                ) from error
    if not levels:
        raise InputError(f"{folder} has no activlev*.txt; give the folder with published levels")
    return levels


def mix_listed(
    mixture: ListedMixture,
    copy: WSJ0,
    sample_rate: int,
    mode: Mode,
    levels_db: dict[str, float] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mix one line of a list as the published scripts do.

    Args:
        mixture: the line.
        copy: the user's copy of WSJ0.
        sample_rate: 8000 or 16000 Hz.
        mode: cut to the shortest, or pad to the longest.
        levels_db: measured levels by utterance, used instead of measuring the file.

    Returns:
        The mixture (T,) and its sources (C, T).

    Raises:
        InputError: a file cannot be read, is not of one channel at 16 kHz, or is silent.
    """
    signals = []
    for utterance, gain_db in zip(mixture.utterances, mixture.gains_db, strict=True):
        path = copy.find(utterance)
        assert path is not None
        channels, rate = read_audio(path)
        if len(channels) != 1 or rate != 16000:
            raise InputError(
                f"{path} has {len(channels)} channels at {rate} Hz, where WSJ0 has one at 16000 Hz;"
                " convert it again"
            )
        original = channels[0].astype(np.float64)
        narrow = resample_poly(original, 1, 2)  # same filter as Matlab's resample
        level_db = (levels_db or {}).get(PurePosixPath(utterance).stem, None)
        level_db = activlev_db(narrow, 8000) if level_db is None else level_db
        if level_db == -np.inf:
            raise InputError(f"{mixture.where}: {path} is silent; copy it again")
        signal = narrow if sample_rate == 8000 else original
        signals.append(signal * 10.0 ** ((gain_db - level_db) / 20.0))
    sources = fitted(signals, mode)
    mixed = sources.sum(axis=0)
    scale = PEAK / max(np.abs(mixed).max(), np.abs(sources).max())
    return mixed * scale, sources * scale


def render_published(
    mixtures: Sequence[ListedMixture],
    copy: WSJ0,
    out: Path,
    split: str,
    sample_rate: int,
    mode: Mode,
    levels_db: dict[str, float] | None = None,
    report: Report = no_report,
) -> list[MixtureRow]:
    """Render the mixtures of a published list to WAV files.

    Args:
        mixtures: the lines of the list.
        copy: the user's copy of WSJ0.
        out: output folder: out/SPLIT/mix/NAME.wav, out/SPLIT/s1/NAME.wav, ….
        split: "tr", "cv" or "tt".
        sample_rate: 8000 or 16000 Hz.
        mode: cut to the shortest, or pad to the longest.
        levels_db: as for `mix_listed`.
        report: called after each mixture.

    Returns:
        The rows of a list, with the speakers of each mixture.
    """
    rows = []
    for done, mixture in enumerate(mixtures, 1):
        mixed, sources = mix_listed(mixture, copy, sample_rate, mode, levels_db)
        speakers = [PurePosixPath(utterance).parent.name for utterance in mixture.utterances]
        talkers = [(speaker, copy.genders.get(speaker.lower(), "")) for speaker in speakers]
        place = PurePosixPath(split, "mix", f"{mixture.name}.wav")
        rows.append(write_rendered(out, place, mixed, sources, talkers, sample_rate))
        report(Progress(done, len(mixtures), "mixtures"))
    return rows
