"""Limits of the input: checked before slow imports and before anything is written."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import TYPE_CHECKING

from dpcl.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

MOST_SOURCES = 10  # largest number of sources
MOST_CHANNELS = 64  # largest number of channels
SAMPLE_RATES = (1_000, 1_000_000)  # Hz, lowest and highest


def check_sources(sources: int | None) -> None:
    """Raise InputError unless the number of sources is possible.

    Args:
        sources: number of sources, 1 to 10; None is allowed (the separator decides).
    """
    whole = isinstance(sources, Integral) and 1 <= sources <= MOST_SOURCES
    if sources is not None and not whole:
        raise InputError(f"cannot separate into {sources} sources; give 1 to {MOST_SOURCES}")


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
