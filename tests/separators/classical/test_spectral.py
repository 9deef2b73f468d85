"""Spectral clustering against scikit-learn, and its cheap forms against the dense one."""

from __future__ import annotations

import pytest
import torch
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from dpcl.separators.classical.spectral import (
    SpectralEmbedding,
    dense_embedding,
    low_rank_embedding,
    nystrom_factor,
    spectral_clusters,
)


def _rings(seed: int) -> Tensor:
    """Two rings, one within the other: k-means of the points themselves fails on them."""
    generator = torch.Generator().manual_seed(seed)
    angles = torch.arange(60, dtype=torch.float64) * (2 * torch.pi / 60)
    radii = torch.tensor([[1.0], [4.0]]) + 0.1 * torch.randn(2, 60, generator=generator)
    return torch.stack([radii * angles.cos(), radii * angles.sin()], -1).flatten(0, 1)


def _gaussian(points: Tensor, others: Tensor, width: float = 0.6) -> Tensor:
    return torch.exp(-torch.cdist(points, others).square() / (2 * width**2))


def _projector(embedding: SpectralEmbedding) -> Tensor:
    return embedding.vectors @ embedding.vectors.T


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_those_of_scikit_learn(seed: int) -> None:
    affinity = _gaussian(_rings(seed), _rings(seed))
    ours = spectral_clusters(dense_embedding(affinity, 2), 2).argmax(1)
    theirs = SpectralClustering(2, affinity="precomputed", random_state=0).fit_predict(
        affinity.numpy()
    )
    assert adjusted_rand_score(theirs, ours.numpy()) == 1
    assert adjusted_rand_score(torch.arange(2).repeat_interleave(60).numpy(), ours.numpy()) == 1


def test_low_rank_is_dense_of_the_product() -> None:
    factor = torch.rand(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dense = dense_embedding(factor @ factor.T, 4)
    low = low_rank_embedding(factor, 4)
    torch.testing.assert_close(low.values, dense.values)
    torch.testing.assert_close(_projector(low), _projector(dense))


def test_nystrom_with_all_landmarks_is_dense() -> None:
    points = torch.randn(80, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    affinity = _gaussian(points, points)
    factor = nystrom_factor(affinity, torch.arange(80))
    torch.testing.assert_close(factor @ factor.T, affinity, atol=1e-5, rtol=0)
    nystrom, dense = low_rank_embedding(factor, 3), dense_embedding(affinity, 3)
    torch.testing.assert_close(nystrom.values, dense.values, atol=1e-5, rtol=0)
    torch.testing.assert_close(_projector(nystrom), _projector(dense), atol=1e-3, rtol=0)


def test_nystrom_with_few_landmarks_finds_the_rings() -> None:
    points = _rings(0)
    landmarks = torch.randperm(120, generator=torch.Generator().manual_seed(0))[:60]
    factor = nystrom_factor(_gaussian(points, points[landmarks]), landmarks)
    labels = spectral_clusters(low_rank_embedding(factor, 2), 2).argmax(1)
    assert adjusted_rand_score(torch.arange(2).repeat_interleave(60).numpy(), labels.numpy()) == 1


def test_repeated_landmarks_and_isolated_points_stay_finite() -> None:
    """A singular A has no inverse; a point of no affinity has no degree to divide by."""
    points = torch.zeros(20, 2)
    factor = nystrom_factor(_gaussian(points, points[:6]), torch.arange(6))
    affinity = torch.eye(5)
    affinity[4, 4] = 0
    for embedding in (low_rank_embedding(factor, 2), dense_embedding(affinity, 2)):
        assert spectral_clusters(embedding, 2).isfinite().all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: dense_embedding(torch.ones(3, 4), 1),
        lambda: dense_embedding(torch.ones(3, 3), 4),
        lambda: low_rank_embedding(torch.ones(3), 1),
        lambda: nystrom_factor(torch.ones(5, 3), torch.arange(2)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call: object) -> None:
    with pytest.raises(ValueError):
        call()  # type: ignore[operator]
