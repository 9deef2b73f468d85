"""What the drawn panels hold, and that a page has no text over another."""

from __future__ import annotations

import itertools

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from dpcl.evaluation import figures
from dpcl.evaluation.figures import STYLE, Grid
from dpcl.evaluation.picture import Embedded, Picture, draw_page
from dpcl.signal.stft import STFT

pytest.importorskip("matplotlib")


GRID = Grid(hop=0.008, step=31.25, start=3.0)


def panel() -> Axes:
    return Figure().subplots()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_tone_stands_where_its_time_and_frequency_are() -> None:
    stft, rate = STFT(256, 64), 8000
    t = torch.arange(2 * rate) / rate
    tone = torch.sin(2 * torch.pi * 1500 * t) * ((t > 1.0) & (t < 1.2))
    axes = panel()
    image = figures.draw_spectrogram(axes, stft(tone).abs(), Grid(64 / rate, rate / 256, 3.0))
    shown = np.asarray(image.get_array())
    left, right, bottom, top = image.get_extent()
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    khz = bottom + (row + 0.5) / shown.shape[0] * (top - bottom)
    seconds = left + (column + 0.5) / shown.shape[1] * (right - left)
    assert khz == pytest.approx(1.5, abs=0.016)
    assert 4.0 < seconds < 4.2
    assert shown.max() == 0
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("s", "kHz")


def test_a_source_is_shown_under_the_loudest_bin_of_the_mixture() -> None:
    magnitude = random(5, 7)
    loudest = 10 * float(magnitude.max())
    shown = figures.draw_spectrogram(panel(), magnitude, GRID, loudest).get_array()
    expected = 20 * np.log10(magnitude.T.numpy() / loudest)
    np.testing.assert_allclose(shown, expected, atol=1e-4)
    assert np.asarray(shown).max() == pytest.approx(-20, abs=1e-4)


@pytest.mark.parametrize("loudest", [None, 0.0])
def test_silence_is_dark_and_counts_for_nothing(loudest: float | None) -> None:
    silence = torch.zeros(5, 7)
    assert (figures.decibels(silence, loudest) == -200).all()
    assert not figures.loudness(silence).any()
    image = figures.draw_embeddings(panel(), random(5, 7, 3), silence, GRID)
    assert not np.asarray(image.get_array()).any()


def test_loudness_is_one_at_the_loudest_bin_and_falls_with_the_decibels() -> None:
    magnitude = 5 * torch.tensor([[1.0, 0.1, 0.01, 0.001]])
    expected = torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    torch.testing.assert_close(figures.loudness(magnitude), expected, atol=1e-6, rtol=0)


def test_loud_bins_of_like_embeddings_have_like_colours() -> None:
    scores = torch.tensor([[-1.0, 0.0, 2.0], [3.0, 1.0, -2.0]])[torch.tensor([[0, 1], [1, 0]])]
    shown = np.asarray(figures.draw_embeddings(panel(), scores, torch.ones(2, 2), GRID).get_array())
    np.testing.assert_array_equal(shown[0, 0], shown[1, 1])
    np.testing.assert_array_equal(shown[0, 1], shown[1, 0])
    assert np.abs(shown[0, 0] - shown[0, 1]).min() > 0.5
    assert shown.min() >= 0
    assert shown.max() <= 1


def test_the_scatter_has_sources_as_colours_and_weights_as_alpha() -> None:
    scores, labels = random(200, 3), torch.arange(200) % 3
    weights = random(200, seed=1) * (torch.arange(200) >= 50)
    axes = panel()
    figures.draw_scatter(axes, scores, labels, weights, (2, 1))
    (points,) = axes.collections
    drawn = np.hstack([points.get_offsets(), points.get_facecolors()])
    expected = [
        [s[2], s[1], *to_rgba(figures.SOURCE_COLOURS[k], w)]
        for s, k, w in zip(scores.tolist(), labels.tolist(), weights.tolist(), strict=True)
        if w > 0
    ]
    key = lambda rows: np.array(sorted(map(list, rows)))  # noqa: E731
    np.testing.assert_allclose(key(drawn), key(expected), atol=1e-6)


def test_the_affinity_is_sorted_by_source() -> None:
    labels = torch.tensor([2, 0, 1, 0, 2, 0])
    v = torch.nn.functional.normalize(random(6, 4) - 0.5, dim=-1)
    axes = panel()
    shown = figures.draw_affinity(axes, v, labels).get_array()
    order = [1, 3, 5, 2, 0, 4]
    np.testing.assert_allclose(shown, (v[order] @ v[order].T).numpy(), atol=1e-6)
    across = [patch for patch in axes.patches if patch.get_y() > 1]
    assert [patch.get_width() * 6 for patch in across] == pytest.approx([3, 1, 2])
    colours = [patch.get_facecolor() for patch in across]
    assert colours == [to_rgba(figures.source_colour(k)) for k in range(3)]


def test_the_ideal_affinity_is_of_blocks() -> None:
    labels = torch.tensor([1, 0, 1, 0, 1])
    y = torch.nn.functional.one_hot(labels).double()
    shown = figures.draw_affinity(panel(), y, labels).get_array()
    expected = np.zeros((5, 5))
    expected[:2, :2] = expected[2:, 2:] = 1
    np.testing.assert_array_equal(shown, expected)


def picture(sources: int, frames: int = 60, bins: int = 129) -> Picture:
    """Sources that take turns, their embeddings around as many corners."""
    owner = (torch.arange(frames)[:, None] // 4 + torch.arange(bins) // 16) % sources
    masks = torch.nn.functional.one_hot(owner, sources).movedim(-1, 0).float()
    mixture = random(frames, bins) ** 4
    vectors = torch.eye(12)[owner] + 0.2 * random(frames, bins, 12, seed=1)
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    embedded = Embedded(vectors, mixture, owner, GRID)
    return Picture(mixture, masks * mixture, masks, GRID, (frames - 1) * GRID.hop, embedded)


@pytest.mark.parametrize(("sources", "frames"), [(1, 2), (2, 60), (3, 700), (6, 60)])
def test_no_text_of_a_page_lies_over_another_or_outside(sources: int, frames: int) -> None:
    with matplotlib.rc_context(STYLE):
        figure = draw_page(picture(sources, frames))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    width, height = canvas.get_width_height()
    boxes = [(text.get_text(), text.get_window_extent()) for text in _shown_texts(figure)]
    assert {f"Source {k + 1}" for k in range(sources)} <= {text for text, _ in boxes}
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0, text
        assert box.x1 <= width + 1 and box.y1 <= height + 1, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), f"{one!r} lies over {other!r}"


def _shown_texts(figure: Figure) -> set[Text]:
    """All but the labels of ticks that lie outside the limits or are left over."""
    texts = set(figure.findobj(Text))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            texts -= set(axis.findobj(Text)) - {axis.label}
            texts |= {
                label for tick in axis._update_ticks() for label in (tick.label1, tick.label2)
            }
    return {text for text in texts if text.get_text() and text.get_visible()}


def test_a_page_without_embeddings_and_one_of_silence_end_with_the_masks() -> None:
    full = picture(2)
    silence = torch.zeros_like(full.mixture)
    assert full.embedded is not None
    vectors, labels = full.embedded.vectors, full.embedded.labels
    sources = torch.zeros_like(full.sources)
    silent = Embedded(vectors, silence, labels, GRID)
    for other in (
        Picture(full.mixture, full.sources, full.masks, GRID, 0.5),
        Picture(silence, sources, full.masks, GRID, 0.5, silent),
    ):
        figure = draw_page(other)
        assert len(figure.axes) == 6 + 2  # the colour bars
        assert figure.get_figheight() < draw_page(full).get_figheight()
