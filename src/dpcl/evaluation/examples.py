"""Examples of a report: sounds and pictures of a mixture and its estimates, cached on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dpcl.evaluation.cache import code_version, known_method, row_key, separator_key
from dpcl.evaluation.evaluate import separate_row
from dpcl.evaluation.figures import (
    STYLE,
    Grid,
    draw_affinity,
    draw_embeddings,
    draw_mask,
    draw_scatter,
    draw_spectrogram,
    loudness,
    mark_source,
    principal_components,
)
from dpcl.evaluation.metrics import best_permutation
from dpcl.evaluation.picture import AFFINITY_SECONDS, busiest
from dpcl.io import folder_aside
from dpcl.mixtures.render import render_mixture
from dpcl.mixtures.rows import MixtureRow
from dpcl.separators.base import Context
from dpcl.signal.audio import write_audio
from dpcl.signal.features import ideal_assignments
from dpcl.signal.stft import STFT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRIP = 1.5  # height of a row of panels, inches
PANEL = 2.6  # width of a panel, inches
DPI = 110  # pixels per inch
PICTURE_RATE = 8000  # Hz, sample rate of pictures of references
_stft = STFT(window=256, hop=64)  # STFT of the pictures at 8 kHz


def render_reference(row: MixtureRow, root: str, folder: str) -> Path:
    """Write mixture.flac, the references s1.flac, … and strip.png, unless they are cached.

    Args:
        row: row of the list.
        root: folder that the paths of the row are relative to.
        folder: folder of the cache.

    Returns:
        Folder of the files, below `folder`.
    """
    import matplotlib

    target = Path(folder) / f"truth-{row_key(row, root, code_version())}"
    if not target.is_dir():
        mixture, references = render_mixture(row, root, PICTURE_RATE)
        sounds = {"mixture": mixture, **{f"s{k}": s for k, s in enumerate(references, 1)}}
        spectra = _magnitudes(torch.from_numpy(np.stack([mixture, *references])))
        titles = ["Mixture", *(f"Reference {k + 1}" for k in range(len(references)))]
        marks = [None, *range(len(references))]
        with matplotlib.rc_context(STYLE):
            _write_folder(target, sounds, {"strip": _draw_row(spectra, marks, titles, spectra[0])})
    return target


def render_estimate(name: str, row: MixtureRow, root: str, folder: str) -> Path:
    """Write the estimates s1.flac, …, strip.png and embeddings.png, unless they are cached.

    The estimates are in the order of the references. embeddings.png is written only if the
    separation has embeddings.

    Args:
        name: separator, as `find_method` takes it.
        row: row of the list.
        root: folder that the paths of the row are relative to.
        folder: folder of the cache.

    Returns:
        Folder of the files, below `folder`.
    """
    import matplotlib

    target = Path(folder) / f"{separator_key(name)}-{row_key(row, root)}"
    if target.is_dir():
        return target
    method, talkers = known_method(name, root)
    separation, references, mixture = separate_row(row, root, method, talkers)
    rate = method.sample_rate
    order = best_permutation(separation.sources, references)
    order = torch.tensor([k for k in order.tolist() if k >= 0])
    sources = separation.sources[order]
    sounds = {f"s{k}": source.numpy() for k, source in enumerate(sources, 1)}
    stft = _stft if rate == PICTURE_RATE else STFT(4 * (rate // 125), rate // 125)
    step = Grid(stft.hop / rate, rate / stft.window)
    magnitudes = stft(torch.cat([mixture[None], sources])).abs()
    count = len(sources)
    titles = [f"Estimate {k + 1}" for k in range(count)]
    panels, marks = list(magnitudes[1:]), list(range(count))
    masks = None if separation.masks is None else separation.masks[order]
    vectors = separation.embeddings
    with matplotlib.rc_context(STYLE):
        figures = {"strip": _draw_row(panels, marks, titles, magnitudes[0], masks, step)}
        if vectors is not None:
            own = method.build(Context(mixture, references)).stft
            spectra = own(torch.cat([mixture[None], references]))
            grid = Grid(own.hop / rate, rate / own.window)
            figures["embeddings"] = _draw_embeddings(vectors, spectra, grid)
        _write_folder(target, sounds, figures, rate)
    return target


def _magnitudes(signals: Tensor) -> Tensor:
    """Return the magnitudes (..., L, F) of signals (..., T) at 8 kHz."""
    return _stft(signals).abs()


def _draw_row(
    panels: Sequence[Tensor] | Tensor,
    marks: Sequence[int | None],
    titles: Sequence[str],
    mixture: Tensor,
    masks: Tensor | None = None,
    grid: Grid | None = None,
) -> Figure:
    """Draw spectrograms (L, F) side by side, then masks (C, L', F'), with the sources' colours."""
    from matplotlib.figure import Figure

    grid = grid or Grid(_stft.hop / PICTURE_RATE, PICTURE_RATE / _stft.window)
    count = len(panels) + (0 if masks is None else len(masks))
    figure = Figure(figsize=(PANEL * count, STRIP), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    loudest = float(mixture.max())
    for panel, magnitude, mark, text in zip(axes, panels, marks, titles, strict=False):
        draw_spectrogram(panel, magnitude, grid, loudest)
        panel.set_title(text)
        if mark is not None:
            mark_source(panel, mark, text)
    if masks is not None:
        frames, bins = mixture.shape
        mask_grid = Grid(
            grid.hop * (frames - 1) / max(1, masks.shape[1] - 1),
            grid.step * (bins - 1) / (masks.shape[2] - 1),
        )
        for k, panel in enumerate(axes[len(panels) :]):
            draw_mask(panel, masks[k], mask_grid)
            mark_source(panel, k, f"Mask {k + 1}")
    for panel in axes[1:]:
        panel.set(ylabel="")
        panel.tick_params(labelleft=False)
    return figure


def _draw_embeddings(vectors: Tensor, spectra: Tensor, grid: Grid) -> Figure:
    """Draw three principal components of embeddings (L, F, K), and affinities of a short segment.

    spectra: (1 + C, L, F), the mixture and the references, which give the true source of each bin.
    """
    from matplotlib.figure import Figure

    magnitude = spectra[0].abs()
    labels = ideal_assignments(spectra[1:]).argmax(-1).view(magnitude.shape)
    weights = loudness(magnitude)
    components = principal_components(vectors.flatten(0, 1), weights.flatten())
    scores = components.scores.view(*magnitude.shape, -1)
    figure = Figure(figsize=(5 * PANEL, 2.3), layout="constrained")
    colours, first, second, learned, ideal = figure.subplots(1, 5, width_ratios=[1.6, 1, 1, 1, 1])
    draw_embeddings(colours, scores, magnitude, grid)
    colours.set_title("Embeddings: components 1, 2, 3 as RGB")
    for panel, pair in ((first, (0, 1)), (second, (2, 1))):
        draw_scatter(panel, scores.flatten(0, 1), labels.flatten(), weights.flatten(), pair)
        panel.set_box_aspect(1)
        panel.set(xticks=[-0.5, 0, 0.5], yticks=[-0.5, 0, 0.5])
    first.set_title("coloured by true source")
    second.set(ylabel="")
    second.tick_params(labelleft=False)
    loud = weights > 0
    segment = busiest(labels, loud, max(1, round(AFFINITY_SECONDS / grid.hop)))
    chosen = loud[segment]
    owners = labels[segment][chosen]
    draw_affinity(learned, vectors[segment][chosen], owners)
    learned.set_title(f"Affinity VVᵀ of {AFFINITY_SECONDS:g} s", pad=8)
    draw_affinity(ideal, functional.one_hot(owners).float(), owners)
    ideal.set_title("ideal affinity YYᵀ", pad=8)
    return figure


def _write_folder(
    target: Path, sounds: dict[str, Any], figures: dict[str, Figure], rate: int = PICTURE_RATE
) -> None:
    """Write sounds and figures into a temporary folder, then rename it: `target` is complete."""
    with folder_aside(target.parent) as temporary:
        complete = temporary / "complete"
        complete.mkdir()
        for name, samples in sounds.items():
            write_audio(complete / f"{name}.flac", samples, rate)
        for name, figure in figures.items():
            figure.savefig(complete / f"{name}.png", dpi=DPI)
        if not target.is_dir():  # another process may have written it meanwhile
            os.replace(complete, target)
