"""Separators that need no training: what there was before networks, to compare with."""

from __future__ import annotations

from collections.abc import Callable

from dpcl.separators.classical.casa import Casa
from dpcl.separators.classical.spectral import Spectral
from dpcl.separators.separation import Separator

CLASSICAL: dict[str, Callable[[], Separator]] = {"casa": Casa, "spectral": Spectral}
