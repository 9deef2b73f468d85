"""Centroids from stretches in which one source is alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.kmeans import kmeans
from dpcl.separators.masks import solo_centroids, whiten

PLACES = functional.normalize(torch.tensor([[1.0, 0.0, 0.2], [0.0, 1.0, 0.2], [0.6, 0.6, -0.5]]))


def conversation(alone: int, together: int, blur: float) -> tuple[Tensor, Tensor]:
    """Points (N, 3) and stretches (N,): each talker alone, then two of them with blurred bins."""
    generator = torch.Generator().manual_seed(0)
    points, stretches = [], []
    talkers = [[k] for k in range(3)] * alone + [[0, 1], [1, 2], [0, 2]] * together
    for number, speaking in enumerate(talkers):
        owners = torch.tensor(speaking)[torch.randint(len(speaking), (40,), generator=generator)]
        middle = PLACES[speaking].mean(0)
        share = blur * torch.rand(40, 1, generator=generator) * (len(speaking) > 1)
        noise = 0.05 * torch.randn(40, 3, generator=generator)
        points.append((1 - share) * PLACES[owners] + share * middle + noise)
        stretches.append(torch.full((40,), number))
    return torch.cat(points), torch.cat(stretches)


def furthest(centroids: Tensor) -> float:
    """From a talker's place to the nearest centroid, at most."""
    return float(torch.cdist(PLACES, centroids).amin(1).max())


def test_overlap_does_not_draw_the_centroids_together() -> None:
    points, stretches = conversation(20, 20, blur=0.6)
    weights = torch.ones(len(points))
    ours = solo_centroids(points, weights, stretches, 3)
    assert furthest(ours) < 0.03
    assert furthest(kmeans(points, 3, weights).centroids) > 2 * furthest(ours)


def test_a_source_that_is_never_alone_is_found_nevertheless() -> None:
    """Two are alone by turns, the third speaks with one of them only: three places all the same."""
    points, stretches = conversation(40, 40, blur=0.0)
    alone = (stretches % 3 == 2) & (stretches < 120)  # the third one's own stretches
    centroids = solo_centroids(
        points[~alone], torch.ones(int((~alone).sum())), stretches[~alone], 3
    )
    assert furthest(centroids) < 0.1


def test_few_stretches_and_silence_are_those_of_kmeans() -> None:
    points, stretches = conversation(2, 0, blur=0.0)
    weights = torch.ones(len(points))
    expected = kmeans(points, 3, weights).centroids
    assert torch.equal(solo_centroids(points, weights, stretches, 3), expected)
    silent = solo_centroids(points, torch.zeros(len(points)), stretches, 3)
    assert silent.isfinite().all()


def test_points_without_weight_do_not_matter() -> None:
    points, stretches = conversation(20, 20, blur=0.6)
    weights = torch.ones(len(points))
    weights[::7] = 0
    expected = solo_centroids(points, weights, stretches, 3)
    points[::7] = 100.0
    torch.testing.assert_close(solo_centroids(points, weights, stretches, 3), expected)


def test_a_drift_that_was_learned_does_not_part_a_source() -> None:
    """All drift along one axis, further than two of them are apart."""
    generator = torch.Generator().manual_seed(0)
    places = torch.tensor([[0.0, 0.0], [0.0, 0.4], [0.0, 0.8]]).repeat(40, 1)  # of 120 stretches
    drift = torch.tensor([[0.3, 0.0]]) * torch.randn(120, 1, generator=generator)
    stretches = torch.arange(120).repeat_interleave(20)
    noise = 0.02 * torch.randn(2400, 2, generator=generator)
    points = (places + drift)[stretches] + noise
    weights = torch.ones(len(points))
    scatter = torch.tensor([[0.09, 0.0], [0.0, 1e-4]])
    informed = solo_centroids(points, weights, stretches, 3, whiten(scatter, 1e-3))
    plain = solo_centroids(points, weights, stretches, 3)
    expected = torch.tensor([0.0, 0.4, 0.8])
    torch.testing.assert_close(informed[:, 1].sort().values, expected, atol=0.02, rtol=0)
    assert (plain[:, 1].sort().values - expected).abs().max() > 0.1


def test_whitened_scatter_is_the_identity() -> None:
    factor = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scatter = factor @ factor.mT
    transform = whiten(scatter, 0.0)
    torch.testing.assert_close(transform @ scatter @ transform, torch.eye(5, dtype=torch.float64))


def test_a_floor_keeps_directions_of_no_scatter_finite() -> None:
    transform = whiten(torch.diag(torch.tensor([4.0, 0.0])), 0.5)  # mean 2, so 1 is added
    torch.testing.assert_close(transform, torch.diag(torch.tensor([5**-0.5, 1.0])))
