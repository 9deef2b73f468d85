"""Figures: spectrograms, masks, embeddings, affinities, and a page with all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.components import principal_components

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

RANGE_DB = 80.0  # range of a spectrogram below its loudest bin
CLEAR_DB = 60.0  # range of visible bins below the loudest
LOUD_DB = 40.0  # range of bins with weight below the loudest (Hershey et al. 2016)
POINTS = 6000  # number of points of a scatter, at most: more would cover one another

# Colours: blue, orange, green, purple, sky blue, vermilion, yellow, black and two greys.
SOURCE_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9",
    "#D55E00", "#F0E442", "#000000", "#999999", "#555555",
)  # fmt: skip

# Style for papers: type of 8 points at full width, and fonts that can be embedded.
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.titlepad": 4,
    "axes.labelsize": 8,
    "axes.labelpad": 2,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.formatter.useoffset": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 220,
}


@dataclass(frozen=True)
class Grid:
    """Times and frequencies of STFT bins: frame l at start + l hop, frequency f at f step.

    Attributes:
        hop: time between frames, s.
        step: distance of frequencies, Hz.
        start: time of the first frame, s.
    """

    hop: float
    step: float
    start: float = 0.0

    def extent(self, frames: int, bins: int) -> tuple[float, float, float, float]:
        """Return left and right (s), bottom and top (kHz) of an image of L frames, F frequencies.

        Example:
            >>> Grid(hop=0.5, step=1000.0).extent(frames=4, bins=5)
            (-0.25, 1.75, -0.5, 4.5)
        """
        left = self.start - self.hop / 2
        khz = self.step / 1000
        return left, left + frames * self.hop, -khz / 2, (bins - 0.5) * khz


def decibels(magnitude: Tensor, loudest: float | None = None) -> Tensor:
    """Convert magnitudes to dB relative to the loudest, at least -200 dB.

    Args:
        magnitude: magnitudes of any shape.
        loudest: reference magnitude; the largest of `magnitude` if None.

    Returns:
        Levels in dB of the same shape; -200 dB throughout for silence.

    Example:
        >>> decibels(torch.tensor([1.0, 0.1, 0.0]))
        tensor([   0.,  -20., -200.])
    """
    reference = float(magnitude.max()) if loudest is None else loudest
    if reference <= 0:
        return torch.full_like(magnitude, -200.0)
    return 20 * (magnitude / reference).clamp_min(1e-10).log10()


def loudness(magnitude: Tensor, floor_db: float = LOUD_DB) -> Tensor:
    """Return the weight of each bin: 1 for the loudest, 0 at the floor, linear in dB between.

    Args:
        magnitude: magnitudes of any shape.
        floor_db: level of weight 0 below the loudest bin, dB.

    Returns:
        Weights of the same shape, from 0 to 1.
    """
    return (1 + decibels(magnitude) / floor_db).clamp(0, 1)


def draw_spectrogram(
    axes: Axes, magnitude: Tensor, grid: Grid, loudest: float | None = None
) -> AxesImage:
    """Draw magnitudes in dB relative to `loudest`.

    Args:
        axes: panel to draw in.
        magnitude: (L, F).
        grid: times and frequencies of the bins.
        loudest: reference magnitude; the largest of the mixture makes its sources comparable.
    """
    return _image(axes, decibels(magnitude, loudest), grid, cmap="magma", vmin=-RANGE_DB, vmax=0)


def draw_mask(axes: Axes, mask: Tensor, grid: Grid) -> AxesImage:
    """Draw a mask (L, F) with values from 0 to 1."""
    return _image(axes, mask, grid, cmap="viridis", vmin=0, vmax=1)


def draw_embeddings(axes: Axes, scores: Tensor, magnitude: Tensor, grid: Grid) -> AxesImage:
    """Draw three principal components as red, green and blue, dark where magnitudes are low.

    Bins of similar colour have similar embeddings. Each component spans its colour from the second
    to the 98th percentile of the loud bins.

    Args:
        axes: panel to draw in.
        scores: principal components (L, F, 3).
        magnitude: (L, F).
        grid: times and frequencies of the bins.
    """
    loud = scores[loudness(magnitude) > 0]  # (N, 3)
    if len(loud):
        low, high = _percentiles(loud)
        scores = (scores - low) / (high - low).clamp_min(torch.finfo(scores.dtype).tiny)
    colours = 0.15 + 0.85 * scores.clamp(0, 1)
    brightness = loudness(magnitude, CLEAR_DB).sqrt()
    return _image(axes, colours * brightness[..., None], grid)


def draw_scatter(
    axes: Axes,
    scores: Tensor,
    labels: Tensor,
    weights: Tensor,
    components: tuple[int, int] = (0, 1),
) -> None:
    """Draw two principal components of bins as points, coloured by source.

    Args:
        axes: panel to draw in.
        scores: principal components (N, 3).
        labels: source of each bin (N,), int64.
        weights: opacity of each bin (N,), from 0 to 1. Bins of weight 0 are omitted.
        components: components on the horizontal and the vertical axis.
    """
    from matplotlib.colors import to_rgba

    across, up = components
    axes.set(xlabel=f"component {across + 1}", ylabel=f"component {up + 1}")
    loud = weights.nonzero()[:, 0]
    if not len(loud):
        return
    # The order is random, so that no source covers the others; the seed makes it reproducible.
    order = torch.randperm(len(loud), generator=torch.Generator().manual_seed(0))
    shown = loud[order[:POINTS]]
    alphas = weights[shown].clamp(0, 1).tolist()
    colours = [
        to_rgba(source_colour(label), alpha)
        for label, alpha in zip(labels[shown].tolist(), alphas, strict=True)
    ]
    x, y = scores[shown, across].numpy(), scores[shown, up].numpy()
    # Points become an image in PDF and SVG: thousands of them are slow to display.
    axes.scatter(x, y, s=3, c=colours, linewidths=0, rasterized=True)


def draw_affinity(axes: Axes, embeddings: Tensor, labels: Tensor) -> AxesImage:
    """Draw the affinity matrix VVᵀ of bins, sorted by source.

    One-hot assignments (N, C) in place of V give the ideal affinity YYᵀ. Bars in the sources'
    colours mark two sides.

    Args:
        axes: panel to draw in.
        embeddings: V (N, K).
        labels: source of each bin (N,), int64. Bins of one source keep their order.
    """
    order = labels.argsort(stable=True)
    v = embeddings[order]
    bins = len(v)
    image = axes.imshow(
        (v @ v.T).numpy(), cmap="RdBu_r", vmin=-1, vmax=1, extent=(0, bins, bins, 0)
    )
    first, thickness = 0.0, 0.025  # fractions of a side
    for label, count in enumerate(labels.bincount().tolist()):
        share = count / bins
        colour = source_colour(label)
        _draw_bar(axes, (first, 1.01), share, thickness, colour)
        _draw_bar(axes, (-0.01 - thickness, 1 - first - share), thickness, share, colour)
        first += share
    axes.set(xticks=[], yticks=[])
    return image


def source_colour(source: int) -> str:
    """Return the colour of a source, counted from 0; colours repeat after ten.

    Example:
        >>> source_colour(0) == source_colour(10)
        True
    """
    return SOURCE_COLOURS[source % len(SOURCE_COLOURS)]


def mark_source(axes: Axes, source: int, title: str = "") -> None:
    """Draw a bar in the source's colour on top of a panel, and a title above it."""
    axes.set_title(title, pad=6)
    _draw_bar(axes, (0.0, 1.01), 1.0, 0.035, source_colour(source))


def _draw_bar(
    axes: Axes, corner: tuple[float, float], width: float, height: float, colour: str
) -> None:
    """Draw a filled rectangle, in fractions of the panel; it may extend outside the panel."""
    from matplotlib.patches import Rectangle

    bar = Rectangle(
        corner, width, height, transform=axes.transAxes, color=colour, linewidth=0, clip_on=False
    )
    axes.add_patch(bar)


def _percentiles(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the second and the 98th percentile of points (N, 3), each (3,)."""
    ranked = points.sort(0).values  # torch.quantile takes at most 16 million values
    last = len(points) - 1
    return ranked[round(0.02 * last)], ranked[round(0.98 * last)]


def _image(axes: Axes, values: Tensor, grid: Grid, **look: object) -> AxesImage:
    """Draw values (L, F) or colours (L, F, 3) over time and frequency."""
    frames, bins = values.shape[:2]
    image = axes.imshow(
        values.transpose(0, 1).numpy(),
        origin="lower",
        aspect="auto",
        extent=grid.extent(frames, bins),
        **look,  # type: ignore[arg-type]
    )
    axes.set(xlabel="s", ylabel="kHz")
    return image


WIDTH = 7.2  # width of the page, inches: both columns of a paper
AFFINITY_SECONDS = 0.25  # length of the segment of an affinity matrix, a row per loud bin


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
    draw_embeddings(free, scores, embedded.magnitude, embedded.grid)
    free.set(
        title="Embeddings: components 1, 2, 3 as RGB",
        ylim=(0, (scores.shape[1] - 1) * embedded.grid.step / 1000),
        xlabel="",
    )
    _draw_clusters(under, embedded, scores, components.variance)
    return figure


def _draw_planes(figure: Figure | SubFigure, picture: Picture) -> Axes:
    """Draw spectrograms and masks; return the empty panel beside the mixture."""
    from matplotlib.ticker import MaxNLocator

    count, grid = len(picture.sources), picture.grid
    panels = figure.subplots(1 + count, 2, sharex=True, squeeze=False)
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
        right.tick_params(labelleft=False)
    for panel in panels.flat:
        panel.set(ylim=(0, _top(picture.mixture, grid)))
        panel.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
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
    return free


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
