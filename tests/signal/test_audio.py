from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from dpcl.errors import InputError
from dpcl.signal.audio import read_audio, read_mono, resample, write_audio

RATES = st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000])


@given(RATES, RATES, st.integers(0, 5000))
def test_lengths_do_not_drift_there_and_back(rate_in: int, rate_out: int, length: int) -> None:
    x = np.ones(length, dtype=np.float32)
    there = resample(x, rate_in, rate_out)
    assert len(there) == round(length * rate_out / rate_in)
    back = resample(there, rate_out, rate_in, length)
    assert back.shape == x.shape and back.dtype == np.float32


@pytest.mark.parametrize(("rate_in", "rate_out"), [(16000, 8000), (8000, 44100), (44100, 16000)])
def test_a_tone_keeps_its_pitch_level_and_phase(rate_in: int, rate_out: int) -> None:
    def tone(rate: int) -> np.ndarray:
        return np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)

    converted = resample(tone(rate_in), rate_in, rate_out)
    inside = slice(rate_out // 10, -rate_out // 10)
    np.testing.assert_allclose(converted[inside], tone(rate_out)[inside], atol=1e-3)


def test_what_lies_above_the_new_band_does_not_fold_into_it() -> None:
    high = np.sin(2 * np.pi * 6000 * np.arange(16000) / 16000).astype(np.float32)
    assert np.abs(resample(high, 16000, 8000)[500:-500]).max() < 1e-3


def test_equal_rates_change_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    np.testing.assert_array_equal(resample(x, 8000, 8000), x)


def test_channels_are_converted_one_by_one() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 500)).astype(np.float32)
    y = resample(x, 8000, 16000)
    assert y.shape == (2, 3, 1000)
    np.testing.assert_array_equal(y[1, 2], resample(x[1, 2], 8000, 16000))


RNG = np.random.default_rng(0)
NOISE = (0.1 * RNG.standard_normal((2, 8000))).astype(np.float32)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_sixteen_bits_come_back_bit_by_bit(tmp_path: Path, suffix: str) -> None:
    bits = RNG.integers(-32768, 32768, (2, 1000)).astype(np.int16)
    write_audio(tmp_path / f"a{suffix}", bits / 32768.0, 8000)
    samples, rate = read_audio(tmp_path / f"a{suffix}")
    assert rate == 8000
    np.testing.assert_array_equal(samples * 32768, bits)


def test_float_files_keep_every_sample_even_beyond_full_scale(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 30 * NOISE, 44100, "FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], 30 * NOISE)


def test_too_loud_samples_clip_instead_of_wrapping_around(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.array([1.5, -1.5]), 8000)
    assert read_audio(tmp_path / "a.wav")[0].tolist() == [[32767 / 32768, -1.0]]


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_stereo_becomes_mono_at_any_rate_and_not_a_batch_of_two(tmp_path: Path, rate: int) -> None:
    # speechbrain mixes down only where it also resamples
    tone = np.sin(2 * np.pi * 300 * np.arange(rate) / rate)
    write_audio(tmp_path / "a.wav", np.stack([0.8 * tone, 0.2 * tone]), rate)
    mono = read_mono(tmp_path / "a.wav", 8000)
    assert mono.shape == (8000,)
    expected = 0.5 * np.sin(2 * np.pi * 300 * np.arange(8000) / 8000)
    np.testing.assert_allclose(mono[200:-200], expected[200:-200], atol=2e-3)


def test_a_cut_holds_the_same_samples_as_the_whole(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", NOISE, 16000)
    whole = read_mono(tmp_path / "a.wav", 8000)
    cut = read_mono(tmp_path / "a.wav", 8000, start=0.1, seconds=0.25)
    np.testing.assert_array_equal(cut, whole[800:2800])


@pytest.mark.parametrize(("start", "seconds"), [(0.4, 0.2), (-0.1, 0.2), (0.6, None), (0.1, 0.0)])
def test_a_cut_outside_the_file_is_refused(
    tmp_path: Path, start: float, seconds: float | None
) -> None:
    write_audio(tmp_path / "a.wav", NOISE, 16000)
    with pytest.raises(InputError, match=r"a\.wav lasts 0\.500 s"):
        read_mono(tmp_path / "a.wav", 16000, start, seconds)


def _write(path: Path, samples: np.ndarray, subtype: str = "FLOAT") -> None:
    soundfile.write(path, samples, 16000, subtype=subtype)


def _truncated(subtype: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        _write(path, 0.1 * RNG.standard_normal(16000), subtype)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return make


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("a.wav", lambda path: None, "does not exist"),
    "folder": ("a.wav", lambda path: path.mkdir(), "is a folder"),
    "empty": ("a.wav", lambda path: path.touch(), "is empty"),
    "text called MP3": (
        "a.mp3",
        lambda path: path.write_text("hello\n" * 99),
        r"cannot be read as audio \(no audio in it\)",
    ),
    "text": ("a.wav", lambda path: path.write_text("hello\n" * 99), "cannot be read as audio"),
    "nan": ("a.wav", lambda path: _write(path, np.array([0.0, np.nan])), "NaN"),
    "infinite": ("a.wav", lambda path: _write(path, np.array([np.inf, 0.0])), "infinite"),
    "zero length": ("a.wav", lambda path: _write(path, np.zeros(0)), "no samples"),
    "cut-off wav": ("a.wav", _truncated("PCM_16"), "cut off"),
    "cut-off aiff": ("a.aiff", _truncated("PCM_16"), "cut off"),
    "cut-off mp3": ("a.mp3", _truncated("MPEG_LAYER_III"), "cut off"),
    "cut-off flac": ("a.flac", _truncated("PCM_16"), "cut off"),
}


@pytest.mark.parametrize(("name", "make", "what"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_sentence_that_names_the_file(
    tmp_path: Path, name: str, make: Callable[[Path], object], what: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(InputError, match=what) as caught:
        read_audio(tmp_path / name)
    message = str(caught.value)
    assert str(tmp_path / name) in message
    assert "\n" not in message and not message.endswith(".")


def test_a_wav_recorded_through_a_pipe_has_no_length_and_is_read(tmp_path: Path) -> None:
    _write(tmp_path / "a.wav", NOISE[0], "PCM_16")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = data[4:8] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(data)
    assert read_audio(tmp_path / "a.wav")[0].shape == (1, 8000)


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.mp3"])
def test_a_suffix_that_cannot_hold_the_samples_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=name):
        write_audio(tmp_path / name, NOISE, 8000)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_to_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.a\.wav cannot be written"):
        write_audio(tmp_path / "none" / "a.wav", NOISE, 8000)


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audio(tmp_path / "a.wav", NOISE, 8000)
    before = (tmp_path / "a.wav").read_bytes()
    with pytest.raises(InputError, match="NaN"):
        write_audio(tmp_path / "a.wav", np.array([np.nan]), 8000)

    def disk_full(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(soundfile.SoundFile, "write", disk_full)
    with pytest.raises(InputError, match=r"a\.wav cannot be written \(disk full\)"):
        write_audio(tmp_path / "a.wav", NOISE, 8000)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before
