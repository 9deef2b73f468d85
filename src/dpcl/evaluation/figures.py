"""Figures: spectrograms, masks, embeddings, affinities, and the page that shows all of them."""

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

RANGE_DB = 80.0  # of a spectrogram, under its loudest bin
CLEAR_DB = 60.0  # bins further under the loudest are hardly seen
LOUD_DB = 40.0  # bins further under the loudest count for nothing (Hershey et al. 2016)
POINTS = 6000  # of a scatter: more only hide one another

# Blue, orange, green, purple, sky blue, vermilion, yellow, black; two greys make them ten.
SOURCE_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9",
    "#D55E00", "#F0E442", "#000000", "#999999", "#555555",
)  # fmt: skip

# What a paper asks for: type as small as 8 points at full width, and fonts that can be embedded.
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
    """Where the bins of an STFT lie: frame l at start + l hop (s), frequency f at f step (Hz)."""

    hop: float  # s
    step: float  # Hz
    start: float = 0.0  # s

    def extent(self, frames: int, bins: int) -> tuple[float, float, float, float]:
        """Left, right (s), bottom and top (kHz) of an image of L frames and F frequencies."""
        left = self.start - self.hop / 2
        khz = self.step / 1000
        return left, left + frames * self.hop, -khz / 2, (bins - 0.5) * khz


def decibels(magnitude: Tensor, loudest: float | None = None) -> Tensor:
    """Magnitudes in dB under `loudest` (their own largest if None), at least -200; silence too."""
    reference = float(magnitude.max()) if loudest is None else loudest
    if reference <= 0:
        return torch.full_like(magnitude, -200.0)
    return 20 * (magnitude / reference).clamp_min(1e-10).log10()


def loudness(magnitude: Tensor, floor_db: float = LOUD_DB) -> Tensor:
    """How much a bin counts: 1 the loudest, 0 at floor_db under it, linear in dB between."""
    return (1 + decibels(magnitude) / floor_db).clamp(0, 1)


def draw_spectrogram(
    axes: Axes, magnitude: Tensor, grid: Grid, loudest: float | None = None
) -> AxesImage:
    """Magnitudes (L, F) in dB under `loudest`: a mixture's, to compare its sources with it."""
    return _image(axes, decibels(magnitude, loudest), grid, cmap="magma", vmin=-RANGE_DB, vmax=0)


def draw_mask(axes: Axes, mask: Tensor, grid: Grid) -> AxesImage:
    """A mask (L, F), 0 to 1."""
    return _image(axes, mask, grid, cmap="viridis", vmin=0, vmax=1)


def draw_embeddings(axes: Axes, scores: Tensor, magnitude: Tensor, grid: Grid) -> AxesImage:
    """Principal components (L, F, 3) as red, green and blue, dark where magnitudes (L, F) are low.

    Bins of like colour have like embeddings. Each component spans its colour from the second to
    the 98th percentile of the loud bins.
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
    """Two principal components of scores (N, 3), coloured by labels (N,), weights (N,) as alpha."""
    from matplotlib.colors import to_rgba

    across, up = components
    axes.set(xlabel=f"component {across + 1}", ylabel=f"component {up + 1}")
    loud = weights.nonzero()[:, 0]
    if not len(loud):
        return
    # Drawn in a random order, or the last source would cover the others; always the same one.
    order = torch.randperm(len(loud), generator=torch.Generator().manual_seed(0))
    shown = loud[order[:POINTS]]
    alphas = weights[shown].clamp(0, 1).tolist()
    colours = [
        to_rgba(source_colour(label), alpha)
        for label, alpha in zip(labels[shown].tolist(), alphas, strict=True)
    ]
    x, y = scores[shown, across].numpy(), scores[shown, up].numpy()
    # As an image in PDF and SVG: thousands of points would make them slow.
    axes.scatter(x, y, s=3, c=colours, linewidths=0, rasterized=True)


def draw_affinity(axes: Axes, embeddings: Tensor, labels: Tensor) -> AxesImage:
    """The affinity VVᵀ of bins, V (N, K), sorted by labels (N,), else as they come.

    With one-hot assignments (N, C) in place of V it is the ideal affinity YYᵀ. Strips in the
    sources' colours stand along two sides.
    """
    order = labels.argsort(stable=True)
    v = embeddings[order]
    bins = len(v)
    image = axes.imshow(
        (v @ v.T).numpy(), cmap="RdBu_r", vmin=-1, vmax=1, extent=(0, bins, bins, 0)
    )
    first, thick = 0.0, 0.025  # in parts of a side
    for label, count in enumerate(labels.bincount().tolist()):
        share = count / bins
        colour = source_colour(label)
        _strip(axes, (first, 1.01), share, thick, colour)
        _strip(axes, (-0.01 - thick, 1 - first - share), thick, share, colour)
        first += share
    axes.set(xticks=[], yticks=[])
    return image


def source_colour(source: int) -> str:
    """The colour of source 0, 1, …"""
    return SOURCE_COLOURS[source % len(SOURCE_COLOURS)]


def mark_source(axes: Axes, source: int, title: str = "") -> None:
    """A strip in the source's colour on top of a panel, and a title above it."""
    axes.set_title(title, pad=6)
    _strip(axes, (0.0, 1.01), 1.0, 0.035, source_colour(source))


def _strip(
    axes: Axes, corner: tuple[float, float], width: float, height: float, colour: str
) -> None:
    """A filled rectangle, in parts of the panel, that may lie outside it."""
    from matplotlib.patches import Rectangle

    strip = Rectangle(
        corner, width, height, transform=axes.transAxes, color=colour, linewidth=0, clip_on=False
    )
    axes.add_patch(strip)


def _percentiles(points: Tensor) -> tuple[Tensor, Tensor]:
    """The second and the 98th percentile of points (N, 3), each (3,)."""
    ranked = points.sort(0).values  # torch.quantile refuses more than 16 million
    last = len(points) - 1
    return ranked[round(0.02 * last)], ranked[round(0.98 * last)]


def _image(axes: Axes, values: Tensor, grid: Grid, **look: object) -> AxesImage:
    """Values (L, F) or colours (L, F, 3) over time and frequency."""
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


WIDTH = 7.2  # inches: both columns of a paper
AFFINITY_SECONDS = 0.25  # its picture has a row for every loud bin


@dataclass(frozen=True)
class Embedded:
    """The embeddings of a mixture, and what is known of their bins."""

    vectors: Tensor  # (L', F', K), unit norm
    magnitude: Tensor  # (L', F'), the mixture's
    labels: Tensor  # (L', F') int64, the source whose mask is largest
    grid: Grid


@dataclass(frozen=True)
class Picture:
    """What is to be drawn of C sources in a mixture."""

    mixture: Tensor  # (L, F) magnitudes
    sources: Tensor  # (C, L, F) magnitudes
    masks: Tensor  # (C, L, F)
    grid: Grid
    seconds: float
    embedded: Embedded | None = None


def draw_page(picture: Picture) -> Figure:
    """The page: what is heard on the left, why on the right, the embeddings' clusters below.

    Without embeddings, and in silence, where none counts, the masks are the last that is drawn.
    Draw and save it under `matplotlib.rc_context(dpcl.evaluation.figures.STYLE)`.
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
    """Everything over time and frequency; returns the panel beside the mixture, still empty."""
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
    panels[0, 0].set(xlim=(grid.start, grid.start + picture.seconds))  # shared by all
    for image, column, label in (
        (spectrogram, panels[:, 0], "dB re loudest bin of the mixture"),
        (mask, panels[1:, 1], "share of the mixture"),
    ):
        bar = figure.colorbar(image, ax=column, pad=0.01, aspect=15 * len(column))
        bar.set_label(label, labelpad=6)
    free: Axes = panels[0, 1]
    return free


def _top(mixture: Tensor, grid: Grid) -> float:
    """Up to where (kHz) there is anything to be seen; all of the band for silence."""
    seen = (decibels(mixture).amax(0) > -CLEAR_DB).nonzero()
    last = mixture.shape[1] - 1
    highest = int(seen[-1]) if len(seen) else last
    if highest > 0.9 * last:  # the filters of recorders end somewhat below
        highest = last
    return max(1, highest) * grid.step / 1000


def _draw_clusters(
    figure: Figure | SubFigure, embedded: Embedded, scores: Tensor, variance: Tensor
) -> None:
    """Two views of the components (L', F', 3), and the affinity of a short segment."""
    from matplotlib.ticker import MaxNLocator

    first, second, affinity = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    weights, labels = loudness(embedded.magnitude), embedded.labels
    for panel, components in ((first, (0, 1)), (second, (2, 1))):
        draw_scatter(panel, scores.flatten(0, 1), labels.flatten(), weights.flatten(), components)
        across, up = (f"{100 * float(variance[k]):.0f} %" for k in components)
        panel.set(xlabel=f"component {components[0] + 1} ({across} of variance)")
        panel.set(ylabel=f"component {components[1] + 1} ({up})")
        panel.set_box_aspect(1)
        for axis in (panel.xaxis, panel.yaxis):  # the same at any size: the layout is settled first
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
    """So many frames in which as many sources as possible have many loud bins (L, F)."""
    owned = functional.one_hot(labels) * loud[..., None]  # (L, F, C)
    before = functional.pad(owned.sum(1).cumsum(0), (0, 0, 1, 0))  # (L + 1, C)
    frames = min(frames, len(labels))
    inside = before[frames:] - before[:-frames]  # (L + 1 - frames, C)
    # A root rewards the balance of the sources as well as their bins.
    first = int(inside.double().sqrt().sum(1).argmax())
    return slice(first, first + frames)
