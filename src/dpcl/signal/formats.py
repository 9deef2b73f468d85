"""Audio file formats: MP3 and SPHERE headers, truncated files, capabilities of containers."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.signal.headers import WIDTHS, stated_samples
from dpcl.signal.spans import id3_size

MP3_FRAME = 1152  # samples of a frame; this number of bytes contains the table
_LONGER = 64  # factor on the size; the bit rates of one recording lie between 8 and 320 kbit/s
_TAG = 128  # bytes of an ID3v1 tag


def states_its_length(data: BinaryIO) -> bool:
    """Return true if the first MPEG frame holds a table with the number of frames.

    The position of `data` is unchanged: a decoder may be reading it.
    """
    place = data.tell()
    data.seek(0)
    data.seek(id3_size(data.read(10)))
    first = data.read(MP3_FRAME)
    data.seek(place)
    return any(table in first for table in (b"Xing", b"Info", b"VBRI"))


class UnmeasuredMP3(io.RawIOBase):
    """MP3 data of pretended length, so that libsndfile's guess of the length is never too short.

    libsndfile takes the first frame's bit rate for all frames. If a recording begins with silence,
    its guess is too long, which does no harm. If it begins loudly, the guess can be as short as a
    quarter.
    """

    def __init__(self, data: BinaryIO) -> None:
        self._data = data
        self._end = _LONGER * data.seek(0, io.SEEK_END)
        self._place = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, relative to the pretended end for SEEK_END."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._end}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        """Return the position."""
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read bytes; near the pretended end, return zeros."""
        if self._place >= self._end - _TAG:  # decoders first look for a tag here
            buffer[:] = bytes(len(buffer))
            count = len(buffer)
        else:
            self._data.seek(self._place)
            piece = self._data.read(len(buffer))
            count = len(piece)
            buffer[:count] = piece
        self._place += count
        return count


_MAGIC = b"NIST_1A\n"
_LONGEST = 1 << 16  # bytes, upper limit of a header


def sphere_fields(data: BinaryIO) -> dict[str, str]:
    """Read the fields of a SPHERE header, such as sample_count and sample_coding.

    The position of `data` changes.

    Returns:
        Values by name; empty for other formats.

    Source: the header of NIST's SPHERE 2.6: "NIST_1A", the header's length in bytes, then lines of
    a name, a type and a value until "end_head".
    """
    data.seek(0)
    start = data.read(16)
    if not start.startswith(_MAGIC) or not start[8:].strip().isdigit():
        return {}
    lines = data.read(max(0, min(int(start[8:]), _LONGEST) - 16)).decode("latin-1").splitlines()
    if "end_head" in lines:
        lines = lines[: lines.index("end_head")]
    split = (line.split(maxsplit=2) for line in lines)
    return {field[0]: field[2] for field in split if len(field) == 3}


def is_packed(fields: dict[str, str]) -> bool:
    """Return true if the samples are compressed, as in "pcm,embedded-shorten-v2.00"."""
    return "," in fields.get("sample_coding", "")


def unpacked(data: BinaryIO, name: str) -> BinaryIO:
    """Convert a compressed SPHERE file to WAV with an installed sph2pipe.

    Args:
        data: the file.
        name: name of the file in messages.

    Returns:
        The WAV file.

    Raises:
        InputError: sph2pipe is not installed, or it fails.
    """
    program = shutil.which("sph2pipe")
    if program is None:
        raise InputError(
            f"{name} is a SPHERE file compressed with shorten; install sph2pipe, or convert it"
            " with `sph2pipe -f wav IN.wv1 OUT.wav` where there is one"
        )
    command = [program, "-f", "wav"]
    try:
        with tempfile.NamedTemporaryFile(suffix=".sph") as copy:
            data.seek(0)
            shutil.copyfileobj(data, copy)
            copy.flush()
            ran = subprocess.run([*command, copy.name], capture_output=True, check=False)
    except OSError as error:  # disk full, or a program for another processor
        raise InputError(
            f"{name} cannot be unpacked by {program} ({error.strerror}); install it again"
        ) from error
    if ran.returncode or not ran.stdout:
        said = ran.stderr.decode("utf-8", "replace").strip().replace(copy.name, "it")
        why = " ".join(said.split()) or f"status {ran.returncode}"
        raise InputError(f"{name} cannot be unpacked by sph2pipe ({why}); copy it again")
    return io.BytesIO(ran.stdout)


# Log lines of libsndfile for files that are cut off, which it shortens silently.
_SHORTENED = re.compile(
    r"^ *(?:data|SSND|BODY|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE
)
_PADDING = 16  # bytes that a container may add after the samples
_UNKNOWN = 2**62  # samples; libsndfile returns 2**63 - 1 for an unknown length
_OGG_PAGE = 65307  # bytes of the longest page (RFC 3533, section 6)


def promised_frames(file: soundfile.SoundFile, data: BinaryIO) -> int | None:
    """Return the number of samples per channel that the header promises; None if it does not say.

    Args:
        file: the recording, just opened.
        data: its bytes; their position changes.
    """
    for promised, there in _SHORTENED.findall(file.extra_info):
        # Sizes near 2 or 4 GiB mean "unknown" in recordings that went through a pipe.
        if 0 < int(there) < int(promised) and not 0x7FF00000 <= int(promised) < 2**32:
            return round(int(file.frames) * int(promised) / int(there))
    if file.subtype.startswith("MPEG") and not (file.format == "MP3" and states_its_length(data)):
        return None  # libsndfile guesses the length from the size
    if file.format == "OGG" and not _ogg_has_its_end(data):
        return None
    if file.format == "NIST":
        count = sphere_fields(data).get("sample_count", "")
        return int(count) if count.isdecimal() and int(count) else int(file.frames)
    stated = stated_samples(file.format, data)
    if stated is not None:
        place, size = stated
        there = data.seek(0, io.SEEK_END) - place
        if file.subtype in WIDTHS:
            return size // (WIDTHS[file.subtype] * int(file.channels))
        if abs(there - size) > _PADDING:  # compressed: in proportion
            return round(int(file.frames) * size / there)
    return int(file.frames) if file.frames < _UNKNOWN else None


def is_cut_off(file_format: str, frames: int | None, read: int, data: BinaryIO) -> bool:
    """Return true if `read` is less than the promised `frames`, or Ogg's last page is missing."""
    if file_format == "OGG" and not _ogg_has_its_end(data):
        return True  # Ogg states no length, but marks its last page
    # Tolerance, since MP3 encoders differ in the padding and may count the frame with the length.
    tolerance = 2 * MP3_FRAME if file_format == "MP3" else 0
    return frames is not None and read < frames - tolerance


def _ogg_has_its_end(data: BinaryIO) -> bool:
    """Return true if the last page is whole and marked as the end of its stream (RFC 3533)."""
    size = data.seek(0, 2)
    data.seek(max(0, size - 2 * _OGG_PAGE))
    end = data.read()
    page = end[end.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    return bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


_CONTAINERS = {"AIF": "AIFF", "OGA": "OGG", "OPUS": "OGG"}  # libsndfile's name of a suffix
_BITS = {
    "PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32,
    "ALAC_16": 16, "ALAC_20": 20, "ALAC_24": 24, "ALAC_32": 32,
}  # fmt: skip
# Containers that cannot be read again: RAW has no header, SD2 has a second file, and libsndfile
# loses the last samples of SDS and PAF.
_REFUSED = ("RAW", "SD2", "SDS", "PAF")
_VORBIS_RATES = 200_000  # Hz, highest sample rate of Vorbis; libvorbis crashes above


def container(path: Path) -> str:
    """Return libsndfile's name of the container for the suffix of `path` ("WAV", "OGG")."""
    suffix = path.suffix[1:].upper()
    return _CONTAINERS.get(suffix, suffix)


def output_subtype(file_format: str, input_subtype: str) -> str:
    """Return the coding in which a container stores a recording of coding `input_subtype`.

    PCM of 16 and more bits and float are kept if the container supports them. 8 bits and lossy
    codings become 16 bits, and double becomes float. In FLAC, 32 bits and float become 24 bits.

    Args:
        file_format: a container or suffix: "WAV", "flac", "opus".
        input_subtype: libsndfile's name of a coding, such as "PCM_16".
    """
    suffix = file_format.upper()
    file_format = _CONTAINERS.get(suffix, suffix)
    if file_format == "OGG":
        return "OPUS" if "OPUS" in (suffix, input_subtype) else "VORBIS"
    if file_format == "MP3":
        return "MPEG_LAYER_III"
    subtype = "FLOAT" if input_subtype == "DOUBLE" else input_subtype
    if subtype not in ("FLOAT", "PCM_24", "PCM_32"):
        subtype = f"PCM_{max(_BITS.get(subtype, 16), 16)}".replace("PCM_20", "PCM_24")
    if soundfile.check_format(file_format, subtype):
        return subtype
    return "PCM_24" if soundfile.check_format(file_format, "PCM_24") else "PCM_16"


def check_output(path: Path, sample_rate: int, channels: int, subtype: str) -> None:
    """Raise InputError if the container of `path` cannot hold such audio."""
    file_format = container(path)
    if file_format not in soundfile.available_formats() or file_format in _REFUSED:
        raise InputError(
            f"{path} cannot be written; end its name in .wav, .flac, .ogg, .opus, .mp3, .aiff,"
            " .caf or .w64"
        )
    # ALAC is refused, since libsndfile aborts the process when the disk fills.
    refused = subtype.startswith("ALAC") or not soundfile.check_format(file_format, subtype)
    if refused or (path.suffix.lower() == ".opus" and subtype != "OPUS"):
        raise InputError(f"{path} cannot be written as {subtype}; end its name in .wav or .flac")
    try:
        if subtype == "VORBIS" and sample_rate > _VORBIS_RATES:
            raise ValueError("too high a sample rate")
        soundfile.SoundFile(
            io.BytesIO(), "w", sample_rate, channels, subtype, format=file_format
        ).close()
    except (soundfile.SoundFileError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} cannot be written: {file_format} ({subtype}) does not take {channels} channels"
            f" at {sample_rate} Hz; end its name in .wav or .flac"
        ) from error


def quantised(
    samples: NDArray[np.floating], subtype: str
) -> NDArray[np.int32] | NDArray[np.float32]:
    """Convert samples to the values that `subtype` stores.

    libsndfile would scale floats by 32767 (for 16 bits) but read them back by 1/32768.

    Args:
        samples: any shape, full scale ±1.
        subtype: libsndfile's name of a coding.

    Returns:
        int32, rounded to the steps of the coding and clipped; float32 for float codings.
    """
    bits = _BITS.get(subtype)
    if bits is None:
        return samples.astype(np.float32)
    full = 2.0 ** (bits - 1)
    if bits == 32:
        samples = samples.astype(np.float64)  # float32 does not hold 2**31 - 1
    steps: NDArray[np.int32] = np.rint(samples * full).clip(-full, full - 1).astype(np.int32)
    steps <<= 32 - bits  # libsndfile reads the most significant bits
    return steps


def sample_bytes(subtype: str) -> int:
    """Return the number of bytes of one sample, at most."""
    return 8 if subtype == "DOUBLE" else _BITS.get(subtype, 32) // 8


_ID3 = {
    "title": "TIT2", "artist": "TPE1", "album": "TALB", "date": "TDRC", "genre": "TCON",
    "tracknumber": "TRCK", "copyright": "TCOP", "software": "TSSE",
}  # fmt: skip
TAGS = (*_ID3, "comment", "license")  # metadata that files can hold


def id3_tag(tags: Mapping[str, str]) -> bytes:
    """Return an ID3v2.4 tag in UTF-8; LAME writes Latin-1 only.

    Args:
        tags: values by a name of `TAGS`.
    """
    frames = b""
    for name, value in tags.items():
        text = value.encode("utf-8", "replace")
        key = _ID3.get(name)
        body = b"\3" + text if key else b"\3und\0" + text
        if key or name == "comment":
            frames += (key or "COMM").encode() + _in_sevens(len(body)) + b"\0\0" + body
    return b"ID3\4\0\0" + _in_sevens(len(frames)) + frames


def _in_sevens(number: int) -> bytes:
    """Return four bytes of seven bits each."""
    return bytes(number >> 7 * shift & 0x7F for shift in (3, 2, 1, 0))


_quiet = threading.Lock()
_quiet_users = 0
_standard_error = -1  # copy of the descriptor while it is redirected


@contextlib.contextmanager
def mpg123_silenced(wanted: bool = True) -> Iterator[None]:
    """Discard what libmpg123 prints on the standard error of the process.

    Args:
        wanted: False changes nothing.
    """
    global _quiet_users, _standard_error
    if not wanted:
        yield
        return
    with _quiet:
        if not _quiet_users:
            with contextlib.suppress(OSError):  # standard error may be closed
                _standard_error = os.dup(2)
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 2)
                os.close(null)
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet:
            _quiet_users -= 1
            if not _quiet_users and _standard_error >= 0:
                os.dup2(_standard_error, 2)
                os.close(_standard_error)
                _standard_error = -1
