from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpcl.signal.level import active_level_db, activlev_db, normalise_to_level

RATE = 2000


def speech_like(seed: int, seconds: float = 3.0, rate: int = RATE) -> np.ndarray:
    """Noise in syllables and pauses, peak 0.9."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    x = rng.standard_normal(len(time)) * np.maximum(np.sin(2 * np.pi * 1.3 * time + seed), 0) ** 2
    x *= np.sin(2 * np.pi * 0.4 * time + seed) > -0.3
    return 0.9 * x / np.abs(x).max()


def p56_sample_by_sample(x: np.ndarray, rate: int) -> float:
    """ITU-T P.56 method B as the standard writes it, for 16 bits of full scale 1."""
    g = math.exp(-1 / (rate * 0.03))
    hangover = math.ceil(rate * 0.2)
    thresholds = [2.0**-k for k in range(15, 0, -1)]
    counts, hangs = [0] * 15, [hangover] * 15
    p = q = energy = 0.0
    for sample in x:
        energy += sample * sample
        p = g * p + (1 - g) * abs(sample)
        q = g * q + (1 - g) * p
        for j, threshold in enumerate(thresholds):
            if q >= threshold:
                counts[j] += 1
                hangs[j] = 0
            elif hangs[j] < hangover:
                counts[j] += 1
                hangs[j] += 1
    previous = (math.nan, math.nan)
    for count, threshold in zip(counts, thresholds, strict=True):
        level = 10 * math.log10(energy / count)
        margin = level - 20 * math.log10(threshold)
        if margin <= 15.9:
            part = (previous[1] - 15.9) / (previous[1] - margin)
            return previous[0] + part * (level - previous[0])
        previous = (level, margin)
    raise AssertionError("no threshold is near enough")


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_standard_sample_by_sample(seed: int) -> None:
    x = speech_like(seed)
    assert active_level_db(x, RATE) == pytest.approx(p56_sample_by_sample(x, RATE), abs=1e-3)


def test_agrees_with_the_standard_where_speech_begins_at_once() -> None:
    x = np.concatenate([np.full(300, 0.9), np.zeros(3 * RATE), speech_like(0)])
    assert active_level_db(x, RATE) == pytest.approx(p56_sample_by_sample(x, RATE), abs=1e-3)


def test_a_steady_tone_has_its_rms_as_level() -> None:
    x = 0.5 * np.sin(2 * np.pi * 200 * np.arange(10 * 8000) / 8000)
    assert active_level_db(x, 8000) == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=0.05)


def test_pauses_do_not_count() -> None:
    x = speech_like(0)
    padded = np.concatenate([np.zeros(5 * RATE), x, np.zeros(20 * RATE)])
    assert active_level_db(padded, RATE) == pytest.approx(active_level_db(x, RATE), abs=0.3)


@given(st.integers(0, 9), st.floats(-150.0, 40.0))
@settings(deadline=None, max_examples=30)
def test_gain_shifts_the_level_by_itself_also_far_below_the_last_bit(
    seed: int, gain: float
) -> None:
    x = speech_like(seed)
    louder = active_level_db(x * 10 ** (gain / 20), RATE)
    # Thresholds lie on a grid of 6 dB, between which the standard interpolates.
    assert louder - active_level_db(x, RATE) == pytest.approx(gain, abs=0.1)
    halved = active_level_db(x * 2.0**-20, RATE)
    assert halved == pytest.approx(active_level_db(x, RATE) - 120.412, abs=1e-3)


@pytest.mark.parametrize("x", [np.zeros(0), np.zeros(1000)])
def test_silence_has_no_level(x: np.ndarray) -> None:
    assert active_level_db(x, RATE) == -math.inf
    np.testing.assert_array_equal(normalise_to_level(x.astype(np.float32), RATE), x)


@pytest.mark.parametrize("length", [1, 2, 50, 4000])
def test_a_click_has_a_finite_level(length: int) -> None:
    x = np.zeros(length)
    x[0] = 0.7
    assert -60 < active_level_db(x, RATE) < 0


def test_normalised_speech_has_the_level_asked_for() -> None:
    y = normalise_to_level(speech_like(1).astype(np.float32), RATE, -26.0)
    assert y.dtype == np.float32
    assert active_level_db(y, RATE) == pytest.approx(-26.0, abs=0.1)


def test_activlev_is_that_of_the_voicebox() -> None:
    time = np.arange(16000) / 8000
    chirp = np.sin(2 * np.pi * (150 + 300 * time) * time) * (np.sin(2 * np.pi * 0.7 * time) > -0.2)
    x = 0.3 * chirp + 0.001 * np.cos(999 * time**2)
    # What the formulas of activlev.m (2017-02-07), typed into Octave 7.3, give.
    assert activlev_db(x, 8000) == pytest.approx(-15.00968021, abs=1e-7)


def test_activlev_does_not_hear_hum_and_counts_the_silence_that_it_adds() -> None:
    time = np.arange(8 * 8000) / 8000
    tone = 0.5 * np.sin(2 * np.pi * 1000 * time)
    level = 20 * math.log10(0.5 / math.sqrt(2))
    # The envelope falls below its threshold within 0.1 s; with the hangover 0.3 of 8.3 s are added.
    assert level - 10 * math.log10(8.35 / 8) < activlev_db(tone, 8000) < level
    hum = tone + 0.3 * np.sin(2 * np.pi * 50 * time)
    assert activlev_db(hum, 8000) == pytest.approx(activlev_db(tone, 8000), abs=0.01)
    assert active_level_db(hum, 8000) > level + 1
    at_200 = activlev_db(np.sin(2 * np.pi * 200 * time), 8000)
    at_1000 = activlev_db(np.sin(2 * np.pi * 1000 * time), 8000)
    assert at_200 - at_1000 == pytest.approx(-0.25, abs=0.01)  # where the filter begins


@pytest.mark.parametrize("x", [np.zeros(0), np.zeros(1000)])
def test_activlev_of_silence_is_none(x: np.ndarray) -> None:
    assert activlev_db(x, 8000) == -math.inf
