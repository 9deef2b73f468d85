"""Audio out, block by block, under its final name only when it is complete."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
from numpy.typing import NDArray

from dpcl.errors import InputError
from dpcl.signal.formats import check_output, container, quantised, sample_bytes
from dpcl.signal.reader import reason

# Sizes in WAV and AIFF are 32 bits; what is left below is room for the headers.
_LARGEST = 2**32 - 2**16  # bytes
_PIECE = 1 << 16  # samples written at once: Vorbis runs out of stack on long ones


class AudioWriter:
    """A recording to be written: the suffix of `path` chooses the container, `subtype` the coding.

    Integer subtypes round to their steps (1/32768 for PCM_16), so that what was read is written
    back bit by bit (of 32 bits the 24 that float32 holds). Where a sample passes full scale, ±1,
    the file goes on as FLOAT if its container can hold that, all that was written included;
    otherwise the sample is clipped and counted in `clipped`. WAV beyond 4 GB goes on as RF64;
    `frames`, the samples per channel to come, only saves the copy.

    The file stands under its name after a clean end of the with-block; until then, under a hidden
    name beside it, which goes away on any exception. Raises InputError where container, coding,
    rate and channels do not fit together, and where it cannot be written, as on a full disk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sample_rate: int,
        channels: int,
        subtype: str,
        frames: int = 0,
    ) -> None:
        self.path = Path(path)
        self.sample_rate = sample_rate
        self.channels = channels
        self.subtype = subtype
        self.clipped = 0  # samples
        self.written = 0  # samples per channel
        self._format = container(self.path)
        check_output(self.path, sample_rate, channels, subtype)
        if self._format == "WAV" and self._bytes(frames, subtype) > _LARGEST:
            self._format = "RF64"
        self._copies = 0
        self._file = self._created()

    def write(self, samples: NDArray[np.floating]) -> None:
        """Append samples (channels, n), or (n,) for one channel. Raises InputError for NaN."""
        samples = np.atleast_2d(samples)  # (channels, n)
        peak = float(np.abs(samples).max(initial=0.0))
        if not np.isfinite(peak):
            raise InputError(f"{self.path} was not written: its samples are NaN or infinite.")
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
                    f"{self.path} cannot be written: AIFF ends at 4 GB, choose .wav or .flac."
                )
            if file_format == "WAV":
                file_format = "RF64"
        if (file_format, subtype) != (self._format, self.subtype):
            self._go_on_as(file_format, subtype)
        for first in range(0, samples.shape[1], _PIECE):
            piece = samples[:, first : first + _PIECE]
            with self._one_sentence():
                self._file.write(quantised(piece, self.subtype).T)
            self.written += piece.shape[1]

    def close(self) -> None:
        """Complete the file and give it its name."""
        try:
            with self._one_sentence():
                self._file.close()
                self._check_end()
                self._partial().replace(self.path)
        finally:
            self.abort()

    def abort(self) -> None:
        """Remove what was written so far; after `close`, do nothing."""
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
        """Raise OSError where the last sample is missing.

        libsndfile says nothing of a disk that fills while it completes FLAC or MP3.
        """
        with soundfile.SoundFile(os.fsencode(self._partial())) as file:
            file.seek(max(0, self.written - 1))
            if self.written and not len(file.read(1)):
                raise OSError("fewer samples arrived than were written")

    def _created(self) -> soundfile.SoundFile:
        path = self._partial()
        try:
            with self._one_sentence():
                path.touch()  # says why it cannot be made, which libsndfile does not
                return soundfile.SoundFile(
                    os.fsencode(path), "w", self.sample_rate, self.channels, self.subtype,
                    format=self._format,
                )  # fmt: skip
        except BaseException:
            self._remove(self._copies + 1)
            raise

    def _go_on_as(self, file_format: str, subtype: str) -> None:
        """Copy what was written so far into another container or coding, and go on there."""
        with self._one_sentence():
            self._file.close()
        source = self._partial()
        self._format, self.subtype = file_format, subtype
        self._copies += 1
        self._file = self._created()
        with self._one_sentence(), soundfile.SoundFile(os.fsencode(source)) as before:
            for block in before.blocks(_PIECE, dtype="float32", always_2d=True):
                self._file.write(quantised(block, subtype))
        self._remove(self._copies)

    def _partial(self, copy: int | None = None) -> Path:
        """The hidden name beside the final one; of the last copy, without `copy`."""
        number = self._copies if copy is None else copy
        return self.path.with_name(f".{self.path.stem}.{os.getpid()}.{number}{self.path.suffix}")

    def _remove(self, copies: int) -> None:
        for copy in range(copies):
            with contextlib.suppress(OSError):
                self._partial(copy).unlink(missing_ok=True)

    def _bytes(self, frames: int, subtype: str) -> int:
        return frames * self.channels * sample_bytes(subtype)

    @contextlib.contextmanager
    def _one_sentence(self) -> Iterator[None]:
        try:
            yield
        except (soundfile.SoundFileError, OSError) as error:
            why = reason(error)
            with contextlib.suppress(OSError):
                if shutil.disk_usage(self.path.parent).free < 1 << 20:
                    why = "the disk is full"
            raise InputError(f"{self.path} cannot be written ({why}).") from error
