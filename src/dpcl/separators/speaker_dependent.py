"""Separators that must know the talkers: what is learned of each, and how that separates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dpcl.separators.classical.fhmm import FactorialHMM, learn_talker
from dpcl.separators.classical.nmf import NMF, learn_dictionary
from dpcl.separators.separation import Separator


@dataclass(frozen=True)
class SpeakerDependent:
    """A way to separate talkers whose other speech is at hand."""

    sample_rate: int  # Hz, of the recordings and of the mixture
    learn: Callable[[Sequence[Tensor]], Any]  # recordings (T,) of one talker -> his model
    separator: Callable[[Sequence[Any]], Separator]  # models of all talkers of a mixture


SPEAKER_DEPENDENT = {
    "nmf": SpeakerDependent(NMF.sample_rate, learn_dictionary, NMF),
    "fhmm": SpeakerDependent(FactorialHMM.sample_rate, learn_talker, FactorialHMM),
}
