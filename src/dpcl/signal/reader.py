"""Read audio block by block: memory does not grow with the length of a recording."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.signal import av
from dpcl.signal.formats import (
    TAGS,
    is_cut_off,
    is_packed,
    mpg123_silenced,
    promised_frames,
    sphere_fields,
    unpacked,
)
from dpcl.signal.headers import WIDTHS, sds_samples, sized
from dpcl.signal.joined import Decoder, Joined, open_with_libsndfile, tags_of
from dpcl.signal.spans import mp4_end, next_beginning, spans, without_tags

Source = str | os.PathLike[str] | bytes | BinaryIO

_PIECE = 4096  # samples read at once, and lost at a decoding error
_NO_MP3 = "File does not exist"  # libsndfile's message for a file that is MP3 by name only
# Errors of libsndfile for files that are not malformed, but of a format that it lacks.
_LACKING = ("not recognised", "unimplemented", "unsupported", "unknown format", "no audio in it")


class AudioReader:
    """Reader of a recording in any format of libsndfile, and with PyAV of FFmpeg.

    A file object is read from its beginning and not closed. One that cannot seek (a pipe) is first
    copied to a temporary file, and so is a named pipe. SPHERE files that are compressed with
    shorten need sph2pipe. Several recordings in one file are read one after the other.

    Args:
        source: a path, the bytes of a file, or a binary file object.

    Attributes:
        name: name of the recording in messages.
        sample_rate: in Hz.
        channels: number of channels.
        format: container, by libsndfile's name ("WAV").
        subtype: coding, by libsndfile's name ("PCM_16").
        frames: number of samples per channel that the header promises; None if it does not say.
        read: number of samples per channel that were read, valid after `blocks` has ended.
        cut_off: true if samples are missing, valid after `blocks` has ended.
        tags: metadata by name (title, artist, comment, …).

    Raises:
        InputError: the recording is missing, a folder, empty, no audio, or of length zero. The
            message names the recording.
    """

    def __init__(self, source: Source) -> None:
        self.read = 0
        self.cut_off = False
        self.tags: dict[str, str] = {}
        self._path: Path | None = None
        self._owned = True
        self._file: Decoder | None = None
        self._parts: list[tuple[int, int]] = []
        self._decode: Callable[[], Decoder] = self._libsndfile
        self._quiet = False
        self._malformed = False  # libsndfile recognises the container, and refuses the file
        self._stated = True
        self._whole: BinaryIO | None = None  # the file that `_data` completes
        if isinstance(source, (bytes, bytearray, memoryview)):
            self.name = "the recording in memory"
            self._data: BinaryIO = io.BytesIO(source)
        elif isinstance(source, (str, os.PathLike)):
            path = Path(source)
            self.name = str(path)
            self._data = self._opened(path)
        else:
            self.name = _name(source)
            self._data = self._seekable(source)
        try:
            if self._data.seek(0, os.SEEK_END) == 0:
                raise InputError(f"{self.name} is empty (0 bytes); record or copy it again")
            if is_packed(sphere_fields(self._data)):
                packed, self._path = self._data, None
                self._data = unpacked(packed, self.name)
                if self._owned:
                    packed.close()
                self._owned = True
            whole = sized(self._data)
            self._stated = whole is None
            if whole is None:
                whole = without_tags(self._data)
            if whole is not None:
                self._path, self._whole = None, self._data
                self._data = whole  # type: ignore[assignment]
            self._parts = spans(self._data)
            if self._parts:
                self._decode = self._joined
            file = self._file = self._first_decoder()
            self.sample_rate = int(file.samplerate)
            self.channels = int(file.channels)
            self.format: str = file.format
            self.subtype: str = file.subtype
            self.frames: int | None = None
            if isinstance(file, soundfile.SoundFile):
                self.frames = promised_frames(file, self._data)
            self._limit = self.frames  # bytes after the samples are no samples
            if self.format == "SDS" and self.frames is not None:
                self._limit = min(self.frames, sds_samples(self._data))
            found = file.tags if isinstance(file, (av.AVDecoder, Joined)) else tags_of(file)
            self.tags = {name: value for name, value in found.items() if name in TAGS and value}
            if self.frames == 0:
                raise self._no_samples()
            self._omitted = self._bytes_of_others()
        except InputError:
            self.close()
            raise
        except (OSError, ValueError, OverflowError) as error:  # such as files below /proc
            self.close()
            raise self._unreadable(error) from error
        except BaseException:
            self.close()
            raise

    @property
    def notes(self) -> tuple[str, ...]:
        """Return sentences about the recording, complete after `blocks` has ended."""
        notes = []
        if not self._stated:
            notes.append(f"{self.name} states no length in its header; it is read to its end")
        if self._omitted:
            notes.append(
                f"{self.name} holds {self._omitted} bytes of another recording after the first one,"
                " which are omitted; split the file"
            )
        if isinstance(self._file, Joined) and self._file.omitted:
            notes.append(
                f"{self.name} holds {self._file.omitted} more recordings of another sample rate or"
                " number of channels, or unreadable ones, which are omitted; split the file"
            )
        if self.format == "XI":
            notes.append(f"{self.name} states no sample rate; {self.sample_rate} Hz is assumed")
        if isinstance(self._file, av.AVDecoder):
            if self._file.omitted:
                notes.append(
                    f"{self.name} holds {self._file.omitted} more audio tracks, which are omitted;"
                    " extract them to separate them"
                )
            if self._file.damaged:
                notes.append(
                    f"{self.name} is damaged; {self._file.damaged} packets of it are omitted"
                )
            if self._file.changed:
                notes.append(
                    f"{self.name} changes its sample rate or channels after"
                    f" {self.read / self.sample_rate:.2f} s; the rest is omitted"
                )
        return tuple(notes)

    def blocks(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Yield the samples from the beginning in blocks.

        A recording that is cut off or broken in the middle yields all readable samples, and
        `cut_off` is true afterwards.

        Args:
            size: number of samples per channel in a block.

        Yields:
            float32 (channels, size); the last block is (channels, n).

        Raises:
            InputError: a sample is NaN or infinite, or nothing can be read.
        """
        file = self._file = self._decoder()
        self.read, self.cut_off = 0, False
        limit = self._limit
        error: Exception | None = None
        ended = False
        while not ended:
            frames = np.empty((size, self.channels), dtype=np.float32)
            n = 0
            while n < size and not ended:
                piece = frames[n : n + _PIECE]
                if limit is not None:
                    piece = piece[: max(0, limit - self.read - n)]
                    if not len(piece):
                        ended = True
                        break
                try:
                    with mpg123_silenced(self._quiet):
                        got = len(file.read(out=piece))
                except soundfile.SoundFileError as broken:
                    error, got = broken, 0
                n += got
                ended = got < len(piece)
            block = np.ascontiguousarray(frames[:n].T)
            finite = np.isfinite(block).all(axis=0)
            if not finite.all():
                second = (self.read + int(np.argmin(finite))) / self.sample_rate
                raise InputError(
                    f"{self.name} holds NaN or infinite samples at {second:.2f} s; export it again"
                    " from its source"
                )
            self.read += n
            if ended:
                self.cut_off = error is not None or self._is_cut_off(file)
            if n:
                yield block
        if self.read == 0:
            raise self._unreadable(error) if error else self._no_samples()

    def close(self) -> None:
        """Close the files opened here; a file object passed by the caller stays open."""
        if self._file is not None:
            self._file.close()
        if self._owned:
            self._data.close()
            if self._whole is not None:
                self._whole.close()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _opened(self, path: Path) -> BinaryIO:
        """Open a path, copying a named pipe to a temporary file."""
        try:
            if path.is_dir():
                raise InputError(f"{path} is a folder, not an audio file; give one recording")
            if not path.exists():
                raise InputError(f"{path} does not exist; check the name of the recording")
            mode = path.stat().st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                raise InputError(f"{path} is a device, not an audio file; give one recording")
            if stat.S_ISFIFO(mode):
                with path.open("rb") as pipe:
                    return _spooled(pipe)
            data = path.open("rb")
        except OSError as error:  # such as a name that is too long
            raise self._unreadable(error) from error
        self._path = path
        return data

    def _seekable(self, source: BinaryIO) -> BinaryIO:
        """Return the file object, or a temporary copy if it cannot seek."""
        if isinstance(source, io.TextIOBase):
            raise InputError(f"{self.name} is text; open the recording in binary mode")
        try:
            if source.seekable():
                self._owned = False
                return source
            return _spooled(source)
        except OSError as error:
            raise self._unreadable(error) from error

    def _first_decoder(self) -> Decoder:
        """Open the recording with the first library that reads it."""
        self._data.seek(0)
        start = self._data.read(16)
        self._quiet = (
            start[:3] == b"ID3" or start[:1] == b"\xff" or self.name.lower().endswith(".mp3")
        )
        try:
            return self._decoder()
        except InputError as error:
            if not av.available():
                if av.looks_like(self.name, start):
                    raise av.not_installed(self.name) from error
                raise
            self._malformed = not any(words in str(error).lower() for words in _LACKING)
            self._decode = self._av
            try:
                return self._decoder()
            except InputError as second:
                raise (second if av.looks_like(self.name, start) else error) from second

    def _decoder(self) -> Decoder:
        """Open the recording at its beginning: anew each time, since decoders seek inexactly."""
        if self._file is not None:
            self._file.close()
        try:
            self._data.seek(0)
            with mpg123_silenced(self._quiet):
                return self._decode()
        # TypeError is raised for .raw files, which have no header.
        except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
            raise self._unreadable(error) from error

    def _libsndfile(self) -> Decoder:
        """Open the recording with libsndfile."""
        return open_with_libsndfile(self._data, self._path)

    def _joined(self) -> Decoder:
        """Open the first of several recordings in the file."""
        return Joined(self._data, self._parts)

    def _av(self) -> Decoder:
        """Open the recording with PyAV."""
        return av.AVDecoder(self._data)

    def _bytes_of_others(self) -> int:
        """Return the number of bytes of recordings after the one that is read."""
        if self._parts:
            return 0
        place, end = self._data.tell(), None
        if self.subtype in WIDTHS and self.frames is not None:
            end = self.frames * self.channels * WIDTHS[self.subtype]
        elif isinstance(self._file, av.AVDecoder) and self.format == "MOV":
            end = mp4_end(self._data)
        size = self._data.seek(0, os.SEEK_END)
        found = next_beginning(self._data, max(end, 16), size) if end else None
        self._data.seek(place)  # where the decoder was
        return 0 if found is None else size - found

    def _is_cut_off(self, file: Decoder) -> bool:
        """Return true if samples are missing after the end of `file`."""
        if isinstance(file, av.AVDecoder):
            short = file.stated is not None and self.read < file.stated
            no_end = is_cut_off(self.format, None, self.read, self._data)
            return short or no_end or file.damaged > 0 or self._malformed
        if isinstance(file, Joined) and file.cut_off:
            return True
        return is_cut_off(self.format, self.frames, self.read, self._data)

    def _unreadable(self, error: Exception) -> InputError:
        """Return the error for a recording that cannot be read."""
        why = reason(error)
        if why.startswith(_NO_MP3):
            why = "no audio in it"
        return InputError(f"{self.name} cannot be read as audio ({why}); convert it to WAV or FLAC")

    def _no_samples(self) -> InputError:
        """Return the error for a recording of length zero."""
        return InputError(f"{self.name} holds no samples; give a recording that is not empty")


def reason(error: Exception) -> str:
    """Return the error's message without the path that libsndfile and the system add."""
    text = getattr(error, "error_string", "") or getattr(error, "strerror", "") or str(error)
    return str(text).rstrip(".")


def _name(source: BinaryIO) -> str:
    """Return the name of a file object for messages."""
    name = getattr(source, "name", None)
    if name == "<stdin>":
        return "standard input"
    return name if isinstance(name, str) else "the recording"


def _spooled(pipe: BinaryIO) -> BinaryIO:
    """Copy a pipe to a temporary file, which is deleted when it is closed."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        shutil.copyfileobj(pipe, copy, 1 << 20)
    except BaseException:
        copy.close()
        raise
    return copy
