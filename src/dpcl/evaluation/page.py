"""One page about one separation: mixture, sources, masks, embeddings, affinity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.components import principal_components
from dpcl.evaluation.figures import (
    RANGE_DB,
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

    Draw and save it under `matplotlib.rc_context(dpcl.evaluation.figures.STYLE)`.
    """
    from matplotlib.figure import Figure

    upper = 0.5 + 1.2 * (1 + len(picture.sources))  # inches
    lower = 0.0 if picture.embedded is None else 2.6
    figure = Figure(figsize=(WIDTH, upper + lower), layout="constrained")
    if picture.embedded is None:
        _draw_planes(figure, picture)
        return figure
    over, under = figure.subfigures(2, 1, height_ratios=[upper, lower])
    components = principal_components(
        picture.embedded.vectors.flatten(0, 1), loudness(picture.embedded.magnitude).flatten()
    )
    corner = _draw_planes(over, picture)
    corner.set_axis_on()
    weights = loudness(picture.embedded.magnitude)
    draw_embeddings(
        corner,
        components.scores.view(*weights.shape, 3),
        picture.embedded.magnitude,
        picture.embedded.grid,
    )
    bins = weights.shape[1]
    corner.set(ylim=(0, (bins - 1) * picture.embedded.grid.step / 1000), xlabel="")
    corner.set_title("Embeddings: components 1, 2, 3 as RGB")
    _draw_clusters(under, picture.embedded, components.scores, components.variance)
    return figure


def _draw_planes(figure: Figure | SubFigure, picture: Picture) -> Axes:
    """Everything over time and frequency; returns the panel that is left empty."""
    count, grid = len(picture.sources), picture.grid
    panels = figure.subplots(1 + count, 2, sharex=True, squeeze=False)
    loudest = float(picture.mixture.max())
    spectrogram = draw_spectrogram(panels[0, 0], picture.mixture, grid, loudest)
    panels[0, 0].set_title("Mixture")
    for k in range(count):
        left, right = panels[1 + k]
        draw_spectrogram(left, picture.sources[k], grid, loudest)
        mask = draw_mask(right, picture.masks[k], grid)
        right.set(ylabel="")
        right.tick_params(labelleft=False)
        mark_source(left, k, f"Source {k + 1}")
        mark_source(right, k, f"Mask {k + 1}")
    for panel in panels.flat:
        panel.set(ylim=(0, _top(picture.mixture, grid)))
    for panel in panels[:-1].flat:
        panel.set(xlabel="")
    panels[0, 0].set(xlim=(grid.start, grid.start + picture.seconds))  # shared by all
    bar = figure.colorbar(spectrogram, ax=panels[:, 0], pad=0.01, aspect=40)
    bar.set_label("dB re loudest bin of the mixture")
    figure.colorbar(mask, ax=panels[1:, 1], pad=0.01, aspect=40).set_label("share of the mixture")
    corner: Axes = panels[0, 1]
    corner.set_axis_off()
    return corner


def _top(mixture: Tensor, grid: Grid) -> float:
    """Up to where (kHz) there is anything to be seen; all of the band for silence."""
    seen = (decibels(mixture).amax(0) > -RANGE_DB).nonzero()
    last = mixture.shape[1] - 1
    highest = int(seen[-1]) if len(seen) else last
    if highest > 0.9 * last:  # the filters of recorders end somewhat below
        highest = last
    return max(1, highest) * grid.step / 1000


def _draw_clusters(
    figure: Figure | SubFigure, embedded: Embedded, scores: Tensor, variance: Tensor
) -> None:
    """Two views of the components, and the affinity of a short segment."""
    first, second, affinity = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    weights, labels = loudness(embedded.magnitude), embedded.labels
    for panel, components in ((first, (0, 1)), (second, (2, 1))):
        draw_scatter(panel, scores, labels.flatten(), weights.flatten(), components)
        panel.set_box_aspect(1)
        across = components[0]
        part = 100 * float(variance[across])
        panel.set(xlabel=f"component {across + 1} ({part:.0f} % of variance)")
    first.set(ylabel=f"component 2 ({100 * float(variance[1]):.0f} %)")
    first.set_title("Embeddings, coloured by source")
    second.set(ylabel="")
    second.tick_params(labelleft=False)
    loud = weights > 0
    segment = _busiest(labels, loud, max(1, round(AFFINITY_SECONDS / embedded.grid.hop)))
    chosen = loud[segment]
    if not chosen.any():
        affinity.set_title("Affinity: there is no sound")
        affinity.set(xticks=[], yticks=[])
        affinity.set_box_aspect(1)
        return
    image = draw_affinity(affinity, embedded.vectors[segment][chosen], labels[segment][chosen])
    begin = embedded.grid.start + segment.start * embedded.grid.hop
    end = embedded.grid.start + segment.stop * embedded.grid.hop
    affinity.set_title(f"Affinity VVᵀ, {begin:.2f} to {end:.2f} s", pad=8)
    affinity.set(xlabel=f"{int(chosen.sum())} loud bins, by source")
    figure.colorbar(image, ax=affinity, pad=0.02, aspect=30)


def _busiest(labels: Tensor, loud: Tensor, frames: int) -> slice:
    """So many frames in which as many sources as possible have many loud bins (L, F)."""
    owned = functional.one_hot(labels) * loud[..., None]  # (L, F, C)
    before = functional.pad(owned.sum(1).cumsum(0), (0, 0, 1, 0))  # (L + 1, C)
    frames = min(frames, len(labels))
    inside = before[frames:] - before[:-frames]  # (L + 1 - frames, C)
    # A root rewards the balance of the sources as well as their bins.
    first = int(inside.double().sqrt().sum(1).argmax())
    return slice(first, first + frames)
