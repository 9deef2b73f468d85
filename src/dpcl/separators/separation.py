"""What a separator is, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Separation:
    """The sources of a mixture, and how they were found where that can be told.

    C sources of T samples; an STFT of L frames and F frequencies; embeddings of K dimensions.
    """

    sources: Tensor  # (..., C, T), they add up to the mixture
    masks: Tensor | None = None  # (..., C, L, F), they add up to one in every bin
    embeddings: Tensor | None = None  # (..., L, F, K), unit norm


class Separator(Protocol):
    """A mixture in, its sources out: the one shape that everything above is written against."""

    sample_rate: int  # Hz

    def __call__(self, mixture: Tensor, num_sources: int | None = None) -> Separation:
        """Separate `mixture` (..., T) at `sample_rate`; without `num_sources` it decides itself."""
        ...


class OracleSeparator(Protocol):
    """A separator that is shown the answer: an upper (or lower) bound, not a method."""

    def __call__(self, mixture: Tensor, references: Tensor) -> Separation:
        """Separate `mixture` (..., T) given `references` (..., C, T) of the same length."""
        ...
