"""Protocol of separators: they estimate masks window by window; a driver does everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from dpcl.errors import FLOOR_DB, InputError
from dpcl.separators.presentation import Presentation
from dpcl.signal.stft import STFT, Windows

Analysis = tuple[Tensor, ...]  # the tensors that a separator keeps of one window
Result = TypeVar("Result")
NO_VOICES = "--voice: the model finds no talkers by voice; choose another --model such as `default`"


@dataclass(frozen=True, order=True)
class Segment:
    """Stretch of time in which one talker is active, from `start` to `end` in s."""

    start: float
    end: float
    talker: str


@dataclass(frozen=True)
class Timeline:
    """Segments of all talkers of a recording: who speaks when.

    Attributes:
        segments: in order of their start; segments of different talkers may overlap.
        seconds: length of the recording in s; None if unknown.
        names: talkers of the recording, also those without a segment.

    Example:
        >>> timeline = Timeline((Segment(0.0, 2.0, "s1"), Segment(1.5, 4.0, "s2")), 5.0)
        >>> timeline.talkers
        ('s1', 's2')
        >>> timeline.overlaps()
        [Segment(start=1.5, end=2.0, talker='s1+s2')]
    """

    segments: tuple[Segment, ...]
    seconds: float | None = None
    names: tuple[str, ...] = ()

    @property
    def talkers(self) -> tuple[str, ...]:
        """Return `names`, then the talkers of the segments, each once."""
        return tuple(dict.fromkeys([*self.names, *(x.talker for x in self.segments)]))

    @property
    def end(self) -> float:
        """Return the length of the recording in s, or the end of the last segment."""
        last = max((segment.end for segment in self.segments), default=0.0)
        return last if self.seconds is None else self.seconds

    def overlaps(self) -> list[Segment]:
        """Return the stretches with several active talkers; their names are joined by `+`."""
        edges = sorted({t for x in self.segments for t in (x.start, x.end)})
        found: list[Segment] = []
        for start, end in pairwise(edges):
            active = [x.talker for x in self.segments if x.start <= start and end <= x.end]
            if len(active) > 1:
                found.append(Segment(start, end, "+".join(sorted(active))))
        return found

    def of(self, names: Sequence[str]) -> Timeline:
        """Return the timeline of these talkers only, in this order."""
        segments = tuple(x for x in self.segments if x.talker in names)
        return Timeline(segments, self.seconds, tuple(names))

    def activity(self, hop: float, frames: int) -> Tensor:
        """Return the activity of `talkers` in frames.

        Args:
            hop: time between frames in s; frame i is at i * hop.
            frames: number of frames L.

        Returns:
            bool (C, L).
        """
        rows = {talker: number for number, talker in enumerate(self.talkers)}
        active = torch.zeros(len(rows), frames, dtype=torch.bool)
        for segment in self.segments:
            first, last = round(segment.start / hop), round(segment.end / hop)
            active[rows[segment.talker], first:last] = True
        return active


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
        timeline: segments in which each source is active; None for a batch.
        sample_rate: of the waveforms, in Hz; None for a batch.
        names: names of the sources: of known voices, or s1, s2, …; empty for a batch.

    In a notebook, a separation shows players, waveforms and spectrograms.
    """

    sources: Tensor
    masks: Tensor | None = None
    embeddings: Tensor | None = None
    background: Tensor | None = None
    confidence: tuple[float, ...] | None = None
    timeline: Timeline | None = None
    sample_rate: int | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Link:
    """Result of linking the windows of a recording.

    Attributes:
        num_sources: number of sources C; the background is not one of them.
        background: the masks have one more row, the last, for the background.
        state: values that the separator's own `masks` needs.
        confidence: estimated SI-SDR of each source, dB; None without an estimate.
        activity: (C, L), probability that each source is active in each frame of the recording;
            None for a separator that does not estimate it.
        talkers: (L, classes), probabilities of 0, 1, 2, … active talkers in each frame; the last
            class stands for its number or more. None for a separator that does not estimate them.
        floor: level in dB to which inactive sources are attenuated.
        known: name of each source, from 0, that has a known voice.
    """

    num_sources: int
    background: bool = False
    state: Any = None
    confidence: tuple[float, ...] | None = None
    activity: Tensor | None = None
    talkers: Tensor | None = None
    floor: float = FLOOR_DB
    known: Mapping[int, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the sources: of known voices, or s1, s2, ….

        Example:
            >>> Link(2, known={1: "ann"}).names
            ('s1', 'ann')
        """
        return tuple(self.known.get(k, f"s{k + 1}") for k in range(self.num_sources))


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
        low_apart: loud sound below 70 Hz belongs to no source: the driver splits it off first.
        knows_voices: sources get the names of known voices.
    """

    sample_rate: int
    stft: STFT
    window_seconds: float = 10.0
    overlap_seconds: float = 0.8
    low_apart: bool = True
    knows_voices: bool = False

    @property
    def windows_at_once(self) -> int:
        """Largest number of windows in one call of `analyse`."""
        return 1

    @property
    def bins(self) -> int:
        """Number of bins of the spectra for `analyse`.

        With more than `stft` has, they are those of recordings with a higher rate, in which they
        are not damped; with a lower rate they are zero.
        """
        return self.stft.bins

    @abstractmethod
    def analyse(self, spectra: Tensor) -> Analysis:
        """Analyse some windows; called from any thread.

        Args:
            spectra: complex (W, M, L, F), W windows of M channels, `bins` bins.

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

    def voice(self, analyses: Analyses) -> tuple[Tensor, float]:
        """Return the voice vector (D,) of a recording of one talker, and its speech in s.

        Raises:
            InputError: The separator finds no talkers by voice.
        """
        raise InputError(NO_VOICES)

    def with_voices(self, voices: Mapping[str, Tensor]) -> Separator:
        """Return a separator that gives sources the names of known voices.

        Args:
            voices: voice vector (D,) by name, from `voice`.

        Raises:
            InputError: The separator finds no talkers by voice.
        """
        raise InputError(NO_VOICES)

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

    Sources of neighbouring windows are assigned to each other in the frames that both share. The
    assignment has the most similar masks, weighted by magnitude.

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
        timeline: true timeline, for separators that follow one.
    """

    mixture: Tensor | None = None
    references: Tensor | None = None
    talkers: Sequence[Any] = ()
    timeline: Timeline | None = None


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
