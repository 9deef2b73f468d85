"""Recordings that clients send: their names, their limits, and the recordings of known voices."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import HTTPException
from starlette.requests import ClientDisconnect

from dpcl.errors import InputError, check_voices

if TYPE_CHECKING:
    from starlette.requests import Request

NAME_BYTES = 200  # of a recording; its outputs have longer names


def safe_name(name: str) -> str:
    """Return the name of a recording without folders and control characters, and not too long.

    Example:
        >>> safe_name("../../a.wav"), safe_name("")
        ('a.wav', 'recording')
    """
    name = Path(name.replace("\\", "/")).name.lstrip(".")
    name = "".join(letter for letter in name if letter.isprintable())
    return name.encode("utf-8", "ignore")[-NAME_BYTES:].decode("utf-8", "ignore") or "recording"


def check_length(request: Request, name: str, megabytes: float) -> None:
    """Raise HTTPException if a request states a body beyond the limit."""
    if int(request.headers.get("content-length") or 0) > round(megabytes * 1e6):
        raise _too_large(name, megabytes)


def _too_large(name: str, megabytes: float) -> HTTPException:
    """Return the answer to a body beyond the limit."""
    return HTTPException(413, f"{name}: is larger than {megabytes:g} MB, the limit of this server")


async def receive(request: Request, path: Path, megabytes: float) -> None:
    """Write the body of a request to a file (mode 600).

    Args:
        request: whose body is a recording.
        path: file to write.
        megabytes: largest body.

    Raises:
        HTTPException: The body is too large, breaks off, or cannot be stored.
        InputError: The body is empty.
    """
    name, size = path.name, 0
    try:
        path.touch(mode=0o600)
        with path.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > round(megabytes * 1e6):
                    raise _too_large(name, megabytes)
                file.write(chunk)
    except ClientDisconnect as error:
        raise HTTPException(400, f"{name}: the upload broke off; send it again") from error
    except OSError as error:
        raise HTTPException(
            507, f"{name}: cannot be stored ({error.strerror}); try again later"
        ) from error
    if not size:
        raise InputError(f"{name}: is empty; send the recording as the body")


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Remove a folder if the block of the `with` statement fails."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@dataclass
class Voice:
    """Recording of one talker alone, of one client.

    Attributes:
        id: name that nobody can guess.
        owner: key or visit that may use the voice; empty for anyone who has the id.
        name: name of the talker.
        path: file of the recording, alone in its private folder.
        used: time of the last use, s.
    """

    id: str
    owner: str
    name: str
    path: Path
    used: float


class Voices:
    """Recordings of known voices; each is removed some time after its last use.

    Args:
        root: private folder, below which every voice has its own.
        most: largest number of voices.
        keep: time that a voice stays after its last use, s.
    """

    def __init__(self, root: Path, most: int, keep: float) -> None:
        self.root, self.most, self.keep = root, most, keep
        self._voices: dict[str, Voice] = {}
        self._lock = threading.Lock()

    def new(self, owner: str, name: str, file: str) -> Voice:
        """Return a new voice with an empty folder, before its recording has arrived.

        Raises:
            InputError: The name is no part of a file name.
            HTTPException: There are too many voices.
        """
        check_voices({name: file})
        self._expire()
        if len(self._voices) >= self.most:
            raise HTTPException(
                503, f"{self.most} voices are stored; try again later", {"Retry-After": "60"}
            )
        key = secrets.token_urlsafe(16)
        path = self.root / f"voice-{key}" / safe_name(file)
        path.parent.mkdir(mode=0o700)
        return Voice(key, owner, name, path, time.monotonic())

    def add(self, voice: Voice) -> None:
        """Keep a voice whose recording has arrived."""
        with self._lock:
            self._voices[voice.id] = voice

    def find(self, key: str, owner: str) -> Voice | None:
        """Return a voice of this owner; None if it does not exist or belongs to another."""
        self._expire()
        voice = self._voices.get(key)
        return voice if voice is not None and voice.owner in ("", owner) else None

    def lend(self, keys: Sequence[str], owner: str, folder: Path) -> tuple[tuple[str, str], ...]:
        """Link recordings of voices into the folder of a job, which may outlive them.

        Args:
            keys: ids of the voices.
            owner: key or visit of the job.
            folder: folder of the job.

        Returns:
            Name of every voice, and its file relative to the folder.

        Raises:
            InputError: A voice does not exist, or two have one name.
        """
        found = [self.find(key, owner) for key in keys]
        lent: dict[str, str] = {}
        for number, (key, voice) in enumerate(zip(keys, found, strict=True)):
            if voice is None:
                raise InputError(f"voice {key}: does not exist here; send it with POST /v1/voices")
            if voice.name in lent:
                raise InputError(f"voice {voice.name}: is given twice; give it once")
            place = folder / f"voice{number}" / voice.path.name
            place.parent.mkdir(mode=0o700)
            os.link(voice.path, place)
            voice.used = time.monotonic()
            lent[voice.name] = str(place.relative_to(folder))
        check_voices(lent)
        return (*lent.items(),)

    def remove(self, voice: Voice) -> None:
        """Remove a voice and its recording."""
        with self._lock:
            self._voices.pop(voice.id, None)
        shutil.rmtree(voice.path.parent, ignore_errors=True)

    def leave(self, owner: str) -> None:
        """Remove all voices of an owner, whose visit ended."""
        for voice in [voice for voice in list(self._voices.values()) if voice.owner == owner]:
            self.remove(voice)

    def _expire(self) -> None:
        """Remove voices whose last use is long ago."""
        limit = time.monotonic() - self.keep
        for voice in [voice for voice in list(self._voices.values()) if voice.used < limit]:
            self.remove(voice)
