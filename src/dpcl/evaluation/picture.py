"""Page about a recording of any length: its content (spectra, masks, embeddings), and drawing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dpcl.errors import InputError
from dpcl.evaluation.figures import (
    CLEAR_DB,
    Grid,
    decibels,
    draw_affinity,
    draw_embeddings,
    draw_mask,
    draw_scatter,
    draw_spectrogram,
    loudness,
    mark_source,
    principal_components,
)
from dpcl.io import Progress, Report, no_report
from dpcl.recordings.recording import InMemory, Recording, scan
from dpcl.recordings.separate import RecordingSeparation
from dpcl.separators.base import Separator
from dpcl.signal.stft import BlockSTFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

WIDTH = 7.2  # width of the page, inches: both columns of a paper
AFFINITY_SECONDS = 0.25  # length of the segment of an affinity matrix, a row per loud bin

COLUMNS = 1600  # largest number of frames in a picture; more are averaged in groups
EMBEDDED = 8.0  # length of the part whose embeddings are shown, s


@dataclass(frozen=True)
class Embedded:
    """Embeddings of a mixture, with the magnitude and the source of every bin.

    Attributes:
        vectors: embeddings of unit norm (L', F', K).
        magnitude: magnitudes of the mixture (L', F').
        labels: source with the largest mask (L', F'), int64.
        grid: times and frequencies of the bins.
    """

    vectors: Tensor
    magnitude: Tensor
    labels: Tensor
    grid: Grid


@dataclass(frozen=True)
class Picture:
    """Content of the page about a mixture of C sources.

    Attributes:
        mixture: magnitudes (L, F).
        sources: magnitudes (C, L, F).
        masks: (C, L, F).
        grid: times and frequencies of the bins.
        seconds: duration of the mixture, s.
        embedded: embeddings; None if the separator has none, or none to show.
    """

    mixture: Tensor
    sources: Tensor
    masks: Tensor
    grid: Grid
    seconds: float
    embedded: Embedded | None = None


def draw_page(picture: Picture) -> Figure:
    """Draw the page: spectrograms on the left, masks on the right, clusters of embeddings below.

    The clusters are omitted without embeddings and in silence, where no bin has weight.
    Draw and save the page within `matplotlib.rc_context(dpcl.evaluation.figures.STYLE)`.

    Args:
        picture: content of the page.

    Returns:
        The figure, 7.2 inches wide.
    """
    from matplotlib.figure import Figure

    upper, lower = 0.5 + 1.2 * (1 + len(picture.sources)), 2.6  # inches
    embedded = picture.embedded
    if embedded is None or not embedded.magnitude.any():
        figure = Figure(figsize=(WIDTH, upper), layout="constrained")
        _draw_planes(figure, picture).set_axis_off()
        return figure
    figure = Figure(figsize=(WIDTH, upper + lower), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[upper, lower])
    over, under = parts
    components = principal_components(
        embedded.vectors.flatten(0, 1), loudness(embedded.magnitude).flatten()
    )
    scores = components.scores.view(*embedded.magnitude.shape, -1)  # (L', F', 3)
    free = _draw_planes(over, picture)
    limits = free.get_xlim(), free.get_ylim()
    draw_embeddings(free, scores, embedded.magnitude, embedded.grid)
    free.set(title="Embeddings: components 1, 2, 3 as RGB", xlabel="", ylabel="")
    free.set(ylim=limits[1], xlim=limits[0] if _shares_time(picture) else None)
    _draw_clusters(under, embedded, scores, components.variance)
    return figure


def _draw_planes(figure: Figure | SubFigure, picture: Picture) -> Axes:
    """Draw spectrograms and masks; return the empty panel beside the mixture."""
    from matplotlib.ticker import MaxNLocator

    count, grid = len(picture.sources), picture.grid
    panels = figure.subplots(1 + count, 2, sharex=True, sharey=True, squeeze=False)
    loudest = float(picture.mixture.max())
    spectrogram = draw_spectrogram(panels[0, 0], picture.mixture, grid, loudest)
    panels[0, 0].set_title("Mixture" if loudest > 0 else "Mixture: silence")
    for k in range(count):
        left, right = panels[1 + k]
        draw_spectrogram(left, picture.sources[k], grid, loudest)
        mask = draw_mask(right, picture.masks[k], grid)
        mark_source(left, k, f"Source {k + 1}")
        mark_source(right, k, f"Mask {k + 1}")
        right.set(ylabel="")
    panels[0, 0].set(ylim=(0, _top(picture.mixture, grid)))  # all panels share it
    panels[0, 0].yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    for panel in panels[:-1].flat:
        panel.set(xlabel="")
    panels[0, 0].set(xlim=(grid.start, grid.start + picture.seconds))  # all panels share it
    for image, column, label in (
        (spectrogram, panels[:, 0], "dB re loudest bin of the mixture"),
        (mask, panels[1:, 1], "share of the mixture"),
    ):
        bar = figure.colorbar(image, ax=column, pad=0.01, aspect=15 * len(column))
        bar.set_label(label, labelpad=6)
    free: Axes = panels[0, 1]
    if not _shares_time(picture):
        place: Any = free.get_subplotspec()
        free.remove()
        free = figure.add_subplot(place, sharey=panels[0, 0])
        free.tick_params(labelleft=False)
    return free


def _shares_time(picture: Picture) -> bool:
    """Return True if the embeddings fill at least half of the time axis of the other panels."""
    embedded = picture.embedded
    if embedded is None:
        return True
    return 2 * len(embedded.vectors) * embedded.grid.hop >= picture.seconds


def _top(mixture: Tensor, grid: Grid) -> float:
    """Return the highest frequency of visible bins, kHz; the whole band for silence."""
    visible = (decibels(mixture).amax(0) > -CLEAR_DB).nonzero()
    last = mixture.shape[1] - 1
    highest = int(visible[-1]) if len(visible) else last
    if highest > 0.9 * last:  # the filters of recorders end a little below the band
        highest = last
    return max(1, highest) * grid.step / 1000


def _draw_clusters(
    figure: Figure | SubFigure, embedded: Embedded, scores: Tensor, variance: Tensor
) -> None:
    """Draw two views of the components (L', F', 3), and the affinity of a short segment."""
    from matplotlib.ticker import MaxNLocator

    first, second, affinity = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    weights, labels = loudness(embedded.magnitude), embedded.labels
    for panel, components in ((first, (0, 1)), (second, (2, 1))):
        draw_scatter(panel, scores.flatten(0, 1), labels.flatten(), weights.flatten(), components)
        across, up = (f"{100 * float(variance[k]):.0f} %" for k in components)
        panel.set(xlabel=f"component {components[0] + 1} ({across} of variance)")
        panel.set(ylabel=f"component {components[1] + 1} ({up})")
        panel.set_box_aspect(1)
        for axis in (panel.xaxis, panel.yaxis):  # the same ticks at any size of the panel
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    first.set_title("Embeddings, coloured by source")
    second.set(ylabel="")
    second.tick_params(labelleft=False)
    loud = weights > 0
    segment = busiest(labels, loud, max(1, round(AFFINITY_SECONDS / embedded.grid.hop)))
    chosen = loud[segment]
    image = draw_affinity(affinity, embedded.vectors[segment][chosen], labels[segment][chosen])
    begin, end = (
        embedded.grid.start + k * embedded.grid.hop for k in (segment.start, segment.stop)
    )
    affinity.set_title(f"Affinity VVᵀ, {begin:.2f} to {end:.2f} s", pad=8)
    affinity.set(xlabel=f"{int(chosen.sum())} loud bins, by source")
    figure.colorbar(image, ax=affinity, pad=0.02, aspect=30)


def busiest(labels: Tensor, loud: Tensor, frames: int) -> slice:
    """Find the segment in which the most sources have the most loud bins.

    The segment with the largest sum over sources of the root of the number of loud bins is chosen.

    Args:
        labels: source of each bin (L, F), int64.
        loud: bins with weight (L, F), bool.
        frames: length of the segment, at most L frames are returned.

    Returns:
        Slice of the frames.

    Example:
        >>> import torch
        >>> labels = torch.tensor([[0, 0], [0, 1], [1, 1]])
        >>> busiest(labels, torch.ones(3, 2, dtype=torch.bool), frames=1)
        slice(1, 2, None)
    """
    owned = functional.one_hot(labels) * loud[..., None]  # (L, F, C)
    cumulated = functional.pad(owned.sum(1).cumsum(0), (0, 0, 1, 0))  # (L + 1, C)
    frames = min(frames, len(labels))
    inside = cumulated[frames:] - cumulated[:-frames]  # (L + 1 - frames, C)
    # The root favours balanced sources as well as many bins.
    first = int(inside.double().sqrt().sum(1).argmax())
    return slice(first, first + frames)


def picture_of(
    recording: Recording,
    separator: Separator,
    sources: int | None = None,
    start: float = 0.0,
    seconds: float | None = None,
    report: Report = no_report,
    spatial: bool = True,
) -> Picture:
    """Separate a recording, and return the content of a page about all of it or about a part.

    The whole recording is separated in every case. Magnitudes are root mean squares over the
    channels and over the frames of a column. Embeddings are those of the 8 s in which the sources
    share the most time, encoded alone; their colours are the sources of the whole recording.

    Args:
        recording: samples that can be read more than once.
        separator: any separator.
        sources: number of sources; None to estimate it.
        start: start of the part, s.
        seconds: length of the part, s; None for the rest of the recording.
        report: called with the seconds of audio done and in all.
        spatial: refine the masks by the differences of several channels.

    Returns:
        The content of the page.

    Raises:
        InputError: The recording ends before `start`, holds no samples, or no talker was found.
    """
    rate, scanned = recording.sample_rate, scan(recording)
    length = scanned.samples / rate
    name = getattr(recording, "name", "the recording")
    if start >= length:
        raise InputError(
            f"{name} lasts {length:.2f} s: nothing starts at {start} s; give a smaller --start"
        )
    seconds = length - start if seconds is None else min(seconds, length - start)

    def report_seconds(share: Progress) -> None:
        """Report the share of the work as seconds of audio."""
        report(Progress(share.done / share.total * length, length, "s of audio"))

    with RecordingSeparation(
        recording, separator, sources, report=report_seconds, scanned=scanned, spatial=spatial
    ) as separation:
        if not separation.link().num_sources:
            raise InputError(f"{name}: no talker was found; give --sources 1 to show the recording")
        stft = separation.band.stft
        hop = stft.hop / rate
        first = min(math.ceil(start / hop), separation.windows.frames - 1)
        count = min(math.ceil(seconds / hop) + 1, separation.windows.frames - first)
        planes = _planes(separation, first, count)
    grid = Grid(hop * planes.group, rate / stft.window, start)
    embedded = _embedded(recording, separator, planes, first * stft.hop, grid)
    return Picture(
        planes.magnitudes[0], planes.magnitudes[1:], planes.masks, grid, seconds, embedded
    )


@dataclass(frozen=True)
class _Planes:
    """Separation of a part of a recording, in columns of `group` frames.

    Attributes:
        magnitudes: of the mixture and its sources (1 + C, columns, F).
        masks: (C, columns, F).
        labels: source with the largest mask (frames, F'), uint8, in the band of the separator.
        group: number of frames of a column.
    """

    magnitudes: Tensor
    masks: Tensor
    labels: Tensor
    group: int


def _planes(separation: RecordingSeparation, first: int, count: int) -> _Planes:
    """Run a separation, and average the frames from `first` on in columns."""
    sources = separation.link().num_sources
    stft = separation.band.stft
    bins = min(stft.bins, separation.separator.stft.bins)
    group = -(-count // COLUMNS)
    columns = -(-count // group)
    magnitudes = torch.zeros(1 + sources, columns, stft.bins)
    masks = torch.zeros(sources, columns, stft.bins)
    labels = torch.zeros(count, bins, dtype=torch.uint8)
    analysis, spectrum_at, mask_at = BlockSTFT(stft), 0, 0

    def inside(block: Tensor, at: int) -> tuple[Tensor, slice]:
        """Return the frames of a block (..., l, F) within the part, and where they are there."""
        length = block.shape[-2]
        low = min(max(first - at, 0), length)
        high = max(min(first + count - at, length), low)
        if low == high:
            return block[..., :0, :], slice(0, 0)
        return block[..., low:high, :], slice(at + low - first, at + high - first)

    def average(columns_of: Tensor, block: Tensor, frames: slice) -> None:
        """Add frames (..., l, F) to their columns."""
        index = torch.arange(frames.start, frames.stop) // group
        columns_of.index_add_(-2, index, block)

    for piece in separation.pieces():
        if len(piece.sources) and piece.sources.shape[-1]:
            mixture = piece.sources.sum(0)
            mixture = mixture if piece.background is None else mixture + piece.background
            power = _power(analysis.push(torch.cat([mixture[None], piece.sources])))
            block, frames = inside(power, spectrum_at)
            average(magnitudes, block, frames)
            spectrum_at += power.shape[-2]
        block, frames = inside(piece.masks, mask_at)
        if block.shape[-2]:
            average(masks, block, frames)
            labels[frames] = block[..., :bins].argmax(0).to(torch.uint8)
        mask_at += piece.masks.shape[1]
    power = _power(analysis.finish())
    block, frames = inside(power, spectrum_at)
    average(magnitudes, block, frames)
    sizes = torch.arange(count).div(group, rounding_mode="floor").bincount(minlength=columns)
    sizes = sizes[:, None].float()
    return _Planes((magnitudes / sizes).sqrt(), masks / sizes, labels, group)


def _power(spectra: Tensor) -> Tensor:
    """Return the mean power (C, l, F) over the channels of spectra (C, channels, l, F)."""
    return spectra.abs().square().mean(1)


def _embedded(
    recording: Recording, separator: Separator, planes: _Planes, first: int, grid: Grid
) -> Embedded | None:
    """Return the embeddings of the busiest part of a picture; None for a separator without any.

    first: sample of the recording at which the picture begins.
    """
    rate = recording.sample_rate
    group, magnitude = planes.group, planes.magnitudes[0]
    owners = planes.masks.argmax(0)
    columns = max(1, round(EMBEDDED / grid.hop))
    part = busiest(owners, loudness(magnitude) > 0, columns)
    hop = round(grid.hop * rate / group)  # samples
    begin, frames = part.start * group, (part.stop - part.start) * group
    frames = max(1, min(frames, round(EMBEDDED * rate / hop)))
    samples = _read(recording, first + begin * hop, first + (begin + frames) * hop)
    with RecordingSeparation(InMemory(samples, rate), separator, len(planes.masks)) as separation:
        separation.analyse()
        vectors = separation.embeddings()
        if vectors is None:
            return None
        stft = separation.band.stft
        spectrum = stft(torch.from_numpy(samples)).abs().square().mean(0).sqrt()
    bins = min(vectors.shape[1], stft.bins, planes.labels.shape[1])
    labels = planes.labels[begin : begin + len(vectors), :bins].long()
    length = min(len(vectors), len(labels), len(spectrum))
    own = Grid(hop / rate, grid.step, grid.start + begin * hop / rate)
    return Embedded(vectors[:length, :bins], spectrum[:length, :bins], labels[:length], own)


def _read(recording: Recording, first: int, last: int) -> NDArray[np.float32]:
    """Read some samples (channels, n) of a recording."""
    parts, read = [], 0
    for block in recording.blocks(1 << 18):
        parts.append(block[:, max(0, first - read) : max(0, last - read)])
        read += block.shape[1]
        if read >= last:
            break
    return np.ascontiguousarray(np.concatenate(parts, axis=1))
