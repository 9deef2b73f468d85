"""NIST SPHERE files (.sph, .wv1): what their header says, and unpacking compressed ones.

libsndfile reads the uncompressed kind. The LDC ships WSJ0 compressed with shorten, which only its
own program sph2pipe and its descendants unpack.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from typing import BinaryIO

from dpcl.errors import InputError

_MAGIC = b"NIST_1A\n"
_LONGEST = 1 << 16  # bytes of a header


def sphere_fields(data: BinaryIO) -> dict[str, str]:
    """The header's fields, such as sample_count and sample_coding; empty for other formats.

    The position of `data` is changed. Source: the header of NIST's SPHERE 2.6, "NIST_1A", its own
    length in bytes, then lines of a name, a type and a value until "end_head".
    """
    data.seek(0)
    start = data.read(16)
    if not start.startswith(_MAGIC) or not start[8:].strip().isdigit():
        return {}
    lines = data.read(min(int(start[8:]), _LONGEST) - 16).decode("latin-1").splitlines()
    if "end_head" in lines:
        lines = lines[: lines.index("end_head")]
    split = (line.split(maxsplit=2) for line in lines)
    return {field[0]: field[2] for field in split if len(field) == 3}


def is_packed(fields: dict[str, str]) -> bool:
    """Whether the samples are compressed: "pcm,embedded-shorten-v2.00" and the like."""
    return "," in fields.get("sample_coding", "")


def unpacked(data: BinaryIO, name: str) -> BinaryIO:
    """A compressed file, called `name` in messages, as the WAV that an installed sph2pipe makes.

    Raises InputError where there is no such program, or where it fails.
    """
    program = shutil.which("sph2pipe")
    if program is None:
        raise InputError(
            f"{name} is a SPHERE file compressed with shorten: install sph2pipe, or convert it"
            " with `sph2pipe -f wav IN.wv1 OUT.wav` where there is one."
        )
    command = [program, "-f", "wav"]
    try:
        with tempfile.NamedTemporaryFile(suffix=".sph") as copy:
            data.seek(0)
            shutil.copyfileobj(data, copy)
            copy.flush()
            ran = subprocess.run([*command, copy.name], capture_output=True, check=False)
    except OSError as error:  # a full disk, a program of another machine
        raise InputError(f"{name} cannot be unpacked by {program} ({error.strerror}).") from error
    if ran.returncode or not ran.stdout:
        said = ran.stderr.decode("utf-8", "replace").strip().replace(copy.name, "it")
        why = " ".join(said.split()) or f"status {ran.returncode}"
        raise InputError(f"{name} cannot be unpacked by sph2pipe ({why}): copy it again.")
    return io.BytesIO(ran.stdout)
