"""MP3 whose length is not stated: libsndfile guesses it from the size, and stops there."""

from __future__ import annotations

import io
from typing import BinaryIO

_FRAME = 1152  # samples, and more bytes than the table takes
_LONGER = 64  # times; one recording's bit rates lie between 8 and 320 kbit/s
_TAG = 128  # bytes of an ID3v1 tag


def states_its_length(data: BinaryIO) -> bool:
    """Whether the first MPEG frame holds a table with the number of frames.

    Leaves `data` where it was: a decoder may be reading it.
    """
    place = data.tell()
    data.seek(0)
    start = data.read(10)
    if start[:3] == b"ID3":  # its size is written in four times seven bits
        size = sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(start[6:]))
        data.seek(10 + size)
    else:
        data.seek(0)
    first = data.read(_FRAME)
    data.seek(place)
    return any(table in first for table in (b"Xing", b"Info", b"VBRI"))


class UnmeasuredMP3(io.RawIOBase):
    """`data`, made to look longer than it is, so that the guess never ends before the music does.

    The guess takes the first frame's bit rate for all: of a recording that begins with silence
    too many samples, which does no harm, but of one that begins loudly as little as a quarter.
    """

    def __init__(self, data: BinaryIO) -> None:
        self._data = data
        self._end = _LONGER * data.seek(0, io.SEEK_END)
        self._place = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._end}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._place >= self._end - _TAG:  # a tag is looked for there before anything else
            buffer[:] = bytes(len(buffer))
            count = len(buffer)
        else:
            self._data.seek(self._place)
            piece = self._data.read(len(buffer))
            count = len(piece)
            buffer[:count] = piece
        self._place += count
        return count
