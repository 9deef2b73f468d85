"""Figures: spectrograms, masks, embeddings and their principal components, affinities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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


@dataclass(frozen=True)
class Components:
    """Points projected on their principal components, widest spread first."""

    scores: Tensor  # (N, count), weighted mean zero
    directions: Tensor  # (count, K), orthonormal; zero rows beyond row K
    variance: Tensor  # (count,), share of the total variance, in [0, 1]


def principal_components(
    points: Tensor, weights: Tensor | None = None, count: int = 3
) -> Components:
    """Compute the first `count` principal components of weighted points.

    Computed in float64 from the K x K covariance. The sign of a component is free: here its
    largest coordinate is positive, so that equal points give equal pictures.

    Args:
        points: (N, K).
        weights: (N,), at least zero; None weights every point equally, and so does all zeros.
        count: number of components.

    Returns:
        Components: scores, directions and shares of the variance.

    Raises:
        ValueError: the shapes do not agree, or there are no points.

    Example:
        >>> import torch
        >>> points = torch.tensor([[-2.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
        >>> principal_components(points, count=2).variance
        tensor([1., 0.])

    Source: Jolliffe 2002, "Principal Component Analysis", chapter 1 and section 14.2.1 (weights).
    """
    if points.ndim != 2 or len(points) == 0:
        raise ValueError(f"points must be (N, K) with N > 0; got {tuple(points.shape)}")
    if weights is not None and weights.shape != points.shape[:1]:
        raise ValueError(f"weights must be {tuple(points.shape[:1])}; got {tuple(weights.shape)}")
    x = points.double()
    w = torch.ones_like(x[:, 0]) if weights is None or not weights.any() else weights.double()
    w = w / w.sum()
    x = x - w @ x
    variances, vectors = torch.linalg.eigh(
        (x * w[:, None]).T @ x
    )  # eigenvalues ascending; vectors in columns
    variances = variances.clamp_min(0).flip(0)  # (K,)
    directions = vectors.T.flip(0)[:count]  # (<= count, K)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * largest.sign()
    missing = count - len(directions)
    directions = torch.cat([directions, directions.new_zeros(missing, x.shape[1])])
    part = variances[:count] / variances.sum().clamp_min(torch.finfo(x.dtype).tiny)
    part = torch.cat([part, part.new_zeros(missing)])
    dtype = points.dtype
    return Components((x @ directions.T).to(dtype), directions.to(dtype), part.to(dtype))


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
