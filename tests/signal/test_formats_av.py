"""Films, telephones and other files that FFmpeg reads through PyAV."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dpcl.errors import InputError
from dpcl.signal import av as module
from dpcl.signal.audio import read_audio
from dpcl.signal.reader import AudioReader

av: Any = pytest.importorskip("av")

# name, encoder, container, sample rate, coding, samples that an encoder may add at either end
KINDS = [
    ("a.m4a", "aac", "ipod", 48000, "AAC", 3000),
    ("a.mp4", "aac", "mp4", 44100, "AAC", 3000),
    ("alac.m4a", "alac", "ipod", 44100, "PCM_16", 0),
    ("a.mov", "pcm_s24le", "mov", 48000, "PCM_24", 0),
    ("a.mkv", "libopus", "matroska", 48000, "OPUS", 3000),
    ("a.webm", "libopus", "webm", 48000, "OPUS", 3000),
    ("a.amr", "libopencore_amrnb", "amr", 8000, "AMRNB", 400),
    ("a.3gp", "libopencore_amrnb", "3gp", 8000, "AMRNB", 400),
    ("a.wma", "wmav2", "asf", 44100, "WMAV2", 6000),
    ("a.aac", "aac", "adts", 48000, "AAC", 3000),
    ("a.avi", "ac3", "avi", 48000, "AC3", 3000),
    ("a.ts", "aac", "mpegts", 48000, "AAC", 3000),
    ("a.wv", "wavpack", "wv", 48000, "PCM_16", 0),
    ("a.tta", "tta", "tta", 48000, "PCM_16", 0),
]
IDS = [kind[0] for kind in KINDS]
Encode = Callable[..., Path]


@pytest.fixture(scope="module")
def encode(tmp_path_factory: pytest.TempPathFactory) -> Encode:
    """A tone that becomes louder, 3 s of it, as PyAV writes it."""

    def write(name: str, codec: str, container: str, rate: int, channels: int = 1) -> Path:
        path = tmp_path_factory.mktemp("av") / name
        layout = "mono" if channels == 1 else "stereo"
        samples = (tone(rate, channels) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples.T.reshape(1, -1)), format="s16", layout=layout
        )
        frame.sample_rate = rate
        with av.open(str(path), "w", format=container) as file:
            file.metadata["title"] = "Größe"
            wanted = av.Codec(codec, "w").audio_formats
            kinds = [kind.name for kind in wanted]
            stream = file.add_stream(codec, rate=rate, layout=layout)
            for kind in ("s16", "s16p", *kinds):
                if kind in kinds:
                    stream.codec_context.format = av.AudioFormat(kind)
                    break
            if codec == "wmav2":
                stream.codec_context.bit_rate = 64_000
            stream.codec_context.open()
            resampler = av.AudioResampler(
                format=stream.codec_context.format.name,
                layout=layout,
                rate=rate,
                frame_size=stream.codec_context.frame_size or 1024,
            )
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                file.mux(stream.encode(part))
            file.mux(stream.encode(None))
        return path

    return write


def tone(rate: int, channels: int = 1) -> np.ndarray:
    """Return (channels, 3 s); the channels differ in level."""
    t = np.arange(3 * rate) / rate
    levels = np.array([[0.5], [0.25]])[:channels]
    return levels * np.sin(2 * np.pi * 440 * t) * t / 3


def collected(reader: AudioReader) -> np.ndarray:
    return np.concatenate(list(reader.blocks(7000)), axis=1)


@pytest.mark.parametrize(
    ("name", "codec", "container", "rate", "subtype", "padding"), KINDS, ids=IDS
)
def test_what_libsndfile_lacks_is_read(
    encode: Encode, name: str, codec: str, container: str, rate: int, subtype: str, padding: int
) -> None:
    path = encode(name, codec, container, rate)
    for source in (path, path.read_bytes()):
        with AudioReader(source) as reader:
            assert (reader.sample_rate, reader.channels, reader.subtype) == (rate, 1, subtype)
            first, second = collected(reader), collected(reader)
            assert not reader.cut_off and not reader.notes
    np.testing.assert_array_equal(first, second)
    least = 3 * rate - (2048 if codec == "wmav2" else 0)  # that encoder drops the end
    assert least <= first.shape[1] <= 3 * rate + padding
    expected = tone(rate)[0]
    if not padding:
        np.testing.assert_allclose(first[0], expected, atol=2**-14)
    else:  # the level, since codecs delay and shift phases
        half = rate // 2
        for k in range(1, 5):
            part = slice(k * half, (k + 1) * half)
            level, wanted = np.std(first[0, part]), np.std(expected[part])
            assert level == pytest.approx(wanted, rel=0.35)


def test_channels_stay_apart(encode: Encode) -> None:
    samples, rate = read_audio(encode("a.m4a", "aac", "ipod", 48000, 2))
    assert rate == 48000 and samples.shape[0] == 2
    assert np.std(samples[1]) == pytest.approx(np.std(samples[0]) / 2, rel=0.05)


def test_metadata_is_read(encode: Encode) -> None:
    with AudioReader(encode("a.m4a", "aac", "ipod", 48000)) as reader:
        assert reader.tags["title"] == "Größe"


@pytest.mark.parametrize("name", ["a.mkv", "a.amr", "a.tta", "a.wv", "a.aac"])
def test_what_is_there_of_a_cut_off_file_is_read_and_said(encode: Encode, name: str) -> None:
    kind = KINDS[IDS.index(name)]
    data = encode(*kind[:4]).read_bytes()
    with AudioReader(data[: len(data) // 2]) as reader:
        samples = collected(reader)
        assert reader.cut_off
        assert 0.8 * kind[3] < samples.shape[1] < 2.4 * kind[3]


@pytest.mark.parametrize("kind", [("CAF", "PCM_16"), ("VOC", "PCM_U8"), ("OGG", "OPUS")])
def test_a_file_that_libsndfile_refuses_as_malformed_is_not_taken_for_whole(
    kind: tuple[str, str],
) -> None:
    file = io.BytesIO()
    soundfile.write(file, tone(48000)[0], 48000, format=kind[0], subtype=kind[1])
    data = file.getvalue()
    for part in (0.5, 0.9):
        try:
            with AudioReader(data[: int(part * len(data))]) as reader:
                collected(reader)
                assert reader.cut_off
        except InputError as error:
            assert "malformed" in str(error)


def test_a_film_whose_index_is_missing_is_one_sentence(encode: Encode, tmp_path: Path) -> None:
    path = encode("a.mp4", "aac", "mp4", 44100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"a\.mp4 cannot be read as audio \(damaged, cut off"):
        AudioReader(path)


def test_damaged_packets_are_counted(encode: Encode) -> None:
    path = encode("a.mkv", "libopus", "matroska", 48000)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(1000, len(data) - 1000, 40):
        data[place] ^= 0xFF
    with AudioReader(bytes(data)) as reader:
        assert collected(reader).shape[1] > 0


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nfile://{path}\n",
        "ffconcat version 1.0\nfile {path}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    ],
    ids=["HLS", "concat", "SDP"],
)
@pytest.mark.parametrize("name", ["list.m4a", "list.txt"])
def test_a_list_opens_no_other_file(encode: Encode, tmp_path: Path, text: str, name: str) -> None:
    path = encode("a.ts", "aac", "mpegts", 48000)
    (tmp_path / name).write_text(text.format(path=path))
    with pytest.raises(InputError, match=f"{name} cannot be read as audio"):
        AudioReader(tmp_path / name)


def test_random_bytes_are_no_audio() -> None:
    rng = np.random.default_rng(0)
    for data in (bytes(5000), rng.bytes(5000), b"hello\n" * 999, b"\x1aE\xdf\xa3" + rng.bytes(500)):
        with pytest.raises(InputError, match="cannot be read as audio"):
            AudioReader(data)


@pytest.mark.parametrize("name", ["a.m4a", "a.amr"])
def test_without_pyav_the_error_names_the_command(
    encode: Encode, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = encode(*KINDS[IDS.index(name)][:4])
    monkeypatch.setattr(module, "available", lambda: False)
    for source in (path, io.BytesIO(path.read_bytes())):
        with pytest.raises(InputError) as caught:
            AudioReader(source)
        assert 'install it with `pip install "dpcl[av]"`' in str(caught.value)
    with pytest.raises(InputError, match=r"cannot be read as audio \(Format not recognised\)"):
        AudioReader(b"hello\n" * 99)


def test_other_tracks_of_a_film_are_not_omitted_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        streams = [file.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(3)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.ones((1, 800), np.int16), "s16", "mono")
            frame.rate = 8000
            file.mux([*stream.encode(frame), *stream.encode(None)])
    with AudioReader(path) as reader:
        assert collected(reader).shape == (1, 800)
        (note,) = reader.notes
        assert "holds 2 more audio tracks, which are omitted" in note


def test_samples_before_the_start_of_opus_are_no_sound(tmp_path: Path) -> None:
    samples = np.sin(np.arange(96000) / 20).astype(np.float32)
    path = tmp_path / "a.opus"
    with av.open(str(path), "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], "flt", "mono")
        frame.sample_rate = 48000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    with AudioReader(path) as reader:
        found = np.concatenate(list(reader.blocks(7000)), -1)[0]
    np.testing.assert_array_equal(found, soundfile.read(path, dtype="float32")[0])
    assert len(found) == 96000
