"""Read audio block by block: memory does not grow with the length of a recording."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.signal.formats import (
    UnmeasuredMP3,
    is_cut_off,
    is_packed,
    promised_frames,
    sphere_fields,
    states_its_length,
    unpacked,
)

Source = str | os.PathLike[str] | bytes | BinaryIO

_PIECE = 4096  # samples read at once, and lost at a decoding error
_NO_MP3 = "File does not exist"  # libsndfile's message for a file that is MP3 by name only


class AudioReader:
    """Reader of a recording in any format of libsndfile.

    A file object is read from its beginning and not closed. One that cannot seek (a pipe) is first
    copied to a temporary file. SPHERE files that are compressed with shorten need sph2pipe.

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

    Raises:
        InputError: the recording is missing, a folder, empty, no audio, or of length zero. The
            message names the recording.
    """

    def __init__(self, source: Source) -> None:
        self.read = 0
        self.cut_off = False
        self._path: Path | None = None
        self._owned = True
        self._file: soundfile.SoundFile | None = None
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
            file = self._file = self._decoder()
            self.sample_rate = int(file.samplerate)
            self.channels = int(file.channels)
            self.format: str = file.format
            self.subtype: str = file.subtype
            self.frames = promised_frames(file, self._data)
            if self.frames == 0:
                raise self._no_samples()
        except BaseException:
            self.close()
            raise

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
        error: Exception | None = None
        ended = False
        while not ended:
            frames = np.empty((size, self.channels), dtype=np.float32)
            n = 0
            while n < size and not ended:
                piece = frames[n : n + _PIECE]
                try:
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
                self.cut_off = error is not None or is_cut_off(
                    self.format, self.frames, self.read, self._data
                )
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
        if path.is_dir():
            raise InputError(f"{path} is a folder, not an audio file; give one recording")
        if not path.exists():
            raise InputError(f"{path} does not exist; check the name of the recording")
        try:
            if path.is_fifo():
                with path.open("rb") as pipe:
                    return _spooled(pipe)
            data = path.open("rb")
        except OSError as error:
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

    def _decoder(self) -> soundfile.SoundFile:
        """Open the recording at its beginning, anew each time since decoders seek inexactly."""
        if self._file is not None:
            self._file.close()
        try:
            self._data.seek(0)
            # Path encoded as the system does, since names need not be UTF-8.
            file = _Forward(self._data if self._path is None else os.fsencode(self._path))
            if file.format == "MP3" and not states_its_length(self._data):
                file.close()
                file = _Forward(UnmeasuredMP3(self._data))
            return file
        # TypeError is raised for .raw files, which have no header.
        except (soundfile.SoundFileError, OSError, TypeError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> InputError:
        """Return the error for a recording that cannot be read."""
        why = reason(error)
        if why.startswith(_NO_MP3):
            why = "no audio in it"
        return InputError(f"{self.name} cannot be read as audio ({why}); convert it to WAV or FLAC")

    def _no_samples(self) -> InputError:
        """Return the error for a recording of length zero."""
        return InputError(f"{self.name} holds no samples; give a recording that is not empty")


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """Sound file that is only read from the beginning to the end.

    SoundFile seeks to its own position after each block, which makes Opus decode other samples.
    """

    def seekable(self) -> bool:
        """Return false."""
        return False


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
