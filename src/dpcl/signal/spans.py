"""Find where recordings begin in a file that holds several, of one container or of many."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import BinaryIO

from dpcl.signal.headers import Span, walk_caf

_BLOCK = 1 << 20  # bytes searched at once
_HEAD = 64  # bytes that contain a mark, at most
_MP3_LEAST = 1 << 12  # bytes after the stated end that are more than a remainder of the recording
_CHAIN = 3  # MP3 frames in a row that samples do not hold by chance
_MOST = 10_000  # upper limit of recordings in a file, and of the boxes of an MP4 file
_TAG = 128  # bytes of an ID3v1 tag
_KBPS = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # of MPEG 1, layer III
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # of MPEG 2 and 2.5
)
_RATES = (44100, 48000, 32000)  # Hz, of MPEG 1

# Beginnings of recordings, which samples do not hold by chance: bytes that are searched, their
# distance from the beginning, and the pattern there.
_MARKS = tuple(
    (mark, before, re.compile(pattern, re.DOTALL))
    for mark, before, pattern in (
        (b"WAVE", 8, rb"R(?:IFF|F64)....WAVE"),
        (b"fLaC\0\0\0\x22", 0, rb"fLaC"),  # the first block has 34 bytes
        (b"OggS\0\2", 0, rb"OggS"),
        (b"FORM", 0, rb"FORM....(?:AIF[FC]|8SVX|16SV)"),
        (b"caff\0\1", 0, rb"caff"),
        (b".snd\0\0", 0, rb"\.snd\0\0[\0-\x0f].{5}\0\0\0[\1-\x1b]"),
        (b"riff\x2e\x91\xcf\x11", 0, rb"riff"),
        (b"NIST_1A\n", 0, rb"NIST_1A\n *\d+\n"),
        (b"ftyp", 4, rb"\0...ftyp[\w ]{4}"),
    )
)
_TABLE = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]..(?:.{9}|.{17}|.{32})\Z", re.DOTALL)
_ID3 = re.compile(rb"ID3[\2-\4][\0-\x10].[\0-\x7f]{4}", re.DOTALL)


def spans(data: BinaryIO) -> list[tuple[int, int]]:
    """Find the recordings in a file of several, such as one made with `cat`.

    Args:
        data: the file; its position changes.

    Returns:
        First byte of each recording and the byte after its last one; empty for one recording.
    """
    end = data.seek(0, io.SEEK_END)
    starts = [0]
    while len(starts) < _MOST:
        following = _following(data, starts[-1], end)
        if following is None or following <= starts[-1]:
            break
        starts.append(following)
    return [*zip(starts, [*starts[1:], end], strict=True)] if len(starts) > 1 else []


def next_beginning(data: BinaryIO, place: int, end: int) -> int | None:
    """Return the first place from `place` on where a recording begins; None without one.

    Args:
        data: the file; its position changes.
        place: first byte where it may begin.
        end: byte after the last one that is searched.
    """
    while place < end:
        data.seek(place)
        block = data.read(min(_BLOCK, end - place) + _HEAD)
        found = [at for at in (*map(_marked(block), _MARKS), _table(block)) if at is not None]
        tag = block.find(b"ID3")
        while tag >= 0 and (not found or tag < min(found)):
            if _ID3.match(block, tag):
                after = place + tag + id3_size(block[tag : tag + 10])
                if _is_mp3(data, after) or _begins(data, after):
                    found.append(tag)
            tag = block.find(b"ID3", tag + 1)
        if found and min(found) < end - place:
            return place + min(found)
        place += _BLOCK
    return None


def mp4_end(data: BinaryIO) -> int:
    """Return the byte after the boxes of the first MP4 recording in a file.

    Args:
        data: the file; its position changes.
    """
    end = data.seek(0, io.SEEK_END)
    place = 0
    for _ in range(_MOST):
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


def id3_size(start: bytes) -> int:
    """Return the size of the ID3v2 tag that begins with these 10 bytes; 0 for none."""
    if start[:3] != b"ID3" or len(start) < 10:
        return 0
    size = sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(start[6:10]))
    return 10 + size + (10 if start[5] & 0x10 else 0)


def _tags_at_end(data: BinaryIO) -> int:
    """Return the number of bytes of the ID3v1 and APE tags at the end of a file."""
    end = place = data.seek(0, io.SEEK_END)
    if place >= _TAG and _bytes(data, place - _TAG, 3) == b"TAG":
        place -= _TAG
    foot = _bytes(data, max(0, place - 32), 32)
    if foot[:8] == b"APETAGEX" and len(foot) == 32:
        size = int.from_bytes(foot[12:16], "little") + (32 if foot[23] & 0x80 else 0)
        place -= size if size <= place else 0
    return end - place


# Beginnings of files that state no length: XI, IRCAM, PAF, PVF, AU and HTK.
_UNSIZED = re.compile(
    rb"Extended Instrument|\x00[\x01-\x04]\xa3\x64|\x64\xa3[\x01-\x04]\x00| paf|fap |PVF1"
    rb"|\.snd|.{8}\x00\x02\x00\x00",
    re.DOTALL,
)


def without_tags(data: BinaryIO) -> Span | None:
    """Return a file that states no length without the tags at its end, which are no samples.

    Args:
        data: the file; its position changes.

    Returns:
        The file; None for other files and without tags.
    """
    if not _UNSIZED.match(_bytes(data, 0, 32)):
        return None
    end = data.seek(0, io.SEEK_END)
    size = _tags_at_end(data)
    return Span(data, 0, end - size) if size else None


def _bytes(data: BinaryIO, place: int, count: int) -> bytes:
    data.seek(place)
    return data.read(count)


def _marked(block: bytes) -> Callable[[tuple[bytes, int, re.Pattern[bytes]]], int | None]:
    def first(mark: tuple[bytes, int, re.Pattern[bytes]]) -> int | None:
        """Return the first place of a mark whose surroundings fit."""
        literal, before, pattern = mark
        at = block.find(literal)
        while at >= 0:
            if at >= before and pattern.match(block, at - before):
                return at - before
            at = block.find(literal, at + 1)
        return None

    return first


def _table(block: bytes) -> int | None:
    """Return the first place of an MP3 frame that holds a table of the recording."""
    places = []
    for literal in (b"Xing\0\0\0", b"Info\0\0\0"):
        at = block.find(literal)
        while at >= 0:
            frame = _TABLE.search(block[max(0, at - 36) : at])
            if frame:
                places.append(max(0, at - 36) + frame.start())
                break
            at = block.find(literal, at + 1)
    return min(places, default=None)


def _begins(data: BinaryIO, place: int) -> bool:
    """Return true if a recording with a mark begins at `place`."""
    return any(
        pattern.match(head) for head in (_bytes(data, place, _HEAD),) for _, _, pattern in _MARKS
    )


def _following(data: BinaryIO, start: int, end: int) -> int | None:
    """Return the beginning of the recording after the one that begins at `start`."""
    head = _bytes(data, start, 12)
    if head[:3] == b"ID3":
        start += id3_size(head)
        head = _bytes(data, start, 12)
    if head[:4] == b"OggS":
        return _after_ogg(data, start, end)
    if head[:1] == b"\xff" and head[1:2] >= b"\xe0":
        return _after_mp3(data, start, end)
    if head[:4] == b"fLaC":
        return next_beginning(data, start + 16, end)
    stated = _stated_end(data, start, head, end)
    if stated is None or stated - 1 <= end <= stated:  # a byte of padding may be missing
        return None
    place = after_tags(data, stated)
    if place < end and (_is_mp3(data, place) or _begins(data, place)):
        return place
    return next_beginning(data, start + 16, end)  # the recording may be cut off


def _stated_end(data: BinaryIO, start: int, head: bytes, end: int) -> int | None:
    """Return the end of a recording by the sizes in its header; None if they are unknown."""
    little = int.from_bytes(head[4:8], "little")
    big = int.from_bytes(head[4:8], "big")
    if head[:4] == b"RIFF" or (head[:4] == b"RF64" and little != 0xFFFFFFFF):
        return start + 8 + little + little % 2
    if head[:4] == b"RF64":
        return start + 8 + int.from_bytes(_bytes(data, start + 20, 8), "little")
    if head[:4] == b"FORM":
        return start + 8 + big + big % 2
    if head[:4] == b".snd":
        return start + big + int.from_bytes(head[8:12], "big")
    if head[:4] == b"riff":
        size = int.from_bytes(_bytes(data, start + 16, 8), "little")
        return start + -(-size // 8) * 8
    if head[:4] == b"caff":
        return walk_caf(data, start, end)[1]
    return None


def _after_ogg(data: BinaryIO, start: int, end: int) -> int | None:
    """Return the place after the pages of an Ogg recording where another begins (RFC 3533)."""
    place = previous = start
    beginning = True
    while place < end:
        head = _bytes(data, place, 27 + 255)
        size = 27 + head[26] + sum(head[27 : 27 + head[26]]) if len(head) > 26 else 0
        if head[:4] == b"OggS":
            previous = place  # and so the search below advances
        if head[:4] == b"OggS" and size:
            first = bool(head[5] & 2)
            if first and not beginning:
                return place
            beginning = first
            if size <= end - place:
                place += size
                continue
        after = after_tags(data, place)
        if after < end and _is_mp3(data, after):
            return after
        # The page may be cut off, and contain the beginning of the next recording.
        limit = min(end, place + _BLOCK)
        following = _find(data, b"OggS", previous + 1, limit)
        found = next_beginning(data, previous + 1, limit if following is None else following + 1)
        if found is not None or following is None:
            return found
        place = following
    return None


def _after_mp3(data: BinaryIO, start: int, end: int) -> int | None:
    """Return the place after the first frame of an MP3 recording where another begins."""
    stated = _mp3_end(data, start)
    if stated is not None and stated > start:
        place = after_tags(data, stated)
        if place >= end and stated <= end:
            return None
        enough = end - place >= _MP3_LEAST
        if place < end and (_begins(data, place) or (enough and _is_mp3(data, place))):
            return place
    found = next_beginning(data, start + _HEAD, end)
    if found is None and stated is not None and start < stated < end - _MP3_LEAST:
        # A recording that was cut off, and one without a table after it: its next frame
        block = _bytes(data, stated, _MP3_LEAST)
        places = (match.start() for match in re.finditer(rb"\xff[\xe2-\xff]", block))
        return next((stated + at for at in places if _is_mp3(data, stated + at)), None)
    return found


def _mp3_end(data: BinaryIO, start: int) -> int | None:
    """Return the end of an MP3 recording according to the table in its first frame."""
    head = _bytes(data, start, _HEAD)
    for table in (b"Xing", b"Info"):
        at = head.find(table)
        if at > 0 and len(head) >= at + 16 and head[at + 7] & 3 == 3:  # frames and bytes
            return start + int.from_bytes(head[at + 12 : at + 16], "big")
    return None


def _is_mp3(data: BinaryIO, place: int) -> bool:
    """Return true for an MP3 frame, or an ID3 tag, before more frames."""
    place += id3_size(_bytes(data, place, 10))
    for _ in range(_CHAIN):
        head = _bytes(data, place, 4)
        size = _mp3_frame(head) if len(head) == 4 else 0
        if not size:
            return False
        place += size
    return True


def _mp3_frame(head: bytes) -> int:
    """Return the bytes of the frame of MPEG layer III with this header; 0 for another header."""
    version, layer, kbps, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    if head[0] != 0xFF or head[1] < 0xE0 or version == 1 or layer != 1 or rate == 3:
        return 0
    if kbps in (0, 15):
        return 0
    halves = {3: 0, 2: 1, 0: 2}[version]  # MPEG 1, 2 and 2.5
    bits = (144_000 if version == 3 else 72_000) * _KBPS[version != 3][kbps]
    return bits // (_RATES[rate] >> halves) + (head[2] >> 1 & 1)


def after_tags(data: BinaryIO, place: int) -> int:
    """Return the first byte after the ID3v1 and APE tags at `place`."""
    for _ in range(4):
        head = _bytes(data, place, 32)
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
        block = _bytes(data, place, _BLOCK + len(pattern) - 1)
        at = block.find(pattern)
        if at >= 0:
            return place + at
        if len(block) < _BLOCK:
            return None
        place += _BLOCK
    return None
