from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from dpcl.errors import InputError
from dpcl.signal import writer as module
from dpcl.signal.audio import read_audio
from dpcl.signal.formats import output_subtype, quantised
from dpcl.signal.reader import AudioReader
from dpcl.signal.writer import AudioWriter

RNG = np.random.default_rng(0)
NOISE = (0.1 * RNG.standard_normal((2, 60000))).astype(np.float32)

LOSSLESS = [
    ("wav", "PCM_U8", 8), ("wav", "PCM_16", 16), ("wav", "PCM_24", 24), ("wav", "PCM_32", 24),
    ("flac", "PCM_S8", 8), ("flac", "PCM_16", 16), ("flac", "PCM_24", 24), ("aiff", "PCM_S8", 8),
    ("aiff", "PCM_24", 24), ("caf", "PCM_16", 16),
    ("w64", "PCM_24", 24), ("rf64", "PCM_16", 16),
]  # fmt: skip
LOSSY = [("ogg", "VORBIS"), ("ogg", "OPUS"), ("opus", "OPUS"), ("mp3", "MPEG_LAYER_III")]


def write(
    path: Path, samples: np.ndarray, subtype: str, rate: int = 48000, size: int = 7000
) -> AudioWriter:
    with AudioWriter(path, rate, len(samples), subtype) as writer:
        for first in range(0, samples.shape[1], size):
            writer.write(samples[:, first : first + size])
    return writer


@pytest.mark.parametrize(("suffix", "subtype", "bits"), LOSSLESS)
@pytest.mark.parametrize(("channels", "rate"), [(1, 8000), (2, 44100), (8, 192000)])
def test_what_was_read_is_written_back_bit_by_bit(
    tmp_path: Path, suffix: str, subtype: str, bits: int, channels: int, rate: int
) -> None:
    steps = RNG.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (channels, 5000))
    steps[:, :2] = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1]
    samples = (steps / 2.0 ** (bits - 1)).astype(np.float32)
    write(tmp_path / f"a.{suffix}", samples, subtype, rate, size=777)
    np.testing.assert_array_equal(read_audio(tmp_path / f"a.{suffix}")[0], samples)
    info = soundfile.info(tmp_path / f"a.{suffix}")
    assert (info.subtype, info.samplerate, info.channels) == (subtype, rate, channels)
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{suffix}"]


@pytest.mark.parametrize(("suffix", "subtype"), LOSSY)
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_formats_keep_length_and_sound(
    tmp_path: Path, suffix: str, subtype: str, channels: int
) -> None:
    t = np.arange(100000) / 48000
    tone = 0.5 * np.sin(2 * np.pi * 440 * t) * np.ones((channels, 1))
    write(tmp_path / f"a.{suffix}", tone, subtype, size=100000)
    samples, rate = read_audio(tmp_path / f"a.{suffix}")
    assert rate == 48000 and samples.shape == tone.shape
    np.testing.assert_allclose(samples[:, 5000:-5000], tone[:, 5000:-5000], atol=0.03)


def test_a_long_block_does_not_crash_vorbis(tmp_path: Path) -> None:
    # libvorbis keeps what it is given at once on the stack, and 2**22 samples are too many
    write(tmp_path / "a.ogg", np.zeros((1, 2**22), np.float32), "VORBIS", 8000, size=2**22)
    assert soundfile.info(tmp_path / "a.ogg").frames == 2**22


@given(st.lists(st.integers(0, 5000), max_size=8), st.sampled_from(["a.wav", "a.flac"]))
@settings(max_examples=20, deadline=None)
def test_block_sizes_do_not_change_the_file(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], name: str
) -> None:
    folder = tmp_path_factory.mktemp("blocks")
    with AudioWriter(folder / name, 8000, 2, "PCM_16") as writer:
        for first, last in zip(
            np.cumsum([0, *sizes]), np.cumsum([*sizes, 40001 - sum(sizes)]), strict=True
        ):
            writer.write(NOISE[:, first:last])
    assert writer.written == 40001
    expected = np.rint(NOISE[:, :40001] * 32768) / 32768
    np.testing.assert_array_equal(read_audio(folder / name)[0], expected)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_rounding_stays_within_half_a_step_and_never_wraps_around(bits: int) -> None:
    x = np.array([-1.5, -1, -0.3, 0.7, 1 - 2.0**-24, 1, 1.5], dtype=np.float32)
    steps = quantised(x, f"PCM_{bits}" if bits > 8 else "PCM_U8").astype(np.int64)
    assert not (steps % 2 ** (32 - bits)).any()
    error = steps / 2.0**31 - x.clip(-1, 1)
    assert np.abs(error).max() <= 2.0 ** (1 - bits)
    assert np.abs(error[1:4]).max() <= 0.5 * 2.0 ** (1 - bits)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "caf", "w64"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32"])
def test_sources_louder_than_full_scale_make_the_file_float(
    tmp_path: Path, suffix: str, subtype: str
) -> None:
    samples = NOISE.copy()
    samples[1, 40000:] = 3 * NOISE[1, 40000:] / NOISE[1, 40000:].max()
    writer = write(tmp_path / f"a.{suffix}", samples, subtype)
    assert writer.subtype == "FLOAT" and writer.clipped == 0
    assert soundfile.info(tmp_path / f"a.{suffix}").subtype == "FLOAT"
    read = read_audio(tmp_path / f"a.{suffix}")[0]
    np.testing.assert_allclose(read, samples, rtol=0, atol=2.0**-16)
    np.testing.assert_array_equal(read[:, 42000:], samples[:, 42000:])  # from that block on
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{suffix}"]


def test_full_scale_itself_is_not_beyond_it(tmp_path: Path) -> None:
    writer = write(tmp_path / "a.wav", np.array([[1.0, -1.0]]), "PCM_16")
    assert writer.subtype == "PCM_16"
    assert read_audio(tmp_path / "a.wav")[0].tolist() == [[32767 / 32768, -1.0]]


@pytest.mark.parametrize(("suffix", "subtype"), [("flac", "PCM_16"), ("flac", "PCM_24"), *LOSSY])
def test_where_float_cannot_be_held_clipped_samples_are_counted(
    tmp_path: Path, suffix: str, subtype: str
) -> None:
    samples = NOISE.copy()
    samples[0, 100:107] = 1.5
    samples[1, 30000:30003] = -2
    assert write(tmp_path / f"a.{suffix}", samples, subtype).clipped == 10
    if suffix == "flac":
        steps = 2.0**-15 if subtype == "PCM_16" else 2.0**-23
        np.testing.assert_allclose(
            read_audio(tmp_path / "a.flac")[0], samples.clip(-1, 1), atol=1.01 * steps
        )


@pytest.mark.parametrize("louder", [False, True])
def test_a_wav_beyond_four_gigabytes_goes_on_as_rf64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, louder: bool
) -> None:
    monkeypatch.setattr(module, "_LARGEST", 100_000)  # bytes
    samples = np.rint(NOISE * 32768) / 32768
    samples[:, 50000] = 1.5 if louder else 0
    writer = write(tmp_path / "a.wav", samples, "PCM_16")
    info = soundfile.info(tmp_path / "a.wav")
    assert (info.format, info.subtype) == ("RF64", "FLOAT" if louder else "PCM_16")
    assert writer.subtype == info.subtype
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], samples)
    with pytest.raises(InputError, match="AIFF ends at 4 GB"):
        write(tmp_path / "a.aiff", samples, "PCM_16")
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_size_known_before_saves_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AudioWriter, "_continue_as", None)
    frames = 2**32 // 4 + 1
    with AudioWriter(tmp_path / "a.wav", 8000, 2, "PCM_16", frames) as writer:
        writer.write(NOISE)
    assert soundfile.info(tmp_path / "a.wav").format == "RF64"


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes: what libsndfile writes ends as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("suffix", "subtype"), [(suffix, subtype) for suffix, subtype, _ in LOSSLESS] + LOSSY
)
def test_a_disk_that_fills_is_one_sentence_and_no_file(
    tmp_path: Path, suffix: str, subtype: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    write(path, NOISE, subtype)
    before = path.read_bytes()
    # early, late, and while the file is completed: FLAC and MP3 do not notice the last
    for size in (1000, len(before) // 2, len(before) - 3000, len(before) - 100):
        with disk_of(size), pytest.raises(InputError, match=r"a\.\w+ cannot be written") as caught:
            write(path, NOISE, subtype)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(
            "; choose another folder"
        )
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
        assert path.read_bytes() == before


def test_a_disk_that_fills_while_a_file_becomes_float(tmp_path: Path) -> None:
    samples = NOISE.copy()
    samples[:, 50000] = 2
    with disk_of(250_000), pytest.raises(InputError, match=r"a\.wav cannot be written"):
        write(tmp_path / "a.wav", samples, "PCM_16")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 0}))
    with disk_of(1000), pytest.raises(InputError, match=r"a\.wav cannot be written \(the disk is"):
        write(tmp_path / "a.wav", NOISE, "PCM_16")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_file_is_never_seen(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), AudioWriter(tmp_path / "a.flac", 8000, 2, "PCM_16") as writer:
        writer.write(NOISE)
        assert not (tmp_path / "a.flac").exists()
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["write", "close", "__init__"])
def test_an_interrupt_inside_the_writer_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(module, "check_output", lambda *args: None)
    samples = NOISE.copy()
    samples[:, 20000] = 2  # it is also copied to FLOAT
    usual = getattr(soundfile.SoundFile, where)
    calls = []
    stop = 0

    def interrupted(self: soundfile.SoundFile, *args: object, **kwargs: object) -> object:
        if where != "close" or not self.closed:
            calls.append(where)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return usual(self, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, where, interrupted)
    write(tmp_path / "a.wav", samples, "PCM_16")
    (tmp_path / "a.wav").unlink()
    assert len(calls) >= 3
    for number in range(1, len(calls) + 1):
        calls.clear()
        stop = number
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "a.wav", samples, "PCM_16")
        left = [path.name for path in tmp_path.iterdir()]
        assert left in ([], ["a.wav"])  # at the very end it is complete
        (tmp_path / "a.wav").unlink(missing_ok=True)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NaN"):
        write(tmp_path / "a.wav", np.array([[0, np.nan]]), "FLOAT")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.wav cannot be written \(No such file or directory\)"):
        AudioWriter(tmp_path / "none" / "a.wav", 8000, 1, "PCM_16")


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("a.opus", 44100, 1, "OPUS"), ("a.ogg", 22050, 1, "OPUS"), ("a.opus", 48000, 1, "VORBIS"),
        ("a.ogg", 384000, 2, "VORBIS"),  # libvorbis crashes there
        ("a.mp3", 96000, 1, "MPEG_LAYER_III"), ("a.mp3", 44100, 3, "MPEG_LAYER_III"),
        ("a.flac", 48000, 9, "PCM_16"), ("a.flac", 700000, 1, "PCM_16"),
        ("a.flac", 48000, 1, "FLOAT"), ("a.wav", 48000, 0, "PCM_16"), ("a.wav", 0, 1, "PCM_16"),
        ("a.wav", 2**40, 1, "PCM_16"), ("a.m4a", 48000, 1, "PCM_16"), ("a", 48000, 1, "PCM_16"),
        ("a.raw", 48000, 1, "PCM_16"),
        ("a.caf", 48000, 1, "ALAC_16"),  # libsndfile aborts where the disk fills
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_one_sentence(
    tmp_path: Path, name: str, rate: int, channels: int, subtype: str
) -> None:
    with pytest.raises(InputError, match=f"{name} cannot be written") as caught:
        AudioWriter(tmp_path / name, rate, channels, subtype)
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(".")
    assert "end its name in .wav" in str(caught.value)
    assert not list(tmp_path.iterdir())


EXPECTED = {
    "WAV": "PCM_U8 PCM_16 PCM_S8 PCM_16 PCM_16 PCM_16 PCM_24 PCM_24 PCM_32 PCM_32 FLOAT FLOAT"
    " DOUBLE FLOAT ULAW PCM_16 ALAW PCM_16 IMA_ADPCM PCM_16 VORBIS PCM_16 MPEG_LAYER_III PCM_16"
    " ALAC_20 PCM_24 ALAC_32 PCM_32 GSM610 PCM_16",
    "flac": "PCM_U8 PCM_16 PCM_16 PCM_16 PCM_24 PCM_24 PCM_32 PCM_24 FLOAT PCM_24 DOUBLE PCM_24"
    " VORBIS PCM_16",
    "ogg": "PCM_16 VORBIS FLOAT VORBIS VORBIS VORBIS OPUS OPUS",
    "OPUS": "PCM_16 OPUS OPUS OPUS VORBIS OPUS",
    "mp3": "FLOAT MPEG_LAYER_III OPUS MPEG_LAYER_III",
    "aiff": "PCM_U8 PCM_16 PCM_32 PCM_32 DOUBLE FLOAT ULAW PCM_16",
    "caf": "ALAC_24 PCM_24 PCM_24 PCM_24 FLOAT FLOAT",
}


@pytest.mark.parametrize("file_format", EXPECTED)
def test_the_coding_of_the_output_follows_the_input(tmp_path: Path, file_format: str) -> None:
    words = EXPECTED[file_format].split()
    for given_subtype, expected in zip(words[::2], words[1::2], strict=True):
        assert output_subtype(file_format, given_subtype) == expected
        write(tmp_path / f"a.{file_format.lower()}", NOISE[:, :3000], expected)


def test_hours_take_the_memory_of_seconds(tmp_path: Path) -> None:
    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB

    block = np.tile(NOISE, (1, 8))  # 480000 samples
    write(tmp_path / "a.wav", block, "PCM_16", size=480000)
    before = peak()
    with AudioWriter(tmp_path / "b.wav", 48000, 2, "PCM_16") as writer:
        for _ in range(60):
            writer.write(block)
    with AudioReader(tmp_path / "b.wav") as reader:
        assert sum(b.shape[1] for b in reader.blocks(480000)) == 60 * 480000
    assert peak() - before < 30_000  # of 230 MB
