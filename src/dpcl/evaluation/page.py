"""One page about a recording: spectrograms, masks, embeddings and their affinity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional

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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

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
