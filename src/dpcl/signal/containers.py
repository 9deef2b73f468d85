"""What the containers of audio files can hold: coding, sample rate and channels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from dpcl.errors import InputError

_CONTAINERS = {"AIF": "AIFF", "OGA": "OGG", "OPUS": "OGG"}  # suffix to libsndfile's name
_BITS = {
    "PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32,
    "ALAC_16": 16, "ALAC_20": 20, "ALAC_24": 24, "ALAC_32": 32,
}  # fmt: skip
_VORBIS_RATES = 200_000  # Hz; libvorbis crashes above


def container(path: Path) -> str:
    """libsndfile's name of the container that the suffix of `path` stands for ("WAV", "OGG")."""
    suffix = path.suffix[1:].upper()
    return _CONTAINERS.get(suffix, suffix)


def output_subtype(file_format: str, input_subtype: str) -> str:
    """The coding in which a container keeps a recording of `input_subtype`.

    `file_format` is a container or suffix: "WAV", "flac", "opus". PCM of 16 and more bits and
    float stay as they are where the container has them; 8 bits and what was compressed with loss
    become 16, double becomes float, and 32 bits and float become 24 in FLAC.
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
    """Raise InputError where the container of `path` cannot hold such audio."""
    file_format = container(path)
    if file_format not in soundfile.available_formats() or file_format == "RAW":
        raise InputError(
            f"{path} cannot be written: end its name in .wav, .flac, .ogg, .opus, .mp3, .aiff,"
            " .caf or .w64."
        )
    # of ALAC, libsndfile aborts the process where the disk fills
    refused = subtype.startswith("ALAC") or not soundfile.check_format(file_format, subtype)
    if refused or (path.suffix.lower() == ".opus" and subtype != "OPUS"):
        raise InputError(f"{path} cannot be written as {subtype}: end its name in .wav or .flac.")
    try:
        if subtype == "VORBIS" and sample_rate > _VORBIS_RATES:
            raise ValueError("too high a sample rate")
        soundfile.SoundFile(
            io.BytesIO(), "w", sample_rate, channels, subtype, format=file_format
        ).close()
    except (soundfile.SoundFileError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} cannot be written: {file_format} ({subtype}) does not take {channels} channels"
            f" at {sample_rate} Hz; end its name in .wav or .flac."
        ) from error


def quantised(
    samples: NDArray[np.floating], subtype: str
) -> NDArray[np.int32] | NDArray[np.float32]:
    """Samples as `subtype` holds them: int32, rounded to its steps and clipped; float32 if float.

    libsndfile would scale floats by 32767 (for 16 bits) but read them back by 1/32768.
    """
    bits = _BITS.get(subtype)
    if bits is None:
        return samples.astype(np.float32)
    full = 2.0 ** (bits - 1)
    if bits == 32:
        samples = samples.astype(np.float64)  # float32 does not hold 2**31 - 1
    steps: NDArray[np.int32] = np.rint(samples * full).clip(-full, full - 1).astype(np.int32)
    steps <<= 32 - bits  # libsndfile takes the uppermost
    return steps


def sample_bytes(subtype: str) -> int:
    """The most bytes that one sample takes."""
    return 8 if subtype == "DOUBLE" else _BITS.get(subtype, 32) // 8
