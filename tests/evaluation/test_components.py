"""Principal components against scikit-learn and against numpy's SVD, weights against repetition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from dpcl.evaluation.figures import principal_components


def cloud(points: int = 200, dimensions: int = 7, seed: int = 0) -> torch.Tensor:
    """Points of a different spread in every direction, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(points, dimensions, generator=generator, dtype=torch.float64)
    return x @ torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64) + 5


@pytest.mark.parametrize("dimensions", [3, 7, 20])
def test_without_weights_they_are_those_of_scikit_learn(dimensions: int) -> None:
    x = cloud(dimensions=dimensions)
    ours = principal_components(x, count=3)
    theirs = PCA(3).fit(x.numpy())
    sign = np.sign((ours.directions.numpy() * theirs.components_).sum(1))
    np.testing.assert_allclose(ours.directions, theirs.components_ * sign[:, None], atol=1e-9)
    np.testing.assert_allclose(ours.scores, theirs.transform(x.numpy()) * sign, atol=1e-9)
    np.testing.assert_allclose(ours.variance, theirs.explained_variance_ratio_, atol=1e-12)


def test_with_weights_they_are_the_singular_vectors_of_the_weighted_points() -> None:
    x = cloud()
    w = torch.rand(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = principal_components(x, w, 4)
    centred = x.numpy() - np.average(x.numpy(), axis=0, weights=w.numpy())
    _, singular, rows = np.linalg.svd(np.sqrt(w.numpy())[:, None] * centred, full_matrices=False)
    np.testing.assert_allclose(ours.directions.abs(), np.abs(rows[:4]), atol=1e-9)
    np.testing.assert_allclose(ours.variance, singular[:4] ** 2 / (singular**2).sum(), atol=1e-12)


def test_a_weight_of_three_is_three_points_and_one_of_zero_is_none() -> None:
    x = cloud(30)
    w = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64).repeat(10)
    ours = principal_components(x, w)
    repeated = principal_components(x.repeat_interleave(w.long(), 0))
    torch.testing.assert_close(ours.directions, repeated.directions)
    torch.testing.assert_close(ours.variance, repeated.variance)
    torch.testing.assert_close(w @ ours.scores, torch.zeros(3, dtype=torch.float64))


def test_the_sign_does_not_hang_on_the_points() -> None:
    x = cloud()
    torch.testing.assert_close(
        principal_components(x).directions, principal_components(-x).directions
    )


def test_weights_of_zero_count_all_points_the_same() -> None:
    x = cloud()
    torch.testing.assert_close(
        principal_components(x, torch.zeros(200)).scores, principal_components(x).scores
    )


@pytest.mark.parametrize("x", [torch.ones(4, 2), torch.zeros(1, 5), torch.rand(1, 1)])
def test_points_that_differ_in_fewer_directions_give_zeros(x: torch.Tensor) -> None:
    ours = principal_components(x, count=3)
    assert ours.scores.shape == (len(x), 3)
    assert ours.directions.shape == (3, x.shape[1])
    assert not ours.scores.any()
    assert not ours.variance.any()


def test_shapes_that_do_not_fit_are_refused() -> None:
    for x, w in (
        (torch.ones(4), None),
        (torch.ones(0, 2), None),
        (torch.ones(4, 2), torch.ones(3)),
    ):
        with pytest.raises(ValueError, match=r"\("):
            principal_components(x, w)
