"""Mixtures under many conditions, drawn on the fly: rooms, backgrounds, channels, turns, levels.

Item i of epoch e depends on SeedSequence((seed, e, i)) alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.signal import fftconvolve
from torch import Tensor
from torch.utils.data import Dataset

from dpcl.errors import InputError
from dpcl.io import Report, no_report
from dpcl.mixtures.channels import (
    BandSettings,
    CodecSettings,
    band_limited,
    clipped,
    coded,
    gain_controlled,
    shelved,
)
from dpcl.mixtures.corpus import PackedCorpus, pack_corpus
from dpcl.mixtures.noise import BackgroundSettings, coloured_noise, mains_hum, read_sounds, swelling
from dpcl.mixtures.rooms import Range, RoomBank, RoomSettings, room_bank
from dpcl.mixtures.stream import TrainingMixtures
from dpcl.settings import Settings
from dpcl.signal.level import draw_gains_db

PEAK = 0.9  # peak of the loudest of mixture and sources
RELATIVE_DB = 5.0  # range of the gains of usual levels, see draw_gains_db
OWN_ROOM = 0.45  # probability of a room around sounds
SLOPE = (0.0, 2.2)  # exponent of the power of coloured noise: 0 white, 1 pink, 2 brown
HISS_SNR_DB = (15.0, 50.0)  # power of all talkers together over the power of white noise
GAIN_CONTROL_DB = (4.0, 12.0)  # largest change by a gain control
GAIN_CONTROL_SECONDS = (0.3, 2.0)  # time constant of a gain control
HIGHPASS_HZ = (80.0, 400.0)  # corner of the high-pass, log-uniform
LOWPASS_HZ = (2000.0, 3800.0)  # corner of the low-pass
SHELF_HZ = (300.0, 2500.0)  # corner of the high shelf, log-uniform
SHELF_DB = (-9.0, 9.0)  # gain of the high shelf
CLIPPED_PERCENT = (0.5, 7.0)  # share of the samples that are clipped
KBITS = {"opus": (7.0, 48.0), "mp3": (12.0, 64.0)}  # rates, log-uniform

_STREAMS = 1 << 40  # items between the draws of talkers, babble and sounds
_BABBLE = 5  # number of voices of a babble, or half of it
_FADE = 0.02  # s over which a talker begins or stops
_LONGEST_PAUSE = 0.85  # longest pause, as a share of the mixture
_REST = 1e-9  # power that is added to a divisor

Samples = NDArray[np.float32]


class Chance(Settings):
    """Condition that applies to a share of the mixtures."""

    probability: float = Field(ge=0, le=1)


class TurnSettings(Settings):
    """Silence of talkers in a part of the mixture: turns, late beginnings, pauses."""

    probability: float = Field(default=0.4, ge=0, le=1)  # of a mixture with silence of talkers
    talker: float = Field(default=0.5, ge=0, le=1)  # of silence of each talker in such a mixture


class LevelSettings(Settings):
    """Levels of the talkers, and errors of the estimated level of a recording."""

    wide: float = Field(default=0.3, ge=0, le=1)  # probability of a wider range of levels
    wide_db: float = Field(default=15.0, ge=0, allow_inf_nan=False)  # wider range of the gains
    misjudged: float = Field(default=0.3, ge=0, le=1)  # probability of a level factor other than 1
    misjudged_db: float = Field(default=8.0, ge=0, allow_inf_nan=False)  # uniform in +- this


class ConditionSettings(Settings):
    """All conditions of the training mixtures."""

    talkers: tuple[float, ...] = (0.12, 0.5, 0.26, 0.08, 0.04)  # shares of 1, 2, … talkers
    within: float = Field(default=0.6, ge=0, le=1)  # share of mixtures of talkers of one corpus
    speed: float = Field(default=0.14, ge=0, lt=0.5)  # talkers' speed, uniform in 1 +- this
    levels: LevelSettings = LevelSettings()
    turns: TurnSettings = TurnSettings()
    gain_control: Chance = Chance(probability=0.08)  # automatic gain control of each talker
    rooms: RoomSettings = RoomSettings()
    background: BackgroundSettings = BackgroundSettings()
    band: BandSettings = BandSettings()
    shelf: Chance = Chance(probability=0.35)  # equalisation above a random frequency
    clipping: Chance = Chance(probability=0.06)  # limited peaks of the mixture
    codec: CodecSettings = CodecSettings()

    @model_validator(mode="after")
    def _talkers_add_up(self) -> ConditionSettings:
        shares = self.talkers
        if not 1 <= len(shares) <= 10:
            raise ValueError(f"talkers has {len(shares)} shares; give 1 to 10 of them")
        if any(share < 0 for share in shares) or abs(sum(shares) - 1.0) > 1e-6:
            raise ValueError(
                f"talkers add up to {sum(shares):g}; give shares of 0 or more that add up to 1"
            )
        return self

    @property
    def most_talkers(self) -> int:
        """Return the largest number of talkers that is drawn."""
        return max(number for number, share in enumerate(self.talkers, 1) if share)

    @property
    def needs_rooms(self) -> bool:
        """True if responses of rooms are needed."""
        return self.rooms.probability > 0


class ConditionedMixture(NamedTuple):
    """Item of the training data; the mixture is the sum of sources and background.

    Attributes:
        sources: (C, T), images at the microphone after band and equalisation; zeros from
            `num_talkers` on.
        mixture: (T,), with background, clipping and codec.
        background: (T,), mixture minus the sum of the sources.
        level_factor: (), factor of the error of the recording's level.
        num_talkers: (), int64.
    """

    sources: Tensor
    mixture: Tensor
    background: Tensor
    level_factor: Tensor
    num_talkers: Tensor


@dataclass(frozen=True)
class ConditionParts:
    """Sounds and rooms from which conditions are drawn; None if the settings need none."""

    sounds: PackedCorpus | None
    rooms: RoomBank | None


def prepare_conditions(
    settings: ConditionSettings,
    corpus: str | os.PathLike[str],
    sample_rate: int,
    cache: str | os.PathLike[str],
    report: Report = no_report,
) -> ConditionParts:
    """Decode the sounds and simulate the rooms that the settings need, once, into `cache`.

    Args:
        settings: the conditions.
        corpus: index, or folder with an index, that holds the sounds of `background.only`.
        sample_rate: Hz.
        cache: folder beside the packed speech.
        report: called after each sound, then after each room.

    Raises:
        InputError: Before any work: a codec is not installed, or sounds are missing.
    """
    settings.codec.check()
    found = None
    if settings.background.needs_sounds:
        found = read_sounds(os.fspath(corpus), settings.background)
    sounds = None if found is None else pack_corpus(found, sample_rate, cache, report)
    rooms = None
    if settings.needs_rooms:
        rooms = room_bank(settings.rooms, sample_rate, cache, report)
    return ConditionParts(sounds, rooms)


class ConditionedMixtures(Dataset[ConditionedMixture]):
    """Dataset of training mixtures under conditions: [item] gives a ConditionedMixture.

    Speech is drawn as in TrainingMixtures. Each talker gets a level, gain control, pauses and a
    place in the room. The background follows; then band and equalisation of all, and clipping and
    codec of the mixture. The number of sources is the settings' largest number of talkers; sources
    from `num_talkers` on are silent.

    Args:
        settings: the conditions.
        speech: recordings of the talkers.
        parts: sounds and rooms, from `prepare_conditions`.
        samples: number of samples of a mixture.
        items: number of mixtures in an epoch.
        seed: seed of the random numbers.

    Raises:
        InputError: The corpus has too few speakers, or `parts` lacks sounds or rooms that the
            settings need.
    """

    def __init__(
        self,
        settings: ConditionSettings,
        speech: PackedCorpus,
        parts: ConditionParts,
        samples: int,
        items: int,
        seed: int = 0,
    ) -> None:
        settings.codec.check()
        if settings.background.needs_sounds and parts.sounds is None:
            raise InputError(
                "background.shares: there are no sounds; give a corpus that holds some"
            )
        if settings.needs_rooms and parts.rooms is None:
            raise InputError("rooms.probability: there is no bank of rooms; compute one")
        self.settings, self.rooms = settings, parts.rooms if settings.needs_rooms else None
        self.samples, self.items, self.seed = samples, items, seed
        self.sample_rate = speech.sample_rate
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

        def stream(
            packed: PackedCorpus, number: int, within: float, speed: float
        ) -> TrainingMixtures:
            # Levels are drawn here; no stream has fewer items than the offsets between them.
            items = 8 * _STREAMS
            return TrainingMixtures(packed, number, samples, items, seed, 0.0, within, speed)

        self._talkers = {
            number: stream(speech, number, settings.within, settings.speed)
            for number, share in enumerate(settings.talkers, 1)
            if share
        }
        self._babble: TrainingMixtures | None = None
        self._sounds: TrainingMixtures | None = None
        background = settings.background
        if background.probability and background.shares.get("babble"):
            voices = min(_BABBLE, len(set(zip(speech.corpora, speech.speakers, strict=True))))
            self._babble = stream(speech, voices, 0.3, 0.0)
        if background.needs_sounds and parts.sounds is not None:
            self._sounds = stream(parts.sounds, 1, 0.0, 0.0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the items of this epoch from now on, in every worker."""
        self._epoch.fill_(epoch)
        for stream in (*self._talkers.values(), self._babble, self._sounds):
            if stream is not None:
                stream.set_epoch(epoch)

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, item: int) -> ConditionedMixture:
        if not 0 <= item < self.items:
            raise IndexError(f"item {item} of an epoch of {self.items}")
        settings = self.settings
        # A child: the sequence itself draws the talkers in TrainingMixtures.
        (own,) = np.random.SeedSequence((self.seed, int(self._epoch), item)).spawn(1)
        rng = np.random.default_rng(own)
        number = 1 + int(rng.choice(len(settings.talkers), p=np.asarray(settings.talkers)))
        sources = self._draw_talkers(rng, item, number)
        power = float(np.square(sources.sum(axis=0)).mean()) + _REST
        background = self._draw_background(rng, item, power)
        everything = self._equalised(rng, np.concatenate([sources, background[None]]))
        sources, mixture = everything[:-1], self._distorted(rng, everything.sum(axis=0))
        peak = max(float(np.abs(sources).max()), float(np.abs(mixture).max()), _REST)
        scale = np.float32(PEAK / peak)
        padded = np.zeros((settings.most_talkers, self.samples), np.float32)
        padded[:number] = sources * scale
        mixture = mixture * scale
        factor = 1.0
        if rng.random() < settings.levels.misjudged:
            most = settings.levels.misjudged_db
            factor = 10.0 ** (rng.uniform(-most, most) / 20.0)
        return ConditionedMixture(
            torch.from_numpy(padded),
            torch.from_numpy(mixture),
            torch.from_numpy(mixture - padded.sum(axis=0)),
            torch.tensor(factor, dtype=torch.float32),
            torch.tensor(number),
        )

    def _draw_talkers(self, rng: np.random.Generator, item: int, number: int) -> Samples:
        """Draw images (C, T) of the talkers at the microphone, before band and equalisation."""
        settings = self.settings
        sources = self._talkers[number][item].numpy()
        levels = settings.levels
        apart = levels.wide_db if rng.random() < levels.wide else RELATIVE_DB
        gains_db = draw_gains_db(rng, number, apart)
        sources = sources * (10.0 ** (gains_db / 20.0)).astype(np.float32)[:, None]
        if rng.random() < settings.gain_control.probability:
            depth_db = float(rng.uniform(*GAIN_CONTROL_DB))
            seconds = float(rng.uniform(*GAIN_CONTROL_SECONDS))
            for source in sources:
                source[:] = gain_controlled(source, self.sample_rate, depth_db, seconds)
        if rng.random() < settings.turns.probability:  # alone too: the background remains
            for source in sources:
                if rng.random() < settings.turns.talker:
                    self._pause(rng, source)
        if self.rooms is not None and rng.random() < settings.rooms.probability:
            sources = self._in_room(rng, sources)
        return sources

    def _pause(self, rng: np.random.Generator, source: Samples) -> None:
        """Silence a talker (T,) before, after or between two random moments."""
        total = len(source)
        first, last = sorted(rng.integers(0, total, 2).tolist())
        if rng.random() < 0.5:
            first, last = (0, last) if rng.random() < 0.5 else (first, total)
        if last - first > _LONGEST_PAUSE * total:
            return
        fade = round(_FADE * self.sample_rate)
        gate = np.ones(total + fade - 1, np.float32)
        gate[first : last + fade - 1] = 0.0
        sums = np.concatenate([[0.0], np.cumsum(gate, dtype=np.float64)])
        source *= ((sums[fade:] - sums[:-fade]) / fade).astype(np.float32)

    def _in_room(self, rng: np.random.Generator, signals: Samples) -> Samples:
        """Simulate each signal of (C, T) at a place of its own in one room."""
        assert self.rooms is not None
        responses = self.rooms.responses(int(rng.integers(len(self.rooms))))
        places = rng.permutation(len(responses))[np.arange(len(signals)) % len(responses)]
        wet = fftconvolve(signals, responses[places], axes=-1)
        return np.asarray(wet[:, : signals.shape[1]], np.float32)

    def _draw_background(self, rng: np.random.Generator, item: int, power: float) -> Samples:
        """Draw a background (T,) for talkers of this power together."""
        settings = self.settings.background
        total = np.zeros(self.samples, np.float32)
        if rng.random() < settings.probability:
            noise = self._draw_noise(rng, item)
            snr_db = float(rng.uniform(*settings.snr_db))
            own = float(np.square(noise).mean()) + _REST
            total = noise * np.float32(np.sqrt(power / own * 10.0 ** (-snr_db / 10.0)))
        if rng.random() < settings.hiss:
            snr_db = float(rng.uniform(*HISS_SNR_DB))
            hiss = rng.standard_normal(self.samples, np.float32)
            total = total + hiss * np.float32(np.sqrt(power) * 10.0 ** (-snr_db / 20.0))
        return total

    def _draw_noise(self, rng: np.random.Generator, item: int) -> Samples:
        settings, rate = self.settings.background, self.sample_rate
        kinds = list(settings.shares)
        kind = kinds[int(rng.choice(len(kinds), p=np.array([*settings.shares.values()])))]
        if kind == "babble":
            assert self._babble is not None
            noise: Samples = self._voices(rng, item + _STREAMS)
            if rng.random() < 0.6:  # reversed, more voices are no further talkers
                noise = noise + np.float32(0.8) * self._voices(rng, item + 2 * _STREAMS)[::-1]
            return noise
        if kind == "noise":
            noise = coloured_noise(rng, self.samples, rate, float(rng.uniform(*SLOPE)))
            if rng.random() < 0.3:
                noise = noise * swelling(rng, self.samples, rate)
            return noise
        if kind == "hum":
            return mains_hum(rng, self.samples, rate)
        assert self._sounds is not None
        noise = self._sounds[item + 3 * _STREAMS].numpy()[0]
        if kind == "sounds":
            other = self._sounds[item + 4 * _STREAMS].numpy()[0]
            noise = noise + np.float32(rng.uniform(0.2, 1.0)) * other
        if self.rooms is not None and rng.random() < OWN_ROOM:
            noise = self._in_room(rng, noise[None])[0]
        return np.asarray(noise, np.float32)

    def _voices(self, rng: np.random.Generator, item: int) -> Samples:
        assert self._babble is not None
        voices = self._babble[item].numpy()
        if self.rooms is not None:
            voices = self._in_room(rng, voices)
        mixed: Samples = voices.sum(axis=0)
        return mixed

    def _equalised(self, rng: np.random.Generator, parts: Samples) -> Samples:
        """Filter sources and background (C + 1, T) with one band and one shelf."""
        band, shelf, rate = self.settings.band, self.settings.shelf, self.sample_rate
        chosen = rng.random()
        if chosen < band.telephone:
            parts = band_limited(parts, rate, 300.0, float(rng.uniform(3000.0, 3600.0)))
        elif (chosen := chosen - band.telephone) < band.highpass:
            corner = _log_uniform(rng, HIGHPASS_HZ)
            parts = band_limited(parts, rate, corner, order=int(rng.integers(1, 5)))
        elif chosen - band.highpass < band.lowpass:
            parts = band_limited(parts, rate, high=float(rng.uniform(*LOWPASS_HZ)))
        if rng.random() < shelf.probability:
            corner = _log_uniform(rng, SHELF_HZ)
            parts = shelved(parts, rate, corner, float(rng.uniform(*SHELF_DB)))
        return parts

    def _distorted(self, rng: np.random.Generator, mixture: Samples) -> Samples:
        """Clip and code the mixture (T,)."""
        settings = self.settings
        if rng.random() < settings.clipping.probability:
            mixture = clipped(mixture, float(rng.uniform(*CLIPPED_PERCENT)))
        if rng.random() < settings.codec.probability:
            shares = settings.codec.shares
            names = list(shares)
            name = names[int(rng.choice(len(names), p=np.array([*shares.values()])))]
            if name in KBITS:
                name = f"{name}:{_log_uniform(rng, KBITS[name]):.1f}"
            mixture = coded(mixture, self.sample_rate, name)
        return np.asarray(mixture, np.float32)


def _log_uniform(rng: np.random.Generator, bounds: Range) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))
