"""Files of several recordings one after the other, such as MP3 files joined with `cat`."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from dpcl.signal.headers import Span

_MP3_LEAST = 1 << 14  # bytes after the stated end that are more than a remainder of the recording
_FLAC = b"fLaC\x00\x00\x00\x22"  # start of a file; the first block has 34 bytes
_BLOCK = 1 << 20  # bytes searched at once
_TAG = 128  # bytes of an ID3v1 tag
_BOXES = 10_000  # upper limit of the boxes of an MP4 file
# Beginnings of recordings, which samples do not hold by chance.
_BEGINNING = re.compile(
    rb"R(?:IFF|F64)....WAVE|fLaC\x00\x00\x00\x22|OggS\x00\x02|FORM....AIF[FC]|caff\x00\x01"
    rb"|\.snd\x00\x00..|riff\x2e\x91\xcf\x11|....ftyp[\w ]{4}",
    re.DOTALL,
)


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


def spans(data: BinaryIO) -> list[tuple[int, int]]:
    """Find the recordings in an Ogg, MP3, FLAC or WAV file.

    Args:
        data: the file; its position changes.

    Returns:
        First byte of each recording and the byte after its last one; empty for one recording.
    """
    data.seek(0)
    start = data.read(4)
    find = {b"OggS": _ogg_starts, b"fLaC": _flac_starts, b"RIFF": _wav_starts}.get(start)
    if start[:3] == b"ID3" or (len(start) == 4 and start[0] == 0xFF and start[1] >= 0xE0):
        find = _mp3_starts
    if find is None:
        return []
    end = data.seek(0, io.SEEK_END)
    starts = find(data, end)
    return [*zip(starts, [*starts[1:], end], strict=True)] if len(starts) > 1 else []


def another_recording(data: BinaryIO, place: int) -> int:
    """Return the number of bytes from the next beginning of a recording; 0 without one.

    Args:
        data: the file; its position changes.
        place: first byte where it may begin.
    """
    end = data.seek(0, io.SEEK_END)
    while place < end:
        data.seek(place)
        found = _BEGINNING.search(data.read(_BLOCK + 16))
        if found:
            return end - place - found.start()
        place += _BLOCK
    return 0


def mp4_end(data: BinaryIO) -> int:
    """Return the byte after the boxes of the first MP4 recording in a file.

    Args:
        data: the file; its position changes.
    """
    end = data.seek(0, io.SEEK_END)
    place = 0
    for _ in range(_BOXES):
        data.seek(place)
        head = data.read(16)
        if len(head) < 16 or (place and head[4:8] == b"ftyp"):
            return place
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:], "big") if size == 1 else size
        if size < 8 or place + size >= end:
            break
        place += size
    return end


def _ogg_starts(data: BinaryIO, end: int) -> list[int]:
    """Find pages that begin a stream after pages of another (RFC 3533, section 4)."""
    starts: list[int] = []
    place, beginning, previous = 0, False, 0
    while place < end:
        data.seek(place)
        head = data.read(27 + 255)
        size = 27 + head[26] + sum(head[27 : 27 + head[26]]) if len(head) > 26 else 0
        if head[:4] == b"OggS":
            previous = place
            if size:
                first = bool(head[5] & 2)
                if first and not beginning:
                    starts.append(place)
                beginning = first
                if size <= end - place:
                    place += size
                    continue
        # The page may be cut off, and contain the beginning of the next recording.
        following = _find(data, b"OggS", previous + 1, min(end, place + _BLOCK))
        if following is None:
            break
        place = following
    return starts


def _flac_starts(data: BinaryIO, end: int) -> list[int]:
    starts: list[int] = []
    found = _find(data, _FLAC, 0, end)
    while found is not None:
        starts.append(found)
        found = _find(data, _FLAC, found + len(_FLAC), end)
    return starts


def _wav_starts(data: BinaryIO, end: int) -> list[int]:
    starts = [0]
    while True:
        data.seek(starts[-1] + 4)
        size = int.from_bytes(data.read(4), "little")
        following = starts[-1] + 8 + size + size % 2
        data.seek(following)
        head = data.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return starts
        starts.append(following)


def _mp3_starts(data: BinaryIO, end: int) -> list[int]:
    """Find recordings after the end that the table of the previous one states."""
    starts = [0]
    while True:
        stated = mp3_end(data, starts[-1])
        if stated is None:
            return starts
        following = after_tags(data, stated)
        if following <= starts[-1]:  # a damaged table that states no bytes
            return starts
        data.seek(following)
        head = data.read(64)
        tagged = head[:3] == b"ID3" or any(table in head for table in (b"Xing", b"Info"))
        frame = len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0
        if not tagged and not (frame and end - following >= _MP3_LEAST):
            return starts
        starts.append(following)


def mp3_end(data: BinaryIO, start: int) -> int | None:
    """Return the end of an MP3 recording according to the table in its first frame.

    Args:
        data: the file; its position changes.
        start: first byte of the recording.
    """
    data.seek(start)
    place = start + id3_size(data.read(10))
    data.seek(place)
    head = data.read(64)
    for table in (b"Xing", b"Info"):
        at = head.find(table)
        if at > 0 and len(head) >= at + 16 and head[at + 7] & 3 == 3:  # frames and bytes
            return place + int.from_bytes(head[at + 12 : at + 16], "big")
    return None


def id3_size(start: bytes) -> int:
    """Return the size of the ID3v2 tag that begins with these 10 bytes; 0 for none."""
    if start[:3] != b"ID3" or len(start) < 10:
        return 0
    size = sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(start[6:10]))
    return 10 + size + (10 if start[5] & 0x10 else 0)


def after_tags(data: BinaryIO, place: int) -> int:
    """Return the first byte after the ID3v1 and APE tags at `place`."""
    for _ in range(4):
        data.seek(place)
        head = data.read(32)
        if head[:3] == b"TAG":
            place += _TAG
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            place += 32 + int.from_bytes(head[12:16], "little")
        else:
            break
    return place


def _find(data: BinaryIO, pattern: bytes, place: int, end: int) -> int | None:
    """Return the first place of a pattern from `place` on."""
    while place < end:
        data.seek(place)
        block = data.read(_BLOCK + len(pattern) - 1)
        at = block.find(pattern)
        if at >= 0:
            return place + at
        if len(block) < _BLOCK:
            return None
        place += _BLOCK
    return None


class Joined:
    """Decoder of several recordings in one file, read as one.

    A recording of another sample rate or number of channels ends it.

    Args:
        data: the file.
        places: bytes of the recordings, as `spans` finds them.
        decoder: opens one recording, and returns the number of samples that it states, if any.

    Attributes:
        tags: metadata of the first recording.
        omitted: number of recordings that were not read, valid after the last sample.
        cut_off: true if one of the recordings was shorter than it states.
    """

    def __init__(
        self,
        data: BinaryIO,
        places: Sequence[tuple[int, int]],
        decoder: Callable[[BinaryIO], tuple[Decoder, int | None]],
    ) -> None:
        self._spans = [Span(data, *place) for place in places]
        self._open = decoder
        self._file, self._stated = decoder(self._next())
        self._read = 0
        self.samplerate, self.channels = self._file.samplerate, self._file.channels
        self.format, self.subtype = self._file.format, self._file.subtype
        self.tags = tags_of(self._file)
        self.omitted = 0
        self.cut_off = False

    def _next(self) -> BinaryIO:
        return self._spans.pop(0)  # type: ignore[return-value]

    def read(self, *, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fill `out` (n, channels); return its filled part."""
        n = 0
        while True:
            got = len(self._file.read(out=out[n:]))
            n, self._read = n + got, self._read + got
            if n == len(out) or self.omitted:
                return out[:n]
            self.cut_off |= self._stated is not None and self._read < self._stated
            if not self._spans:
                return out[:n]
            self._file.close()
            self._file, self._stated = self._open(self._next())
            self._read = 0
            if (self._file.samplerate, self._file.channels) != (self.samplerate, self.channels):
                self.omitted = len(self._spans) + 1
                return out[:n]

    def close(self) -> None:
        """Close the recording that is open."""
        self._file.close()
