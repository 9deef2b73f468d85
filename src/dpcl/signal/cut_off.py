"""Whether a recording ends before its end: what its format promises, against what is there."""

from __future__ import annotations

import re
from typing import BinaryIO

import soundfile

from dpcl.signal.mp3 import states_its_length

# libsndfile shortens what was cut off silently, but says so in its log.
_SHORTENED = re.compile(
    r"^ *(?:data|SSND|BODY|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE
)
_UNKNOWN = 2**62  # samples; what libsndfile says is 2**63 - 1
_OGG_PAGE = 65307  # bytes, the longest there is (RFC 3533, section 6)
_MP3_FRAME = 1152  # samples


def promised_frames(file: soundfile.SoundFile, data: BinaryIO) -> int | None:
    """How many samples per channel the header of `file` promises; None where it does not say.

    `file` is just opened, `data` its bytes; their position is changed.
    """
    for promised, there in _SHORTENED.findall(file.extra_info):
        # Sizes near 2 or 4 GiB stand for "unknown" in what was recorded through a pipe.
        if 0 < int(there) < int(promised) and not 0x7FF00000 <= int(promised) < 2**32:
            return round(int(file.frames) * int(promised) / int(there))
    if file.subtype.startswith("MPEG") and not (file.format == "MP3" and states_its_length(data)):
        return None  # what libsndfile says is guessed from the size
    if file.format == "OGG" and not _ogg_has_its_end(data):
        return None
    if file.format == "NIST":
        data.seek(0)
        count = re.search(rb"sample_count -i (\d+)", data.read(1024))
        return int(count[1]) if count else int(file.frames)
    return int(file.frames) if file.frames < _UNKNOWN else None


def is_cut_off(file_format: str, frames: int | None, read: int, data: BinaryIO) -> bool:
    """Whether `read` samples are fewer than the `frames` promised, or the last page is missing."""
    if file_format == "OGG" and not _ogg_has_its_end(data):
        return True  # Ogg states no length, but marks its last page
    # MP3 encoders disagree on whether the frame with the length counts, and on the padding.
    tolerance = 2 * _MP3_FRAME if file_format == "MP3" else 0
    return frames is not None and read < frames - tolerance


def _ogg_has_its_end(data: BinaryIO) -> bool:
    """Whether the last page is whole and marked as the end of its stream (RFC 3533)."""
    size = data.seek(0, 2)
    data.seek(max(0, size - 2 * _OGG_PAGE))
    end = data.read()
    page = end[end.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    return bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
