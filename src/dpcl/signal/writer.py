"""Write audio block by block; the file gets its final name only when it is complete."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.signal.formats import (
    TAGS,
    check_output,
    container,
    id3_tag,
    mpg123_silenced,
    quantised,
    sample_bytes,
)
from dpcl.signal.reader import reason

# Limit of WAV and AIFF, whose sizes have 32 bits, less 64 KiB for the headers.
_LARGEST = 2**32 - 2**16  # bytes of samples
_LONGEST_NAME = 255  # bytes, limit of most file systems
_PIECE = 1 << 16  # samples written at once: the Vorbis encoder overflows its stack on more


class AudioWriter:
    """Writer of a recording, atomic: a context manager.

    Integer subtypes round to their steps (1/32768 for PCM_16), so samples that were read are
    written back unchanged (24 of 32 bits, the precision of float32). If a sample exceeds full
    scale, ±1, the whole file is rewritten as FLOAT, if its container supports FLOAT. Otherwise the
    sample is clipped and counted in `clipped`. WAV beyond 4 GB is rewritten as RF64; `frames` only
    saves this copy.

    The file gets its name after a clean end of the with-block. Until then it has a hidden name in
    the same folder, and any exception removes it.

    Args:
        path: the file; its suffix chooses the container.
        sample_rate: in Hz.
        channels: number of channels.
        subtype: coding, by libsndfile's name.
        frames: expected number of samples per channel.
        tags: metadata by name (title, artist, comment, …), for containers that hold it.

    Raises:
        InputError: container, coding, rate and channels do not fit together, or the file cannot be
            written, as on a full disk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sample_rate: int,
        channels: int,
        subtype: str,
        frames: int = 0,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.sample_rate = sample_rate
        self.channels = channels
        self.subtype = subtype
        self.tags = {key: value for key, value in (tags or {}).items() if key in TAGS}
        self.clipped = 0  # number of clipped samples
        self.written = 0  # number of samples per channel
        self._format = container(self.path)
        check_output(self.path, sample_rate, channels, subtype)
        if self._format == "WAV" and self._bytes(frames, subtype) > _LARGEST:
            self._format = "RF64"
        self._copies = 0
        self._file = self._create()

    def write(self, samples: NDArray[np.floating], peak: float = 0.0) -> None:
        """Append samples.

        Args:
            samples: (channels, n), or (n,) for one channel.
            peak: largest magnitude in the files that are written at the same time, so that all of
                them get the same coding.

        Raises:
            InputError: A sample is NaN or infinite, or the file cannot be written.
        """
        samples = np.atleast_2d(samples)  # (channels, n)
        peak = max(peak, float(np.abs(samples).max(initial=0.0)))  # NaN is refused below
        if not np.isfinite(samples).all():
            raise InputError(
                f"{self.path} was not written: it has NaN or infinite samples; correct them"
            )
        file_format, subtype = self._format, self.subtype
        if peak > 1 and subtype not in ("FLOAT", "DOUBLE"):
            if soundfile.check_format(file_format, "FLOAT"):
                subtype = "FLOAT"
            else:
                self.clipped += int((np.abs(samples) > 1).sum())
                samples = np.clip(samples, -1, 1)
        if self._bytes(self.written + samples.shape[1], subtype) > _LARGEST:
            if file_format == "AIFF":
                raise InputError(
                    f"{self.path} cannot be written: AIFF ends at 4 GB; choose .wav or .flac"
                )
            if file_format == "WAV":
                file_format = "RF64"
        if (file_format, subtype) != (self._format, self.subtype):
            self._continue_as(file_format, subtype)
        for first in range(0, samples.shape[1], _PIECE):
            piece = samples[:, first : first + _PIECE]
            with self._as_input_error():
                self._file.write(quantised(piece, self.subtype).T)
            self.written += piece.shape[1]

    def close(self) -> None:
        """Complete the file and give it its name."""
        try:
            with self._as_input_error():
                self._file.close()
                self._check_end()
                if self._format == "MP3" and self.tags:
                    self._add_id3()
                self._partial().replace(self.path)
        finally:
            self.abort()

    def abort(self) -> None:
        """Remove the partial file; after `close`, do nothing."""
        try:
            with contextlib.suppress(soundfile.SoundFileError, OSError):
                self._file.close()
        finally:
            self._remove(self._copies + 1)

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    def _check_end(self) -> None:
        """Raise OSError if the last sample is missing.

        libsndfile reports no error if the disk fills while it completes FLAC or MP3.
        """
        silenced = mpg123_silenced(self._format == "MP3")
        with silenced, soundfile.SoundFile(os.fsencode(self._partial())) as file:
            file.seek(max(0, self.written - 1))
            if self.written and not len(file.read(1)):
                raise OSError("fewer samples arrived than were written")

    def _create(self) -> soundfile.SoundFile:
        """Create and open the hidden file."""
        path = self._partial()
        try:
            with self._as_input_error():
                path.touch()  # gives the reason of a failure, which libsndfile does not
                file = soundfile.SoundFile(
                    os.fsencode(path), "w", self.sample_rate, self.channels, self.subtype,
                    format=self._format,
                )  # fmt: skip
                if self._format != "MP3":
                    _set_tags(file, self.tags)
                return file
        except BaseException:
            self._remove(self._copies + 1)
            raise

    def _continue_as(self, file_format: str, subtype: str) -> None:
        """Copy the samples so far into another container or coding, and continue there."""
        with self._as_input_error():
            self._file.close()
        source = self._partial()
        self._format, self.subtype = file_format, subtype
        self._copies += 1
        self._file = self._create()
        with self._as_input_error(), soundfile.SoundFile(os.fsencode(source)) as previous:
            for block in previous.blocks(_PIECE, dtype="float32", always_2d=True):
                self._file.write(quantised(block, subtype))
        self._remove(self._copies)

    def _add_id3(self) -> None:
        """Copy the finished MP3 file, with a tag before it."""
        source = self._partial()
        self._copies += 1
        with source.open("rb") as untagged, self._partial().open("wb") as file:
            file.write(id3_tag(self.tags))
            shutil.copyfileobj(untagged, file, 1 << 20)

    def _partial(self, copy: int | None = None) -> Path:
        """Return the hidden name of a copy, by default the last."""
        number = self._copies if copy is None else copy
        end = f".{os.getpid()}.{number}{self.path.suffix}"
        room = _LONGEST_NAME - 1 - len(os.fsencode(end))
        stem = self.path.stem
        while len(os.fsencode(stem)) > room:
            stem = stem[1:]
        return self.path.with_name(f".{stem}{end}")

    def _remove(self, copies: int) -> None:
        """Remove the first `copies` hidden files."""
        for copy in range(copies):
            with contextlib.suppress(OSError):
                self._partial(copy).unlink(missing_ok=True)

    def _bytes(self, frames: int, subtype: str) -> int:
        """Return the number of bytes of `frames` samples per channel."""
        return frames * self.channels * sample_bytes(subtype)

    @contextlib.contextmanager
    def _as_input_error(self) -> Iterator[None]:
        """Convert errors of libsndfile and the system to InputError."""
        try:
            yield
        except (soundfile.SoundFileError, OSError) as error:
            why = reason(error)
            with contextlib.suppress(OSError):
                if shutil.disk_usage(self.path.parent).free < 1 << 20:
                    why = "the disk is full"
            raise InputError(
                f"{self.path} cannot be written ({why}); choose another folder"
            ) from error


def _set_tags(file: soundfile.SoundFile, tags: Mapping[str, str]) -> None:
    """Set the metadata that the container of a new file holds."""
    for name, value in tags.items():
        with contextlib.suppress(soundfile.SoundFileError):  # the container holds none
            setattr(file, name, value.encode("utf-8", "replace").decode())
