"""Separators that must know the talkers: what is learned of each, and how that separates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dpcl.separators.fhmm import FactorialHMM
from dpcl.separators.nmf import NMF, learn_dictionary
from dpcl.separators.separation import Separator
from dpcl.separators.talker_hmm import learn_talker


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
