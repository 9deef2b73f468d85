from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import butter, sosfilt

import dpcl.errors
from dpcl.errors import InputError
from dpcl.mixtures.channels import (
    CODECS,
    Channel,
    band_limited,
    check_codec,
    clipped,
    coded,
    gain_controlled,
    parse_channel,
    shelved,
)
from dpcl.mixtures.lists import read_list, write_list
from dpcl.mixtures.render import check_files, render_list, render_mixture
from dpcl.mixtures.rows import MixtureRow, NoiseRow, SourceRow

ROW = MixtureRow(
    "m1",
    "m",
    0,
    2.0,
    "within",
    "same",
    (SourceRow("a", ("a.wav",), 0.0, 1.0), SourceRow("b", ("b.wav",), 0.0, -1.0)),
)


def speechlike(rate: int, seconds: float = 2.0) -> np.ndarray:
    """Noise of 200 to 1500 Hz that comes and goes."""
    noise = np.random.default_rng(0).standard_normal(round(seconds * rate))
    band = sosfilt(butter(2, [200, 1500], "band", fs=rate, output="sos"), noise)
    envelope = np.sin(np.arange(len(noise)) / rate * 6.0) ** 2
    return (0.3 * band * envelope).astype(np.float32)


def power_db(samples: np.ndarray, rate: int, low: float, high: float) -> float:
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / rate)
    return float(10 * np.log10(spectrum[(frequencies >= low) & (frequencies < high)].sum()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in "abcd":
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(16000), 8000)
    return tmp_path


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize(
    "codec",
    ["ulaw", "alaw", "gsm", "opus:16", "opus:64", "mp3:12", "mp3:16", "mp3:64", "amr", "g722"],
)
def test_codecs_keep_time_and_level(codec: str, rate: int) -> None:
    try:
        check_codec(codec)
    except InputError:
        pytest.skip(f"no {codec} here")
    samples = speechlike(rate)
    decoded = coded(samples, rate, codec)
    assert decoded.shape == samples.shape and decoded.dtype == np.float32
    size = 2 * len(samples)
    product = np.fft.rfft(decoded, size) * np.conj(np.fft.rfft(samples, size))
    lag = int(np.argmax(np.fft.irfft(product, size)))
    assert lag == 0
    assert 0.4 < np.linalg.norm(decoded) / np.linalg.norm(samples) < 1.3
    assert not np.array_equal(decoded, samples)
    np.testing.assert_array_equal(decoded, coded(samples, rate, codec))


def test_silence_stays_silent_through_every_codec() -> None:
    for codec in CODECS:
        assert not coded(np.zeros(800, np.float32), 8000, codec).any()


def test_bands_and_shelves_change_what_they_should() -> None:
    noise = np.random.default_rng(0).standard_normal((2, 32000)).astype(np.float32)
    band = band_limited(noise, 8000, 300, 3400)
    assert band.shape == noise.shape and band.dtype == np.float32
    for low, high, change in ((30, 120, -30), (600, 3000, 0), (3900, 4000, -6)):
        difference = power_db(band[1], 8000, low, high) - power_db(noise[1], 8000, low, high)
        assert abs(difference) < 0.5 if change == 0 else difference < change
    np.testing.assert_array_equal(band_limited(noise, 8000, high=4000), noise)
    shelf = shelved(noise[0], 8000, 500, 6.0)
    for low, high, change in ((20, 60, 0.0), (3000, 3900, 6.0)):
        difference = power_db(shelf, 8000, low, high) - power_db(noise[0], 8000, low, high)
        assert difference == pytest.approx(change, abs=0.4)


def test_gain_control_brings_levels_together_and_stays_within_its_depth() -> None:
    noise = np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    steps = noise * np.repeat([1.0, 0.1], 24000).astype(np.float32)
    even = gain_controlled(steps, 8000, 12.0)
    gains_db = 20 * np.log10(even / steps)
    assert np.abs(gains_db).max() <= 12.01
    # 20 dB apart before; the loud half comes down by 3 dB, the quiet one up by 12.
    levels = [np.std(part) for part in (even[12000:24000], even[40000:])]
    assert 20 * np.log10(levels[0] / levels[1]) == pytest.approx(5.0, abs=1.0)
    assert not gain_controlled(np.zeros(100, np.float32), 8000, 12.0).any()


def test_as_many_samples_are_clipped_as_asked_for() -> None:
    noise = np.random.default_rng(0).standard_normal(20000).astype(np.float32)
    limited = clipped(noise, 4.0)
    assert (np.abs(limited) == np.abs(limited).max()).mean() == pytest.approx(0.04, abs=1e-3)


@pytest.mark.parametrize(
    "text",
    ["", "highpass=300", "band=300-3400|codec=ulaw", "agc=12|lowpass=3000|clip=4|codec=opus:8"],
)
def test_a_channel_comes_back_from_its_text(text: str) -> None:
    assert parse_channel(text).text == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("echo=3", "'echo=3' is no part of a channel"),
        ("highpass=low", "'highpass=low' is no part of a channel"),
        ("highpass=300|band=200-3000", "two values of band"),
        ("band=3400-300", "empty"),
        ("clip=100", "clip=100"),
        ("codec=amrx", "'amrx' is no codec"),
        ("codec=ulaw:64", "one bit rate"),
        ("codec=opus:600", "6 to 256 kbit/s"),
        ("codec=opus:fast", "6 to 256 kbit/s"),
    ],
)
def test_a_wrong_channel_is_named_in_a_list(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_channel(text)
    write_list([replace(ROW, channel=Channel(clip=4.0))], tmp_path / "m.csv")
    content = (tmp_path / "m.csv").read_text()
    (tmp_path / "m.csv").write_text(content.replace("clip=4", text))
    with pytest.raises(InputError, match=rf"row 2, column channel: .*{problem}"):
        read_list(tmp_path / "m.csv")


def test_a_codec_that_is_missing_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.setattr(dpcl.errors, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'codec amr needs av.*pip install "dpcl\[codecs\]"'):
        check_codec("amr")
    with pytest.raises(InputError, match=r"dpcl\[codecs\]"):
        check_files([replace(ROW, channel=Channel(codec="amr"))], root)
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": "WAV"})
    with pytest.raises(InputError, match=r"codec opus: the libsndfile .* lacks OPUS"):
        check_codec("opus")
    assert set(CODECS) >= {"ulaw", "alaw", "gsm", "opus", "mp3", "amr"}


def test_references_have_the_band_but_neither_clipping_nor_codec(root: Path) -> None:
    rows = [
        replace(ROW, channel=Channel(highpass=300.0)),
        replace(ROW, channel=Channel(highpass=300.0, clip=4.0, codec="ulaw")),
    ]
    write_list(rows[:1], root / "m.csv")
    assert read_list(root / "m.csv") == rows[:1]
    mixture, sources = render_mixture(rows[0], root, 8000)
    np.testing.assert_array_equal(mixture, sources.sum(axis=0))
    _, plain = render_mixture(ROW, root, 8000)
    filtered = band_limited(plain, 8000, 300.0)
    cosine = (filtered * sources).sum() / np.linalg.norm(filtered) / np.linalg.norm(sources)
    assert cosine == pytest.approx(1.0, abs=1e-5)
    distorted, references = render_mixture(rows[1], root, 8000)
    np.testing.assert_array_equal(references, sources)
    assert 0.02 < np.linalg.norm(distorted - mixture) / np.linalg.norm(mixture) < 0.3

    render_list(rows[1:], root, root / "out", 8000)
    parts = [soundfile.read(root / "out" / k / "m1.wav", dtype="int16") for k in ("s1", "s2")]
    parts.append(soundfile.read(root / "out" / "noise" / "m1.wav", dtype="int16"))
    mixed, _ = soundfile.read(root / "out" / "mix" / "m1.wav", dtype="int16")
    np.testing.assert_array_equal(sum(part for part, _ in parts), mixed)


def test_pink_noise_and_babble_are_rendered_at_their_ratio(root: Path) -> None:
    noisy = [
        replace(ROW, noise=NoiseRow("pink=7", 0.0, 5.0)),
        replace(ROW, id="m2", noise=NoiseRow("babble=c.wav|d.wav", 0.0, 0.0)),
    ]
    write_list(noisy, root / "m.csv")
    assert read_list(root / "m.csv") == noisy
    check_files(noisy, root)
    rate = 8000
    mixture, sources = render_mixture(noisy[0], root, rate)
    noise = mixture - sources.sum(axis=0)
    ratio = 10 * np.log10((sources[0] ** 2).mean() / (noise**2).mean())
    assert ratio == pytest.approx(5.0, abs=0.2)
    octaves = [power_db(noise, rate, low, 2 * low) for low in (125, 250, 500, 1000, 2000)]
    assert np.ptp(octaves) < 2.0
    mixture, sources = render_mixture(noisy[1], root, rate)
    voices = mixture - sources.sum(axis=0)
    both = sum(soundfile.read(root / f"{name}.wav")[0] for name in "cd")
    cosine = both @ voices / np.linalg.norm(both) / np.linalg.norm(voices)
    assert cosine == pytest.approx(1.0, abs=0.01)
    (root / "d.wav").unlink()
    with pytest.raises(InputError, match=r"d\.wav does not exist"):
        check_files(noisy, root)
    with pytest.raises(InputError, match=r"column noise: 'pink=x'"):
        (root / "m.csv").write_text((root / "m.csv").read_text().replace("pink=7", "pink=x"))
        read_list(root / "m.csv")
