"""One page about one separation: mixture, sources, masks, embeddings, affinity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional

from dpcl.clustering.components import principal_components
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
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

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
