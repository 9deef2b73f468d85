"""Separators that need no training: what there was before networks, to compare with."""

from __future__ import annotations

from collections.abc import Callable

from dpcl.separators.casa import Casa
from dpcl.separators.separation import Separator
from dpcl.separators.spectral import Spectral

CLASSICAL: dict[str, Callable[[], Separator]] = {"casa": Casa, "spectral": Spectral}
