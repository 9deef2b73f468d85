"""Lengths in file headers: sizes that libsndfile ignores, and WAV files without a size."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

WIDTHS = {
    "PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8,
    "ALAW": 1, "ULAW": 1, "DPCM_8": 1, "DPCM_16": 2,
}  # bytes of a sample  # fmt: skip
_CHUNKS = 10_000  # upper limit of the chunks before the samples
_SLACK = 1 << 16  # bytes below 2 or 4 GiB in which a size means "unknown"
_LARGEST = 2**32 - 2**16  # bytes of samples in a WAV file without 64-bit sizes


class Span(io.RawIOBase):
    """Part of a file as a file of its own.

    Args:
        data: the file; its position changes.
        start: first byte.
        end: byte after the last one.
        header: bytes placed before the part.
    """

    def __init__(self, data: BinaryIO, start: int, end: int, header: bytes = b"") -> None:
        self._data, self._start, self._header = data, start, header
        self._end = len(header) + end - start
        self._place = 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in the part."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._end}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        """Return the position in the part."""
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read bytes of the header and of the part."""
        room = min(len(buffer), max(0, self._end - self._place))
        piece = self._header[self._place : self._place + room]
        if len(piece) < room:
            self._data.seek(self._start + self._place + len(piece) - len(self._header))
            piece += self._data.read(room - len(piece))
        memoryview(buffer).cast("B")[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)


def stated_samples(file_format: str, data: BinaryIO) -> tuple[int, int] | None:
    """Read the place and size of the samples from a header.

    Only for containers whose length libsndfile takes from the size of the file. The position of
    `data` changes.

    Args:
        file_format: container, by libsndfile's name.
        data: the file.

    Returns:
        First byte and number of bytes of the samples; None if the header does not state them.
    """
    read = _READERS.get(file_format)
    if read is None:
        return None
    try:
        place, size = read(data)
    except (struct.error, ValueError):
        return None
    return (place, size) if size > 0 else None


def _fields(data: BinaryIO, place: int, form: str) -> tuple[int, ...]:
    data.seek(place)
    return struct.unpack(form, data.read(struct.calcsize(form)))


def _avr(data: BinaryIO) -> tuple[int, int]:
    stereo, bits = _fields(data, 12, ">HH")
    (frames,) = _fields(data, 26, ">I")
    return 128, frames * (2 if stereo else 1) * (bits // 8)


def _mpc2k(data: BinaryIO) -> tuple[int, int]:
    (stereo,) = _fields(data, 21, "<B")
    (frames,) = _fields(data, 30, "<I")
    return 42, frames * 2 * (stereo + 1)


def _voc(data: BinaryIO) -> tuple[int, int]:
    (place,) = _fields(data, 20, "<H")
    for _ in range(_CHUNKS):
        kind, low, high = _fields(data, place, "<BHB")
        size = low | high << 16
        if kind in (1, 9):  # sound data, old and new
            header = 2 if kind == 1 else 12
            return place + 4 + header, size - header
        if kind == 0:  # end
            break
        place += 4 + size
    raise ValueError("no sound data")


def _xi(data: BinaryIO) -> tuple[int, int]:
    count, size = _fields(data, 296, "<HI")
    if count != 1:
        raise ValueError("several samples")
    return 338, size


def _wve(data: BinaryIO) -> tuple[int, int]:
    return 32, _fields(data, 18, ">I")[0]


def _mat4(data: BinaryIO) -> tuple[int, int]:
    order = "<" if _fields(data, 0, "<I")[0] < 5000 else ">"  # the type is MOPT, below 5000
    place = 0
    for _ in range(2):
        kind, rows, columns, _imaginary, name = _fields(data, place, f"{order}5I")
        first = place + 20 + name
        size = rows * columns * {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}[kind // 10 % 10]
        place = first + size
    return first, size


def _mat5(data: BinaryIO) -> tuple[int, int]:
    order = "<" if _fields(data, 126, "<H")[0] == 0x4D49 else ">"
    _, size = _fields(data, 128, f"{order}2I")
    place = 136 + size  # of the second matrix, which holds the samples
    parts = place + 8
    for _ in range(3):  # flags, dimensions, name
        kind, size = _fields(data, parts, f"{order}2I")
        parts += 8 if kind >> 16 else 8 + -(-size // 8) * 8
    return parts + 8, _fields(data, parts, f"{order}2I")[1]


def _w64(data: BinaryIO) -> tuple[int, int]:
    place = 40
    for _ in range(_CHUNKS):
        data.seek(place)
        name = data.read(4)
        (size,) = _fields(data, place + 16, "<Q")
        if name == b"data":
            return place + 24, size - 24
        if size < 24:
            break
        place += -(-size // 8) * 8
    raise ValueError("no data chunk")


def _svx(data: BinaryIO) -> tuple[int, int]:
    place = 12
    for _ in range(_CHUNKS):
        data.seek(place)
        name = data.read(4)
        (size,) = _fields(data, place + 4, ">I")
        if name == b"BODY":
            return place + 8, size
        place += 8 + size + size % 2
    raise ValueError("no BODY chunk")


def sds_samples(data: BinaryIO) -> int:
    """Count the samples in the packets of a MIDI sample dump, whose end libsndfile makes up.

    The position of `data` changes.
    """
    (bits,) = _fields(data, 6, "B")
    packets = (data.seek(0, io.SEEK_END) - 21) // 127
    return packets * (120 // max(1, -(-bits // 7)))  # 7 bits in a byte


_READERS = {
    "AVR": _avr, "MPC2K": _mpc2k, "VOC": _voc, "XI": _xi, "WVE": _wve, "MAT4": _mat4,
    "MAT5": _mat5, "W64": _w64, "SVX": _svx,
}  # fmt: skip


def walk_caf(data: BinaryIO, start: int, end: int) -> tuple[int, int]:
    """Find the samples of a CAF file, and the end of its chunks.

    Args:
        data: the file; its position changes.
        start: first byte of the file.
        end: byte after the last one.

    Returns:
        Place of the chunk of the samples, 0 without one, and the byte after the last chunk.
    """
    samples, place = 0, start + 8
    for _ in range(_CHUNKS):
        data.seek(place)
        head = data.read(12)
        if len(head) < 12 or head[:4] == b"caff" or not head[:4].isalnum():
            break
        size = int.from_bytes(head[4:], "big", signed=True)
        if head[:4] == b"data":
            samples = place
        elif size < 0 or place + 12 + size > end:
            break
        if size < 0:
            return samples, end
        place += 12 + size
    return samples, place


def sized(data: BinaryIO) -> Span | None:
    """Return a file whose header states no size with the header completed.

    Programs that write to a pipe cannot return to the header. They leave the size 0, or the
    largest number. The position of `data` changes.

    Returns:
        WAV, AIFF, AU, CAF or W64 with the true size; None for other files and for files that
        state their size.
    """
    end = data.seek(0, io.SEEK_END)
    data.seek(0)
    start = data.read(40)
    changes: dict[int, bytes] = {}
    first = 0  # byte of the samples
    if start[:4] in (b"RIFF", b"RF64"):
        return _sized_wav(data)
    if start[:4] == b".snd" and len(start) > 24:
        first = int.from_bytes(start[4:8], "big")
        size = int.from_bytes(start[8:12], "big")
        unknown = size == 0 or (_is_unknown(size) and first + size != end)
        if unknown and end - first < 2**32 - 1:
            changes = {8: struct.pack(">I", end - first)}
    elif start[:4] == b"caff":
        place, _ = walk_caf(data, 0, end)
        first = place + 12 if place else end
        data.seek(place + 4)
        size = int.from_bytes(data.read(8), "big", signed=True)
        data.seek(first)
        following = data.read(12)  # a chunk if there are no samples
        empty = size == 0 and following[:4].isalnum() and following[4:8] == bytes(4)
        if (size <= 0 or size >= 2**62) and not empty:
            changes = {place + 4: struct.pack(">q", end - first)}
    elif start[:16] == _W64:
        place, size = _chunk(data, 40, b"data", 16, "<Q", 24, 8)
        first = place + 24 if place else end
        if size <= 24 or size >= 2**62 or (_is_unknown(size) and place + size != end):
            changes = {16: struct.pack("<Q", end), place + 16: struct.pack("<Q", end - place)}
    elif start[:4] == b"FORM" and start[8:12] in (b"AIFF", b"AIFC"):
        place, size = _chunk(data, 12, b"SSND", 4, ">I", 0, 2)
        first = place + 16 if place else end
        unknown = size <= 8 or (_is_unknown(size) and place + 8 + size != end)
        if unknown and end - place < 2**32 - 9:
            changes = {4: struct.pack(">I", end - 8), place + 4: struct.pack(">I", end - place - 8)}
    if not changes or not 0 < first < min(end, _SLACK):
        return None
    data.seek(0)
    header = bytearray(data.read(first))
    for place, value in changes.items():
        header[place : place + len(value)] = value
    return Span(data, first, end, bytes(header))


_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"  # identifier of a W64 file


def _chunk(
    data: BinaryIO, place: int, name: bytes, before: int, form: str, header: int, multiple: int
) -> tuple[int, int]:
    """Find a chunk.

    Args:
        data: the file.
        place: first chunk.
        name: its first four bytes.
        before: bytes before its size.
        form: of its size.
        header: bytes of the chunk that the size includes, at least.
        multiple: of which all chunks are.

    Returns:
        Place and stated size; zeros without such a chunk.
    """
    for _ in range(_CHUNKS):
        data.seek(place)
        head = data.read(before + struct.calcsize(form))
        if len(head) < before + struct.calcsize(form):
            break
        (size,) = struct.unpack(form, head[before:])
        if head[:4] == name:
            return place, size
        if size < header:
            break
        place += -(-size // multiple) * multiple + (0 if header else 8)
    return 0, 0


def _sized_wav(data: BinaryIO) -> Span | None:
    """Return a WAV file whose header states no size with the header completed."""
    end = data.seek(0, io.SEEK_END)
    data.seek(0)
    start = data.read(12)
    if start[:4] not in (b"RIFF", b"RF64") or start[8:] != b"WAVE":
        return None
    place, long_size = 12, 0
    kept = []  # chunks before the samples
    for _ in range(_CHUNKS):
        data.seek(place)
        head = data.read(8)
        if len(head) < 8:
            return None
        name, (size,) = head[:4], struct.unpack("<I", head[4:])
        if name == b"data":
            break
        body = data.read(min(size + size % 2, _SLACK))
        if name == b"ds64" and len(body) >= 16:
            (long_size,) = struct.unpack("<Q", body[8:16])
        elif len(body) == size + size % 2:
            kept.append(head + body)
        place += 8 + size + size % 2
    else:
        return None
    first = place + 8
    there = end - first
    if start[:4] == b"RF64" and size == 0xFFFFFFFF:
        unknown = long_size == 0 or long_size >= 2**62 or _is_unknown(long_size)
        unknown = unknown and long_size != there
    else:
        unknown = size == 0 and not _ends_in_chunks(data, first, end)
        unknown = unknown or (_is_unknown(size) and size != there)
    if there <= 0 or not unknown:
        return None
    chunks = b"".join(kept)
    if there < _LARGEST:
        total = struct.pack("<I", 12 + len(chunks) + there)
        header = b"RIFF" + total + b"WAVE" + chunks + b"data" + struct.pack("<I", there)
    else:
        sizes = struct.pack("<4sI3QI", b"ds64", 28, 48 + len(chunks) + there, there, 0, 0)
        unset = b"\xff\xff\xff\xff"
        header = b"RF64" + unset + b"WAVE" + sizes + chunks + b"data" + unset
    return Span(data, first, end, header)


def _is_unknown(size: int) -> bool:
    """Return true for sizes just below 2 or 4 GiB, which programs write for "unknown"."""
    return any(limit - _SLACK <= size < limit for limit in (2**31, 2**32))


def _ends_in_chunks(data: BinaryIO, place: int, end: int) -> bool:
    """Return true if nothing but whole chunks follows: the recording is empty."""
    for _ in range(_CHUNKS):
        if place >= end:
            return True
        data.seek(place)
        head = data.read(8)
        if len(head) < 8 or not head[:4].isascii() or not head[:4].decode().isprintable():
            return False
        place += 8 + struct.unpack("<I", head[4:])[0]
        place += place % 2
    return False
