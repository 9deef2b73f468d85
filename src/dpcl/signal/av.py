"""Audio from films, phones and other files that libsndfile does not read, with PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dpcl.errors import InputError, missing_package

SUFFIXES = frozenset(
    (
        ".3g2",
        ".3gp",
        ".aac",
        ".ac3",
        ".amr",
        ".ape",
        ".asf",
        ".avi",
        ".awb",
        ".dsf",
        ".dts",
        ".eac3",
        ".f4v",
        ".flv",
        ".m2ts",
        ".m4a",
        ".m4b",
        ".m4v",
        ".mka",
        ".mkv",
        ".mov",
        ".mp2",
        ".mp4",
        ".mpc",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogv",
        ".oma",
        ".qcp",
        ".ra",
        ".rm",
        ".spx",
        ".tak",
        ".tta",
        ".ts",
        ".vob",
        ".weba",
        ".webm",
        ".wma",
        ".wmv",
        ".wv",
    )
)  # of files that need PyAV
_MAGIC = (
    (4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (4, b"free"), (0, b"\x1aE\xdf\xa3"),
    (0, b"#!AMR"), (0, b"0&\xb2u\x8ef\xcf\x11"), (0, b"FLV\x01"), (0, b"wvpk"), (0, b"MAC "),
    (0, b"TTA1"), (0, b"tBaK"), (0, b"MPCK"), (0, b"MP+"), (0, b"DSD "), (0, b".RMF"),
    (8, b"AVI "), (0, b"\x00\x00\x01\xba"), (0, b"\x0bw"),
)  # place and bytes that identify such files  # fmt: skip

# Demuxers that read one file. Playlists (hls, concat, dash, sdp) could open others, and demuxers of
# raw samples accept any file.
DEMUXERS = (
    "aac,ac3,adts,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,gsm,gxf,iff,"
    "loas,matroska,webm,mlp,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nsv,"
    "nut,ogg,oma,qcp,rm,tak,truehd,tta,voc,w64,wav,wtv,wv,xwma"
)
_SCALES = {"u8": 2.0**-7, "s16": 2.0**-15, "s32": 2.0**-31, "s64": 2.0**-63}  # full scale to ±1
_SUBTYPES = {"u8": "PCM_U8", "s16": "PCM_16", "s32": "PCM_32", "flt": "FLOAT", "dbl": "DOUBLE"}
_LOSSLESS = ("pcm_", "flac", "alac", "wavpack", "ape", "tta", "tak", "mlp", "truehd")
_TOLERANCE = 0.5  # s between stated and true length: containers round, and count padding


def looks_like(name: str, start: bytes) -> bool:
    """Return true for files that need PyAV, by their name or their first 16 bytes."""
    if any(name.lower().endswith(suffix) for suffix in SUFFIXES):
        return True
    return any(start[place : place + len(magic)] == magic for place, magic in _MAGIC)


def available() -> bool:
    """Return true if PyAV is installed."""
    return find_spec("av") is not None


def not_installed(name: str) -> InputError:
    """Return the error for a recording that needs PyAV."""
    return missing_package("av", f"{name}: reading this format needs", "av")


class AVDecoder:
    """Decoder of the best audio stream of a file.

    Damaged packets are skipped and counted.

    Args:
        data: the file, read from its beginning.

    Attributes:
        samplerate: in Hz.
        channels: number of channels.
        format: container, by FFmpeg's name.
        subtype: coding, by libsndfile's name for PCM and floats, else by FFmpeg's ("AAC").
        stated: number of samples per channel that the container states; None if it does not.
        damaged: number of packets that could not be decoded so far.
        changed: true after a change of the sample rate or channels, which ends the samples.
        omitted: number of other audio streams of the file.
        tags: metadata by name.

    Raises:
        ValueError: the file holds no audio that FFmpeg decodes.
    """

    def __init__(self, data: BinaryIO) -> None:
        av: Any = import_module("av")
        av.logging.set_level(None)
        self._errors = (av.error.FFmpegError, ValueError, OSError, EOFError)
        data.seek(0)
        try:
            self._container: Any = av.open(
                _Unnamed(data),
                "r",
                metadata_errors="replace",
                options={"format_whitelist": DEMUXERS, "protocol_whitelist": "none"},
            )
        except self._errors as error:
            raise ValueError(_reason(error)) from error
        try:
            stream = self._container.streams.best("audio")
            if stream is None:
                raise ValueError("no audio in it")
            self._stream: Any = stream
            self._stream.thread_type = "NONE"
            self.damaged = 0
            self.changed = False
            self.omitted = len(self._container.streams.audio) - 1
            self._frames = self._decoded()
            first = next(self._frames, None)
            if first is None:
                raise ValueError("none of its audio can be decoded")
            self._waiting = first  # (n, channels)
        except self._errors as error:
            self._container.close()
            raise ValueError(_reason(error)) from error
        codec = stream.codec_context
        self.samplerate, self.channels = self._shape
        self.format = self._container.format.name.split(",")[0].upper()
        self.subtype = _subtype(codec.name, codec.format.name)
        self.stated = self._stated()
        self.tags = {
            key.lower(): value
            for key, value in {**self._container.metadata, **stream.metadata}.items()
        }

    def read(self, *, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fill `out` (n, channels); return its filled part."""
        n = 0
        while n < len(out):
            if not len(self._waiting):
                following = next(self._frames, None)
                if following is None:
                    break
                self._waiting = following
            piece = self._waiting[: len(out) - n]
            out[n : n + len(piece)] = piece
            self._waiting = self._waiting[len(piece) :]
            n += len(piece)
        return out[:n]

    def close(self) -> None:
        """Close the container; the file that was given stays open."""
        self._container.close()

    def _decoded(self) -> Iterator[NDArray[np.float32]]:
        """Yield samples (n, channels) of one frame after the other."""
        av: Any = import_module("av")
        shape: tuple[int, int] | None = None
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except av.error.EOFError:
                return
            except av.error.InvalidDataError:
                self.damaged += 1
                continue
            except self._errors:  # the demuxer cannot continue
                self.damaged += 1
                return
            if packet is None:
                return
            for frame in frames:
                samples = _samples(frame)
                if shape is None:
                    shape = self._shape = (int(frame.sample_rate), samples.shape[1])
                if shape != (frame.sample_rate, samples.shape[1]):
                    self.changed = True
                    return
                yield samples

    def _stated(self) -> int | None:
        stream, container = self._stream, self._container
        if container.format.name.split(",")[0] in _GUESSING:
            return None
        seconds = None
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        elif "DURATION" in stream.metadata:
            seconds = _clock(stream.metadata["DURATION"])
        elif container.duration is not None and len(container.streams) == 1:
            seconds = container.duration / 1e6
        if seconds is None or seconds <= _TOLERANCE:
            return None
        return round((seconds - _TOLERANCE) * self.samplerate)


# Demuxers that guess the length from the size.
_GUESSING = ("aac", "amr", "amrnb", "amrwb", "mp3", "mpegts", "mpeg", "ac3", "eac3", "dts", "loas")


class _Unnamed:
    """A file without its name, so that FFmpeg judges by the bytes alone."""

    def __init__(self, data: BinaryIO) -> None:
        self._data = data
        self.read, self.tell = data.read, data.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek; -1 for a place that damaged headers name, before the beginning.

        PyAV prints the traceback of an exception that FFmpeg does not report.
        """
        try:
            return self._data.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1


def _samples(frame: Any) -> NDArray[np.float32]:
    """Return the samples (n, channels) of a frame as float32."""
    kind = frame.format.name.rstrip("p")
    channels = len(frame.layout.channels)
    array: NDArray[Any] = frame.to_ndarray()
    samples: NDArray[Any] = array.T if frame.format.is_planar else array.reshape(-1, channels)
    if kind not in _SCALES:
        return np.asarray(samples, np.float32)
    centred = samples.astype(np.float64) - (128 if kind == "u8" else 0)
    return np.asarray(centred * _SCALES[kind], np.float32)


def _subtype(codec: str, sample_format: str) -> str:
    if not codec.startswith(_LOSSLESS) or codec in ("pcm_alaw", "pcm_mulaw"):
        return codec.upper()
    kind = sample_format.rstrip("p")
    if kind == "s32" and "24" in codec:
        return "PCM_24"
    return _SUBTYPES.get(kind, "PCM_16")


def _clock(text: str) -> float | None:
    """Return the seconds of a time such as 00:01:02.5."""
    try:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return "damaged, cut off or not audio" if text.startswith("Invalid data") else text
