from __future__ import annotations

import io
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from dpcl.errors import InputError
from dpcl.signal.audio import read_audio
from dpcl.signal.reader import AudioReader

RNG = np.random.default_rng(0)
NOISE = 0.1 * RNG.standard_normal((60000, 2))  # (T, channels)

KINDS = [
    ("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"), ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"), ("W64", "PCM_24"), ("CAF", "PCM_16"), ("CAF", "ALAC_24"),
    ("AIFF", "PCM_S8"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("NIST", "PCM_16"),
    ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip


def encoded(file_format: str, subtype: str, frames: np.ndarray = NOISE, rate: int = 48000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, frames, rate, format=file_format, subtype=subtype)
    return file.getvalue()


def collected(reader: AudioReader, size: int = 7000) -> np.ndarray:
    return np.concatenate(list(reader.blocks(size)), axis=1)


@pytest.fixture(scope="module")
def files() -> dict[tuple[str, str], bytes]:
    return {kind: encoded(*kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_blocks_of_any_size_are_the_whole_in_every_format(
    files: dict[tuple[str, str], bytes], kind: tuple[str, str]
) -> None:
    whole = soundfile.read(io.BytesIO(files[kind]), dtype="float32")[0].T
    with AudioReader(files[kind]) as reader:
        assert (reader.format, reader.subtype) == kind
        assert (reader.sample_rate, reader.channels) == (48000, 2)
        assert reader.frames == whole.shape[1]
        for size in (997, 4096, 10**6):  # again and again from the beginning
            blocks = list(reader.blocks(size))
            assert all(block.shape == (2, size) for block in blocks[:-1])
            assert all(block.dtype == np.float32 for block in blocks)
            np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)
            assert reader.read == whole.shape[1] and not reader.cut_off


@given(st.integers(1, 20000), st.integers(1, 20000), st.sampled_from(["WAV", "FLAC"]))
@settings(max_examples=30, deadline=None)
def test_block_sizes_do_not_change_samples(length: int, size: int, file_format: str) -> None:
    data = encoded(file_format, "PCM_16", NOISE[:length])
    with AudioReader(data) as reader:
        blocks = list(reader.blocks(size))
    assert [block.shape[1] for block in blocks[:-1]] == [size] * ((length - 1) // size)
    bits = np.concatenate(blocks, axis=1) * 32768
    np.testing.assert_array_equal(bits, soundfile.read(io.BytesIO(data), dtype="int16")[0].T)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 192000])
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_rates_and_channels(rate: int, channels: int) -> None:
    frames = np.resize(NOISE, (5000, channels))
    with AudioReader(encoded("FLAC", "PCM_24", frames, rate)) as reader:
        assert (reader.sample_rate, reader.channels) == (rate, channels)
        np.testing.assert_allclose(collected(reader), frames.T, atol=2**-23)


# A CAF that is cut off is refused by libsndfile, with a sentence.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[0] != "CAF"], ids="-".join)
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_what_is_there_of_a_cut_off_file_is_read_and_said(
    kind: tuple[str, str], part: float
) -> None:
    data = encoded(*kind, np.tile(NOISE, (4, 1)))
    whole = soundfile.read(io.BytesIO(data), dtype="float32")[0].T
    with AudioReader(data[: int(part * len(data))]) as reader:
        assert not reader.cut_off
        samples = collected(reader)
        assert reader.cut_off
        assert reader.read == samples.shape[1]
        # an Ogg page holds a second, a FLAC or ADPCM block a tenth
        assert part * 240000 - 50000 < reader.read < part * 240000 + 5000
        if kind[0] != "OGG":  # the only one that states no length
            assert reader.frames == pytest.approx(240000, rel=0.02)
        if kind[0] != "MP3":
            np.testing.assert_array_equal(samples[:, :-3000], whole[:, : reader.read - 3000])
    with pytest.raises(InputError, match=r"the recording in memory is cut off after \d\.\d\d s"):
        read_audio(data[: int(part * len(data))])


@pytest.mark.parametrize("kind", [("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")], ids="-".join)
def test_an_error_in_the_middle_ends_the_samples_and_is_said(
    files: dict[tuple[str, str], bytes], kind: tuple[str, str]
) -> None:
    data = bytearray(files[kind])
    middle = len(data) // 2
    data[middle : middle + 3000] = b"\x55" * 3000
    with AudioReader(bytes(data)) as reader:
        samples = collected(reader)
        assert reader.cut_off
    assert 20000 < samples.shape[1] < 40000


def test_a_file_of_which_nothing_can_be_decoded_is_refused(
    files: dict[tuple[str, str], bytes],
) -> None:
    data = files["FLAC", "PCM_16"]
    with (
        AudioReader(data[:86] + b"\x55" * 5000) as reader,
        pytest.raises(InputError, match="the recording in memory cannot be read as audio"),
    ):
        collected(reader)


def without_its_length(mp3: bytes) -> bytes:
    """An MP3 (48 kHz) without its first frame, which holds the table with the length."""
    bit_rate = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320][mp3[2] >> 4]
    assert b"Xing" in mp3[:200] or b"Info" in mp3[:200]
    return mp3[144 * bit_rate * 1000 // 48000 + (mp3[2] >> 1 & 1) :]


def test_an_mp3_without_its_length_is_read_to_its_end_although_it_gets_quieter() -> None:
    # libsndfile takes the first frame's bit rate for all, and stops where it guesses the end
    noise = NOISE.copy()
    noise[6000:] = 0
    file = io.BytesIO()
    soundfile.write(
        file, noise, 48000, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE",
        compression_level=0.5,
    )  # fmt: skip
    data = without_its_length(file.getvalue())
    assert len(soundfile.read(io.BytesIO(data))[0]) < 30000
    with AudioReader(data) as reader:
        assert reader.frames is None
        assert abs(collected(reader).shape[1] - 60000) < 3000
        assert not reader.cut_off


@pytest.mark.parametrize("data_size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_recorded_through_a_pipe_has_no_length_and_is_read(data_size: int) -> None:
    data = bytearray(encoded("WAV", "PCM_16"))
    place = data.index(b"data") + 4
    data[place : place + 4] = data[4:8] = data_size.to_bytes(4, "little")
    with AudioReader(bytes(data)) as reader:
        assert collected(reader).shape == (2, 60000)
        assert not reader.cut_off


def test_not_a_number_is_refused_with_its_second() -> None:
    frames = NOISE.copy()
    frames[54000, 1] = np.nan
    with (
        AudioReader(encoded("WAV", "FLOAT", frames, 16000)) as reader,
        pytest.raises(InputError, match=r"holds NaN or infinite samples at 3\.38 s"),
    ):
        collected(reader)


@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("OGG", "OPUS")], ids="-".join)
def test_bytes_files_and_pipes_give_the_same(
    tmp_path: Path, files: dict[tuple[str, str], bytes], kind: tuple[str, str]
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(files[kind])
    expected = read_audio(path)[0]
    for whole in (files[kind], bytearray(files[kind]), memoryview(files[kind])):
        np.testing.assert_array_equal(read_audio(whole)[0], expected)
    with path.open("rb") as file:
        file.seek(1000)  # somebody looked into it
        assert AudioReader(file).name == str(path)
        for _ in range(2):
            np.testing.assert_array_equal(read_audio(file)[0], expected)
        assert not file.closed


def piped(data: bytes) -> io.BufferedReader:
    read_end, write_end = os.pipe()

    def write() -> None:
        with open(write_end, "wb") as file:  # noqa: PTH123
            file.write(data)

    threading.Thread(target=write, daemon=True).start()
    return open(read_end, "rb")  # noqa: PTH123


def test_a_pipe_is_read_twice_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[tuple[str, str], bytes]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = files["FLAC", "PCM_16"]
    with piped(data) as pipe, AudioReader(pipe) as reader:
        first, second = collected(reader), collected(reader)
    np.testing.assert_array_equal(first, soundfile.read(io.BytesIO(data), dtype="float32")[0].T)
    np.testing.assert_array_equal(first, second)
    assert not list(tmp_path.iterdir())


def test_a_pipe_that_closes_early_is_a_file_cut_off(files: dict[tuple[str, str], bytes]) -> None:
    with piped(files["WAV", "PCM_16"][:100000]) as pipe, AudioReader(pipe) as reader:
        assert collected(reader).shape[1] == pytest.approx(25000, abs=50)
        assert reader.cut_off and reader.frames == 60000
    with piped(b"") as pipe, pytest.raises(InputError, match="is empty"):
        AudioReader(pipe)


def test_a_named_pipe_is_read(tmp_path: Path, files: dict[tuple[str, str], bytes]) -> None:
    path = tmp_path / "pipe.wav"
    os.mkfifo(path)
    data = files["WAV", "PCM_16"]
    threading.Thread(target=path.write_bytes, args=(data,), daemon=True).start()
    samples, rate = read_audio(path)
    assert rate == 48000 and samples.shape == (2, 60000)


def test_a_pipe_that_does_not_fit_on_the_disk_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with (
        piped(b"") as pipe,
        pytest.raises(InputError, match=r"cannot be read as audio \(No space left on device\)"),
    ):
        AudioReader(pipe)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (b"", "the recording in memory is empty"),
        (b"hello" * 100, "the recording in memory cannot be read as audio"),
        (io.BytesIO(), "the recording is empty"),
        (io.StringIO("hello"), "binary mode"),
        (encoded("WAV", "PCM_16", NOISE[:0]), "holds no samples"),
    ],
    ids=["no bytes", "text", "empty file", "text file", "no samples"],
)
def test_bad_sources_are_one_sentence(source: bytes, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        read_audio(source)
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(".")


def test_raw_samples_without_a_header_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(InputError, match=r"a\.raw cannot be read as audio"):
        AudioReader(tmp_path / "a.raw")
