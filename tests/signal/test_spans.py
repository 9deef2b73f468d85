"""Files of several recordings of different containers, tags at the end, sizes that are missing."""

from __future__ import annotations

import io
import struct
from itertools import product

import numpy as np
import pytest
import soundfile

from dpcl.signal.audio import read_audio
from dpcl.signal.reader import AudioReader

RATE = 16000
NOISE = 0.1 * np.random.default_rng(0).standard_normal(24000)
KINDS = {
    "WAV": "PCM_16", "MP3": "MPEG_LAYER_III", "FLAC": "PCM_16", "OGG": "VORBIS", "AIFF": "PCM_16",
    "AU": "PCM_16", "CAF": "PCM_16", "W64": "PCM_16", "RF64": "PCM_16",
}  # fmt: skip
ID3V1 = b"TAG" + b"x" * 125
APE = b"APETAGEX" + struct.pack("<4I", 2000, 40, 1, 0) + bytes(8)


def encoded(file_format: str, subtype: str | None = None, frames: np.ndarray = NOISE) -> bytes:
    file = io.BytesIO()
    subtype = subtype or KINDS[file_format]
    soundfile.write(file, frames, RATE, format=file_format, subtype=subtype)
    return file.getvalue()


PARTS = {kind: encoded(kind) for kind in KINDS}
LENGTHS = {kind: read_audio(data)[0].shape[1] for kind, data in PARTS.items()}


def read(data: bytes) -> tuple[int, bool, str]:
    """Return the number of samples, whether it is cut off, and the notes."""
    with AudioReader(data) as reader:
        samples = sum(block.shape[1] for block in reader.blocks(7000))
        return samples, reader.cut_off, " ".join(reader.notes)


@pytest.mark.parametrize(("first", "second"), [*product(KINDS, KINDS)])
def test_joined_recordings_of_two_containers_are_all_read(first: str, second: str) -> None:
    samples, cut_off, notes = read(PARTS[first] + PARTS[second])
    assert (samples, cut_off, notes) == (LENGTHS[first] + LENGTHS[second], False, "")


@pytest.mark.parametrize(("first", "second"), [*product(["WAV", "MP3", "FLAC", "OGG"], KINDS)])
def test_the_recording_after_one_that_is_cut_off_is_read(first: str, second: str) -> None:
    part = PARTS[first]
    samples, cut_off, _ = read(part[: len(part) // 2] + PARTS[second])
    least = 0 if first == "OGG" else 0.2  # its samples are in one page
    assert LENGTHS[second] * (1 + least) <= samples < LENGTHS[first] + LENGTHS[second]
    assert cut_off


def test_an_mp3_without_a_table_after_one_that_is_cut_off_is_read() -> None:
    part = PARTS["MP3"]
    size = part.find(part[:2], 4)  # of the frame with the table
    samples, _, _ = read(part[: len(part) // 3] + part[size:] + part[size:])
    assert samples > 2.2 * len(NOISE)


@pytest.mark.parametrize("tag", [ID3V1, ID3V1 + ID3V1], ids=["one", "two"])
def test_tags_between_joined_recordings_are_no_samples(tag: bytes) -> None:
    for kind in ("WAV", "MP3", "FLAC", "OGG", "AIFF"):
        samples, cut_off, _ = read(PARTS[kind] + tag + PARTS["WAV"])
        assert (samples, cut_off) == (LENGTHS[kind] + LENGTHS["WAV"], False), kind


@pytest.mark.parametrize("kind", ["NIST", "VOC", "AVR"])
def test_a_recording_after_another_container_is_reported(kind: str) -> None:
    samples, _, notes = read(encoded(kind, "PCM_16") + PARTS["WAV"])
    assert samples == len(NOISE)
    assert f"holds {len(PARTS['WAV'])} bytes of another recording" in notes


def test_another_rate_and_what_cannot_be_read_are_reported() -> None:
    file = io.BytesIO()
    soundfile.write(file, NOISE, 8000, format="FLAC")
    broken = b"fLaC\0\0\0\x22" + bytes(5000)
    samples, _, notes = read(PARTS["WAV"] + file.getvalue() + broken + PARTS["OGG"])
    assert samples == LENGTHS["WAV"] + LENGTHS["OGG"]
    assert "2 more recordings" in notes


@pytest.mark.parametrize("tag", [ID3V1, APE, APE + ID3V1], ids=["ID3v1", "APE", "both"])
@pytest.mark.parametrize(
    "kind",
    [
        ("XI", "DPCM_16"), ("IRCAM", "PCM_16"), ("IRCAM", "FLOAT"), ("PAF", "PCM_16"),
        ("PAF", "PCM_24"), ("PVF", "PCM_16"), ("HTK", "PCM_16"), ("AU", "G721_32"),
    ],
    ids="-".join,
)  # fmt: skip
def test_tags_at_the_end_are_no_samples(kind: tuple[str, str], tag: bytes) -> None:
    data = encoded(*kind)
    tag = tag.replace(struct.pack("<4I", 2000, 40, 1, 0), struct.pack("<4I", 2000, 32, 1, 0))
    with AudioReader(data) as reader, AudioReader(data + tag) as tagged:
        expected = np.concatenate(list(reader.blocks(9999)), axis=1)
        np.testing.assert_array_equal(np.concatenate(list(tagged.blocks(9999)), axis=1), expected)


def unsized(kind: str, size: int) -> bytes:
    """Return a recording with another size in its header."""
    data = bytearray(PARTS[kind])
    if kind == "AU":
        data[8:12] = struct.pack(">I", size)
    elif kind == "CAF":
        place = data.index(b"data") + 4
        data[place : place + 8] = struct.pack(">q", size)
    elif kind == "W64":
        place = data.index(b"data", 40) + 16
        data[16:24] = data[place : place + 8] = struct.pack("<Q", size)
    else:
        place = data.index(b"SSND") + 4
        data[4:8] = data[place : place + 4] = struct.pack(">I", size)
    return bytes(data)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("AU", 0), ("AU", 2**31 - 1), ("AU", 2**32 - 1), ("CAF", 0), ("CAF", -1), ("CAF", 2**62),
        ("W64", 0), ("W64", 24), ("W64", 2**32 - 1), ("W64", 2**63 - 1), ("W64", 2**64 - 1),
        ("AIFF", 0), ("AIFF", 8), ("AIFF", 2**31 - 1), ("AIFF", 2**32 - 1),
    ],
)  # fmt: skip
def test_a_header_without_a_size_is_read_to_the_end_with_a_note(kind: str, size: int) -> None:
    samples, cut_off, notes = read(unsized(kind, size))
    assert (samples, cut_off) == (LENGTHS[kind], False)
    assert "states no length" in notes


@pytest.mark.parametrize("kind", ["AU", "CAF", "W64", "AIFF"])
def test_a_size_that_is_stated_is_believed(kind: str) -> None:
    assert read(PARTS[kind]) == (LENGTHS[kind], False, "")
    samples, cut_off, notes = read(PARTS[kind][: len(PARTS[kind]) // 2])
    assert samples < LENGTHS[kind]
    assert cut_off and not notes


def test_an_xi_file_says_that_its_rate_is_assumed() -> None:
    samples, _, notes = read(encoded("XI", "DPCM_16"))
    assert samples == len(NOISE)
    assert "states no sample rate; 44100 Hz is assumed" in notes
