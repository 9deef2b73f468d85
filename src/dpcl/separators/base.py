"""Protocol of separators: they estimate masks window by window; a driver does everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.separators.presentation import Presentation
from dpcl.signal.stft import STFT
from dpcl.signal.windows import Windows

Analysis = tuple[Tensor, ...]  # the tensors that a separator keeps of one window
Result = TypeVar("Result")


@dataclass(frozen=True, repr=False)
class Separation(Presentation):
    """Separated sources of a mixture.

    Attributes:
        sources: waveforms (..., C, T); with the background they sum to the mixture.
        masks: (..., C, L, F), without the mask of the background.
        embeddings: (..., L, F, K) of the separator's STFT; None if the recording has several
            windows.
        background: waveform (..., T) of the part that belongs to no source; None if the separator
            does not estimate it.
        confidence: estimated SI-SDR of each source, dB; None if the separator does not estimate it.
        sample_rate: of the waveforms, in Hz; None for a batch.

    In a notebook, a separation shows players, waveforms and spectrograms.
    """

    sources: Tensor
    masks: Tensor | None = None
    embeddings: Tensor | None = None
    background: Tensor | None = None
    confidence: tuple[float, ...] | None = None
    sample_rate: int | None = None


@dataclass(frozen=True)
class Link:
    """Result of linking the windows of a recording.

    Attributes:
        num_sources: number of sources C; the background is not one of them.
        background: the masks have one more row, the last, for the background.
        state: values that the separator's own `masks` needs.
        confidence: estimated SI-SDR of each source, dB; None without an estimate.
    """

    num_sources: int
    background: bool = False
    state: Any = None
    confidence: tuple[float, ...] | None = None


class Analyses(Protocol):
    """Analyses of all windows of a recording, in order; they can be read more than once."""

    windows: Windows

    def map(self, function: Callable[[int, Analysis], Result]) -> Iterator[Result]:
        """Call `function` with number and analysis of each window, in threads; yield in order."""
        ...

    def replace(
        self, function: Callable[[int, Analysis], tuple[Analysis, Result]]
    ) -> Iterator[Result]:
        """Work like `map`; the analysis that `function` returns replaces the one that it got."""
        ...

    def each(self, function: Callable[[Any], Result], items: Any) -> Iterator[Result]:
        """Call `function` with each of `items`, in the same threads; yield in order."""
        ...


class Separator(ABC):
    """Base class of separators: masks of the sources of a recording, window by window.

    The driver (dpcl.recordings.separate) calls `analyse` for all windows, `link` once, and `masks`
    for all windows. Files, pictures, scores and validation run through it.

    Attributes:
        sample_rate: in Hz.
        stft: STFT at `sample_rate`.
        window_seconds: length of the longest window in s; infinite for one window per recording.
        overlap_seconds: least overlap of two neighbouring windows in s.
    """

    sample_rate: int
    stft: STFT
    window_seconds: float = 10.0
    overlap_seconds: float = 0.8

    @property
    def windows_at_once(self) -> int:
        """Largest number of windows in one call of `analyse`."""
        return 1

    @abstractmethod
    def analyse(self, spectra: Tensor) -> Analysis:
        """Analyse some windows; called from any thread.

        Args:
            spectra: complex (W, M, L, F), W windows of M channels.

        Returns:
            Tensors whose first dimension is the window.
        """

    @abstractmethod
    def link(self, analyses: Analyses, num_sources: int | None, most: int) -> Link:
        """Estimate the number of sources and match them across windows; once per recording.

        Args:
            analyses: analyses of all windows.
            num_sources: number of sources; None to estimate it.
            most: upper limit of the estimated number.

        Returns:
            The link, which `masks` receives.
        """

    @abstractmethod
    def masks(self, window: int, analysis: Analysis, link: Link) -> Tensor:
        """Estimate the masks of one window; called from any thread.

        Args:
            window: number of the window, from 0.
            analysis: analysis of the window.
            link: link of the recording.

        Returns:
            Masks (C, L, F), or (C + 1, L, F) if `link.background`; they sum to one in every bin.
        """

    def embeddings(self, analysis: Analysis) -> Tensor | None:
        """Return the embeddings (L, F, K) of one window; None for a separator without any."""
        return None

    def prepared(self, windows: int) -> Separator:
        """Return the form of this separator that is fastest for this number of windows."""
        return self


class WindowSeparator(Separator):
    """Base class of separators that see one window at a time; a subclass defines `estimate`.

    Sources are matched from window to window where neighbours overlap (`link_by_overlap`).
    """

    default_sources: int = 2  # number of sources if none is given

    @abstractmethod
    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Estimate the masks of one window.

        Args:
            spectrum: complex (L, F).
            num_sources: number of sources C.
            start: first frame of the window in the recording.

        Returns:
            Masks (C, L, F) that sum to one in every bin.
        """

    def analyse(self, spectra: Tensor) -> Analysis:
        """Keep the spectra of the first channel, because masks need the number of sources."""
        return (torch.view_as_real(spectra[:, 0].contiguous()),)

    def link(self, analyses: Analyses, num_sources: int | None, most: int) -> Link:
        """Estimate the masks of every window and match them to those of the previous window."""
        count = num_sources or min(self.default_sources, most)
        starts = analyses.windows.starts

        def estimated(window: int, analysis: Analysis) -> tuple[Tensor, Tensor]:
            spectrum = torch.view_as_complex(analysis[0])
            return self.estimate(spectrum, count, starts[window]), spectrum.abs()

        return Link(count, state=link_by_overlap(analyses, estimated))

    def masks(self, window: int, analysis: Analysis, link: Link) -> Tensor:
        """Return the masks (C, L, F) of one window in the order of the recording."""
        masks: Tensor = analysis[0][link.state[window]]
        return masks / masks.sum(0)  # half precision between the passes rounds them


def link_by_overlap(
    analyses: Analyses, estimate: Callable[[int, Analysis], tuple[Tensor, Tensor]]
) -> list[Tensor]:
    """Estimate the masks of every window and match their sources to those of the first window.

    In the frames that two windows share, each source of the later one is assigned to the source of
    the earlier one with the most similar masks, weighted by magnitude.

    Args:
        analyses: analyses of all windows; each is replaced by the masks (C, L, F) of its window.
        estimate: function of number and analysis of a window that returns masks (C, L, F) and
            magnitude (L, F).

    Returns:
        An order (C,) for every window.

    Source: assignment of Kuhn 1955.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    starts, length = analyses.windows.starts, analyses.windows.length
    shared = [0, *(first + length - second for first, second in pairwise(starts)), 0]

    def ends(window: int, analysis: Analysis) -> tuple[Analysis, tuple[Tensor, Tensor]]:
        masks, magnitude = estimate(window, analysis)
        first, last = shared[window], length - shared[window + 1]
        return (masks,), (masks[:, :first] * magnitude[:first], masks[:, last:].clone())

    orders: list[Tensor] = []
    before = torch.zeros(0)
    for head, tail in analyses.replace(ends):
        order = torch.arange(len(tail))
        if orders:
            agreement = torch.einsum("clf,dlf->cd", before, head)
            order = torch.from_numpy(linear_sum_assignment(agreement.numpy(), maximize=True)[1])
        orders.append(order)
        before = tail[order]
    return orders


@dataclass(frozen=True)
class Context:
    """Facts about one mixture that only some separators need, at the separator's sample rate.

    Attributes:
        mixture: samples (T,).
        references: sources of the mixture (C, T), for oracles.
        talkers: a model of each talker, learned from other speech, for NMF and the factorial HMM.
    """

    mixture: Tensor | None = None
    references: Tensor | None = None
    talkers: Sequence[Any] = ()


def need_number(name: str, known: int, num_sources: int) -> None:
    """Raise InputError unless a separator of `known` sources can separate `num_sources`.

    Args:
        name: name of the separator, for the message.
        known: number of sources that the separator has references or models of.
        num_sources: number of sources that was requested.

    Raises:
        InputError: The two numbers differ.
    """
    if num_sources != known:
        raise InputError(f"{name}: has {known} sources, not {num_sources}; give --sources {known}")
