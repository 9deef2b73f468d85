"""Lengths of recordings: cut off, followed by other bytes, joined, and without a size."""

from __future__ import annotations

import io
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dpcl.errors import InputError
from dpcl.signal.audio import read_audio
from dpcl.signal.formats import promised_frames
from dpcl.signal.reader import AudioReader

RNG = np.random.default_rng(0)
NOISE = 0.1 * RNG.standard_normal(72000)
GARBAGE = RNG.bytes(3000)


def encoded(file_format: str, subtype: str, frames: np.ndarray = NOISE, rate: int = 48000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, frames, rate, format=file_format, subtype=subtype)
    data = file.getvalue()
    if file_format == "XI":  # libsndfile writes no length, other programs do
        data = data[:298] + struct.pack("<I", len(data) - 338) + data[302:]
    return data


def collected(reader: AudioReader) -> np.ndarray:
    return np.concatenate(list(reader.blocks(7000)), axis=1)


STATED = [
    ("AVR", "PCM_16"), ("MAT4", "PCM_16"), ("MAT4", "FLOAT"), ("MAT5", "PCM_16"),
    ("MAT5", "FLOAT"), ("MPC2K", "PCM_16"), ("NIST", "PCM_16"), ("SVX", "PCM_16"),
    ("VOC", "PCM_16"), ("W64", "PCM_16"), ("W64", "IMA_ADPCM"), ("WVE", "ALAW"), ("XI", "DPCM_16"),
]  # fmt: skip


@pytest.mark.parametrize("kind", STATED, ids="-".join)
def test_a_header_that_states_the_length_shows_what_is_missing(kind: tuple[str, str]) -> None:
    rate = 8000 if kind[0] == "WVE" else 44100  # the only rates of WVE and XI
    data = encoded(*kind, rate=rate)
    with AudioReader(data) as reader:
        whole = collected(reader)
        assert not reader.cut_off
    with AudioReader(data[: len(data) // 2]) as reader:
        assert collected(reader).shape[1] == pytest.approx(36000, abs=1200)
        assert reader.cut_off
    with AudioReader(data + GARBAGE) as reader:
        read = collected(reader)
        assert not reader.cut_off
    assert abs(read.shape[1] - whole.shape[1]) <= (0 if kind[1] != "IMA_ADPCM" else 2100)
    if kind[1] != "IMA_ADPCM":
        np.testing.assert_array_equal(read, whole)


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_a_midi_sample_dump_that_ends_after_a_packet_is_cut_off(
    subtype: str, tmp_path: Path
) -> None:
    data = encoded("SDS", subtype, NOISE[:5000])
    for part, cut_off in ((data, False), (data[: 21 + 40 * 127], True)):
        path = tmp_path / "a.sds"  # libsndfile reads a damaged one by its name only
        path.write_bytes(part)
        with AudioReader(path) as reader:
            assert (collected(reader).shape[1] < 5000) == cut_off
            assert reader.cut_off == cut_off


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", [*STATED[:7], *STATED[8:10]], ids="-".join)
def test_headers_of_stereo_are_understood(kind: tuple[str, str], channels: int) -> None:
    frames = np.resize(NOISE, (5000, channels))
    data = encoded(*kind, frames, 44100)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert promised_frames(file, io.BytesIO(data)) == 5000


@pytest.mark.parametrize("length", [5000, 4096, 8191, 60001])
@pytest.mark.parametrize(
    "tail", [b"TAG" + bytes(125), b"APETAGEX" + bytes(200), GARBAGE], ids=["ID3v1", "APE", "noise"]
)
def test_bytes_after_the_last_flac_frame_cost_no_sample(length: int, tail: bytes) -> None:
    data = encoded("FLAC", "PCM_16", NOISE[:length])
    with AudioReader(data + tail) as reader:
        assert collected(reader).shape[1] == length
        assert not reader.cut_off
    read_audio(data + tail)  # is not refused either


@pytest.mark.parametrize(
    "kind", [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16"),
     ("WAV", "PCM_16")],
    ids="-".join,
)  # fmt: skip
@pytest.mark.parametrize("count", [2, 3])
def test_joined_recordings_are_all_read(kind: tuple[str, str], count: int, tmp_path: Path) -> None:
    parts = [encoded(*kind, NOISE * (k + 1) / 3) for k in range(count)]
    expected = np.concatenate([read_audio(part)[0] for part in parts], axis=1)
    (tmp_path / "a").write_bytes(b"".join(parts))
    for source in (b"".join(parts), tmp_path / "a"):
        with AudioReader(source) as reader:
            for _ in range(2):
                samples = collected(reader)
                assert samples.shape[1] == expected.shape[1] == count * 72000
                np.testing.assert_array_equal(samples, expected)
                assert not reader.cut_off and not reader.notes
    cut = b"".join(parts)[: -len(parts[0]) // 2]
    with AudioReader(cut) as reader:
        assert collected(reader).shape[1] < (count - 0.1) * 72000
        assert reader.cut_off


def test_mp3_files_with_tags_are_joined_at_the_right_place() -> None:
    part = encoded("MP3", "MPEG_LAYER_III")
    tagged = b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + part + b"TAG" + bytes(125)
    with AudioReader(tagged) as reader:
        assert collected(reader).shape[1] == 72000
    with AudioReader(tagged + tagged + part) as reader:
        assert collected(reader).shape[1] == 3 * 72000
    assert part[2] >> 4 == 9  # 128 kbit/s: the first frame, with the table, has 384 bytes
    longer = part + 2 * part[384:]  # the others without a table
    with AudioReader(longer) as reader:
        assert collected(reader).shape[1] == pytest.approx(3 * 72000, abs=6000)


def test_an_mp3_table_that_states_no_bytes_is_no_endless_file() -> None:
    data = bytearray(encoded("MP3", "MPEG_LAYER_III"))
    at = max(data.find(b"Xing", 0, 64), data.find(b"Info", 0, 64))
    data[at + 12 : at + 16] = bytes(4)
    with AudioReader(bytes(data)) as reader:
        assert collected(reader).shape[1] == pytest.approx(72000, abs=3000)


@pytest.mark.parametrize("kind", [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS")], ids="-".join)
def test_a_joined_recording_of_another_kind_is_omitted_with_a_note(kind: tuple[str, str]) -> None:
    data = encoded(*kind) + encoded(*kind, np.resize(NOISE, (72000, 2)), 44100)
    with AudioReader(data) as reader:
        assert collected(reader).shape == (1, 72000)
        (note,) = reader.notes
    assert "1 more recordings of another sample rate" in note and "split the file" in note


def test_the_first_of_two_ogg_recordings_that_is_cut_off_hides_no_other() -> None:
    data = encoded("OGG", "VORBIS")
    with AudioReader(data[: len(data) // 2] + data) as reader:
        assert 72000 < collected(reader).shape[1] < 2 * 72000
        assert reader.cut_off


def unsized(data: bytes, size: int) -> bytes:
    """WAV or RF64 as a program writes it that cannot return to the header."""
    changed = bytearray(data)
    if data[:4] == b"RF64":
        changed[20:44] = (size.to_bytes(8, "little")) * 3
    else:
        place = data.index(b"data") + 4
        changed[place : place + 4] = changed[4:8] = size.to_bytes(4, "little")
    return bytes(changed)


@pytest.mark.parametrize(
    ("file_format", "size"),
    [
        ("WAV", 0), ("WAV", 0xFFFFFFFF), ("WAV", 0x7FFFFFFF), ("WAV", 0x7FFFF000),
        ("WAVEX", 0), ("RF64", 0), ("RF64", 2**64 - 1), ("RF64", 2**63 - 1), ("RF64", 0xFFFFFFFF),
    ],
)  # fmt: skip
def test_a_wav_without_a_size_is_read_to_its_end_with_a_note(
    file_format: str, size: int, tmp_path: Path
) -> None:
    data = encoded(file_format, "PCM_16")
    path = tmp_path / "a.wav"
    path.write_bytes(unsized(data, size))
    for source in (path, path.read_bytes()):
        with AudioReader(source) as reader:
            for _ in range(2):
                np.testing.assert_array_equal(collected(reader), read_audio(data)[0])
            assert not reader.cut_off
            (note,) = reader.notes
        assert "states no length" in note


def test_beyond_four_gigabytes_the_size_is_that_of_the_file(tmp_path: Path) -> None:
    data = unsized(encoded("WAV", "PCM_16"), 0xFFFFFFFF)
    with (tmp_path / "a.wav").open("wb") as file:
        file.write(data)
        file.truncate(2**32 + 2**20)  # zeros that take no room
    with AudioReader(tmp_path / "a.wav") as reader:
        assert reader.frames == (2**32 + 2**20 - 44) // 2


@pytest.mark.parametrize("chunk", [b"", b"LIST\x04\0\0\0INFO"])
def test_a_wav_of_no_samples_stays_empty(chunk: bytes) -> None:
    data = encoded("WAV", "PCM_16", NOISE[:0]) + chunk
    with pytest.raises(InputError, match="holds no samples"):
        AudioReader(data)


@pytest.mark.parametrize(
    "data",
    [
        b"NIST_1A\n      0\n", b"NIST_1A\n     -5\n", b"NIST_1A\n", b"NIST_1A\n ", b"NIST_1A\n   1",
        b"NIST_1A\n   102", b"NIST_1A\n   1024\n", b"NIST_1A\n9\n" + bytes(50),
        b"Creative Voice File\x1a", b"riff.\x91\xcf\x11", b"FORM\0\0\0\x088SVXBODY", b"2BIT",
        b"RIFF\0\0\0\0WAVEdata", b"RF64\xff\xff\xff\xffWAVEds64", b"OggS", b"ID3", b"fLaC",
    ],
)  # fmt: skip
def test_headers_that_end_early_are_one_sentence(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    for source in (data, tmp_path / "a.wav"):
        with pytest.raises(InputError) as caught:
            read_audio(source)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind", [*STATED, ("WAV", "PCM_16"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]
)
def test_damaged_headers_are_read_or_one_sentence(kind: tuple[str, str]) -> None:
    rate = 8000 if kind[0] == "WVE" else 48000
    data = encoded(*kind, NOISE[:3000], rate)
    rng = np.random.default_rng(1)
    for _ in range(60):
        changed = bytearray(data)
        for place in rng.integers(0, min(400, len(data)), rng.integers(1, 6)):
            changed[place] = rng.integers(256)
        try:
            with AudioReader(bytes(changed[: rng.integers(1, len(data) + 1)])) as reader:
                assert sum(block.shape[1] for block in reader.blocks(10_000)) < 2_000_000
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "/proc/self/status"])
def test_devices_are_no_recordings(path: str) -> None:
    if not Path(path).exists():
        pytest.skip("not on this system")
    with pytest.raises(InputError, match=path):
        AudioReader(path)


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000], ids=["long", "deep"])
def test_names_that_no_file_can_have_are_one_sentence(name: str) -> None:
    with pytest.raises(InputError, match=r"cannot be read as audio|does not exist"):
        AudioReader(name)


def test_a_descriptor_is_read_by_its_name() -> None:
    """As a shell hands a process substitution over."""
    data = encoded("WAV", "PCM_16")
    read_end, write_end = os.pipe()

    def write() -> None:
        with open(write_end, "wb") as file:  # noqa: PTH123
            file.write(data)

    threading.Thread(target=write, daemon=True).start()
    try:
        with AudioReader(f"/dev/fd/{read_end}") as reader:
            os.close(read_end)
            for _ in range(2):
                assert collected(reader).shape[1] == 72000
    except InputError:
        if not Path("/dev/fd").exists():
            pytest.skip("not on this system")
        raise


def test_libmpg123_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encoded("MP3", "MPEG_LAYER_III", NOISE[:60000]) * 2)
    for place in RNG.integers(500, 10_000, 20):
        data[place] ^= 0xFF
    with AudioReader(bytes(data)) as reader:
        collected(reader)
    assert capfd.readouterr().err == ""
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"


def test_metadata_is_read() -> None:
    for file_format, subtype in [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]:
        file = io.BytesIO()
        with soundfile.SoundFile(file, "w", 48000, 1, subtype, format=file_format) as sound:
            sound.title, sound.comment = "Größe", "second take"
            sound.write(NOISE[:1000])
        with AudioReader(file.getvalue()) as reader:
            assert (reader.tags["title"], reader.tags["comment"]) == ("Größe", "second take")
