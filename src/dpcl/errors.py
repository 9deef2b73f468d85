"""Errors that a user can correct, one sentence `{where}: {problem}; {remedy}`; limits of input.

The limits are checked before slow imports and before anything is written.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


MOST_SOURCES = 10  # largest number of sources
MOST_CHANNELS = 64  # largest number of channels
SAMPLE_RATES = (1_000, 1_000_000)  # Hz, lowest and highest
FLOOR_DB = -30.0  # level to which gates attenuate inactive sources; lower ones sound like pumping
LONGEST_NAME = 100  # bytes of the name of a voice


class InputError(ValueError):
    """Wrong input, argument or setting.

    The command line prints the message, without a traceback, and exits with status 2.
    """


def check_voices(voices: Mapping[str, object]) -> None:
    """Check the names of known voices, which become parts of file names.

    Args:
        voices: recording of each voice by name.

    Raises:
        InputError: They are no mapping, a name occurs twice, is no part of a file name, or is the
            name of another output.

    Example:
        >>> check_voices({"Ann": "ann.wav", "Bob": "bob.wav"})
    """
    if not isinstance(voices, Mapping):
        kind = type(voices).__name__
        raise InputError(f'voices: {kind} is no mapping; give {{"name": recording, ...}}')
    seen: set[str] = set()
    for name in voices:
        if not isinstance(name, str):
            raise InputError(f"voices: {type(name).__name__} is no name; give a str")
        where = f"--voice {name}"
        if not name or name != name.strip() or re.search(r'[/\\<>:"|?*+\x00-\x1f\x7f]|^\.', name):
            raise InputError(f"{where}: {name!r} is no part of a file name; use letters and digits")
        if len(name.encode(errors="surrogateescape")) > LONGEST_NAME:
            raise InputError(f"{where}: is longer than {LONGEST_NAME} bytes; give a shorter name")
        if re.fullmatch("s[0-9]+|background|mixture", name.casefold()):
            raise InputError(f"{where}: is the name of another output; give another name")
        if name.casefold() in seen:
            raise InputError(f"{where}: the name occurs twice; give every voice its own name")
        seen.add(name.casefold())


def need_package(extra: str, purpose: str, package: str) -> None:
    """Check that an optional package is installed.

    Args:
        extra: name of the extra of dpcl that installs the package.
        purpose: beginning of the error message, such as "pictures need".
        package: name under which the package is imported.

    Raises:
        InputError: The package is not installed.

    Example:
        >>> need_package("show", "pictures need", "math")
    """
    if find_spec(package) is None:
        raise missing_package(extra, purpose, package)


def missing_package(extra: str, purpose: str, package: str) -> InputError:
    """Return the error for a package whose import failed.

    Args:
        extra: name of the extra of dpcl that installs the package.
        purpose: beginning of the error message, such as "pictures need".
        package: name under which the package is imported.

    Returns:
        The error, for the caller to raise.

    Example:
        >>> print(missing_package("show", "pictures need", "matplotlib"))
        pictures need matplotlib, which is not installed; install it with `pip install "dpcl[show]"`
    """
    return InputError(
        f"{purpose} {package}, which is not installed; install it with `pip install"
        f' "dpcl[{extra}]"`'
    )


def check_sources(sources: int | None) -> None:
    """Raise InputError unless the number of sources is possible.

    Args:
        sources: number of sources, 1 to 10; None is allowed (the separator decides).
    """
    number = isinstance(sources, Integral) and not isinstance(sources, bool)
    whole = number and 1 <= int(sources or 0) <= MOST_SOURCES
    if sources is not None and not whole:
        raise InputError(f"cannot separate into {sources} sources; give 1 to {MOST_SOURCES}")


def as_path(value: object, argument: str) -> Path:
    """Return an argument as a path.

    Args:
        value: str, bytes or path.
        argument: name of the argument, for the message.

    Raises:
        InputError: It is something else, or holds a NUL byte.
    """
    if not isinstance(value, str | bytes | os.PathLike):
        raise InputError(f"{argument}: {type(value).__name__} is no path; give a str or Path")
    name = os.fsdecode(value)
    if "\0" in name:
        raise InputError(f"{argument}: {name[:80]!r} holds a NUL byte; give the name of a file")
    return Path(name)


def check_floor(floor: float) -> None:
    """Raise InputError unless a floor of inactive sources is possible.

    Args:
        floor: level in dB, -120 to 0.
    """
    number = isinstance(floor, Real) and not isinstance(floor, bool)
    if not number or not -120 <= floor <= 0:
        raise InputError(f"a floor of {floor} dB is no attenuation; give -120 to 0 dB")


def check_mixture(mixture: Tensor) -> None:
    """Raise InputError unless the mixture (..., T) has samples and all of them are finite."""
    if mixture.numel() == 0 or not bool(mixture.isfinite().all()):
        raise InputError("the mixture is empty or holds NaN or infinite values; repair it first")


def check_recording(shape: tuple[int, ...], sample_rate: float) -> None:
    """Raise InputError unless samples of this shape and rate can be a recording.

    Args:
        shape: (T,) or (channels, T), with at most MOST_CHANNELS channels.
        sample_rate: in Hz, within SAMPLE_RATES.
    """
    if len(shape) not in (1, 2) or 0 in shape:
        raise InputError(
            f"samples of shape {shape} are no recording; give (T,) or (channels, T), at least one"
            " sample"
        )
    if len(shape) == 2 and shape[0] > MOST_CHANNELS:
        raise InputError(
            f"samples of shape {shape} have more than {MOST_CHANNELS} channels; give"
            " (channels, T), perhaps samples.T"
        )
    lowest, highest = SAMPLE_RATES
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, Real) or sample_rate % 1:
        raise InputError(
            f"a sample rate of {sample_rate!r} is no whole number of Hz; give the rate of the"
            " recording"
        )
    if not lowest <= sample_rate <= highest:
        raise InputError(
            f"a sample rate of {sample_rate} Hz is not between {lowest} and {highest} Hz; give the"
            " rate of the recording"
        )


def sources_or_alias(sources: int | None, num_sources: int | None) -> int | None:
    """Return the number of sources from the argument or from its deprecated name.

    Args:
        sources: number of sources; None if omitted.
        num_sources: the same under its deprecated name.

    Raises:
        InputError: Both were given.
    """
    if num_sources is None:
        return sources
    if sources is not None:
        raise InputError("num_sources: is the old name of sources; give sources only")
    warnings.warn("num_sources is deprecated; use sources", DeprecationWarning, stacklevel=3)
    return num_sources
