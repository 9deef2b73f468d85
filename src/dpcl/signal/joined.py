"""Decoders of libsndfile, and of several recordings in one file, read as one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from dpcl.signal import av
from dpcl.signal.formats import (
    MP3_FRAME,
    UnmeasuredMP3,
    mpg123_silenced,
    promised_frames,
    states_its_length,
)
from dpcl.signal.headers import Span


class Decoder(Protocol):
    """An open file: a SoundFile, or a decoder of the same methods."""

    samplerate: int
    channels: int
    format: str
    subtype: str

    def read(self, *, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fill `out` (n, channels); return its filled part."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def tags_of(file: object) -> dict[str, str]:
    """Return the metadata of an open file, by name."""
    return dict(file.copy_metadata()) if isinstance(file, soundfile.SoundFile) else {}


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """Sound file that is only read from the beginning to the end.

    SoundFile seeks to its own position after each block, which makes Opus decode other samples.
    """

    def seekable(self) -> bool:
        """Return false."""
        return False


def open_with_libsndfile(data: BinaryIO, path: Path | None = None) -> Decoder:
    """Open a recording with libsndfile.

    Args:
        data: the file.
        path: its name, which some containers need; None if it has none.

    Raises:
        soundfile.SoundFileError: libsndfile does not read it.
    """
    # Path encoded as the system does, since names need not be UTF-8.
    file = _Forward(data if path is None else os.fsencode(path))
    if file.format == "MP3" and not states_its_length(data):
        file.close()
        file = _Forward(UnmeasuredMP3(data))
    if file.subtype == "OPUS":
        with suppress(soundfile.SoundFileError):
            file.seek(0)  # only then libsndfile omits the samples before the start
    decoder: Decoder = file
    return decoder


class _Part(NamedTuple):
    """One of several recordings in a file."""

    file: Decoder
    stated: int  # number of samples that it states, at least; 0 if it does not
    limit: int  # number of samples after which only other bytes follow


def _opened(data: BinaryIO) -> _Part | None:
    """Open one of several recordings in a file; None if it cannot be read."""
    data.seek(0)
    try:
        file = open_with_libsndfile(data)
    except soundfile.SoundFileError:
        try:
            if not av.available():
                return None
            coded = av.AVDecoder(data)
        except (ValueError, OSError):
            return None
        return _Part(coded, coded.stated or 0, sys.maxsize)
    place = data.tell()
    stated = promised_frames(file, data)
    data.seek(place)  # where the decoder was
    if file.format == "OGG" and stated is None:  # its last page is missing
        return _Part(file, sys.maxsize, sys.maxsize)
    if stated is None or file.format == "MP3":
        return _Part(file, max(0, (stated or 0) - 2 * MP3_FRAME), sys.maxsize)
    return _Part(file, stated, stated)


class Joined:
    """Decoder of several recordings in one file, read as one.

    Recordings of another sample rate or number of channels are omitted.

    Args:
        data: the file.
        places: bytes of the recordings, as dpcl.signal.spans finds them.

    Attributes:
        tags: metadata of the first recording.
        omitted: number of recordings that were not read, valid after the last sample.
        cut_off: true if one of the recordings was shorter than it states.

    Raises:
        ValueError: the first recording cannot be read.
    """

    def __init__(self, data: BinaryIO, places: Sequence[tuple[int, int]]) -> None:
        self._spans = [Span(data, *place) for place in places]
        part = _opened(self._spans.pop(0))  # type: ignore[arg-type]
        if part is None:
            raise ValueError("the first of several recordings cannot be read")
        self._part = part
        self._read = 0
        self.samplerate, self.channels = part.file.samplerate, part.file.channels
        self.format, self.subtype = part.file.format, part.file.subtype
        self.tags = part.file.tags if isinstance(part.file, av.AVDecoder) else tags_of(part.file)
        self.omitted = 0
        self.cut_off = False

    def read(self, *, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fill `out` (n, channels); return its filled part."""
        n = 0
        while n < len(out):
            wanted = out[n:][: self._part.limit - self._read]
            try:
                got = len(self._part.file.read(out=wanted)) if len(wanted) else 0
            except soundfile.SoundFileError:  # damaged: the next recording follows
                self.cut_off, got = True, 0
            n, self._read = n + got, self._read + got
            if got and got == len(wanted):
                continue
            self.cut_off |= self._read < self._part.stated
            if not self._next():
                break
        return out[:n]

    def _next(self) -> bool:
        """Open the next recording of the same rate and channels; return false without one."""
        while self._spans:
            with mpg123_silenced():
                part = _opened(self._spans.pop(0))  # type: ignore[arg-type]
            shape = part and (part.file.samplerate, part.file.channels)
            if part and shape == (self.samplerate, self.channels):
                self._part.file.close()
                self._part, self._read = part, 0
                return True
            if part:
                part.file.close()
            self.omitted += 1
        self._part = self._part._replace(stated=0, limit=self._read)  # has ended
        return False

    def close(self) -> None:
        """Close the recording that is open."""
        self._part.file.close()
