"""Counting sources: planted clusters are counted, whatever their order, rotation and weights."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.count import (
    SIGNS,
    count_sources,
    fit_coefficients,
    sample_points,
    signs,
)

WIDTH = 8


def planted(count: int, noise: float, seed: int, size: int = 3000, least: float = 0.1) -> Tensor:
    """Unit points (size, WIDTH) around `count` orthogonal directions, none with a share < least."""
    random = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=random)).Q[:count]
    shares = least + (1 - least * count) * torch.rand(count, generator=random).softmax(0)
    owners = torch.multinomial(shares, size, replacement=True, generator=random)
    spread = noise * torch.randn(size, WIDTH, generator=random)
    return functional.normalize(directions[owners] + spread, dim=-1)


@cache
def taught() -> list[list[float]]:
    """Coefficients fitted on planted clusters with seeds that the tests do not use."""
    cases = [(1 + i % 4, 0.05 + 0.05 * (i // 4 % 5), 10_000 + i) for i in range(40)]
    found = torch.stack([signs(planted(*case)) for case in cases])
    return fit_coefficients(found, torch.tensor([count for count, *_ in cases]))


def number(points: Tensor, weights: Tensor | None = None, most: int = 10) -> int:
    return count_sources(points, points.new_ones(len(points)) if weights is None else weights,
                         taught(), most).number  # fmt: skip


@given(count=st.integers(1, 4), noise=st.floats(0.05, 0.25), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=8)
def test_planted_clusters_are_counted(count: int, noise: float, seed: int) -> None:
    points = planted(count, noise, seed)
    assert number(points) == count
    random = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=random)).Q
    shuffled = torch.randperm(len(points), generator=random)
    assert number((points @ turned)[shuffled]) == count


def test_points_without_weight_do_not_count() -> None:
    heard, unheard = planted(2, 0.1, 1), planted(4, 0.1, 2)
    weights = torch.cat([torch.ones(len(heard)), torch.zeros(len(unheard))])
    assert number(torch.cat([heard, unheard]), weights) == 2
    assert number(torch.cat([heard, unheard]), 1 - weights) == 4


@given(scale=st.sampled_from([1e-20, 1e-3, 128.0, 1e20]), seed=st.integers(0, 100))
@settings(deadline=None, max_examples=4)
def test_only_the_ratios_of_weights_matter(scale: float, seed: int) -> None:
    points = planted(3, 0.2, seed, 500)
    weights = torch.rand(500, generator=torch.Generator().manual_seed(seed))
    one, other = (count_sources(points, w, taught()) for w in (weights, weights * scale))
    torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-2)


def test_signs_do_not_change_when_embeddings_are_rotated() -> None:
    points = planted(3, 0.1, 5)
    turned = torch.linalg.qr(
        torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    ).Q
    # The first three k-means are the same; beyond the planted number, starts decide.
    same = slice(0, 7 + 1 + 3 + 3)
    torch.testing.assert_close(signs(points)[same], signs(points @ turned)[same], rtol=0, atol=1e-3)


def test_a_perfect_embedding_has_as_many_eigenvalues_as_talkers() -> None:
    found = signs(torch.eye(WIDTH)[torch.arange(3000) % 3]).exp()
    torch.testing.assert_close(found[:3], torch.full((3,), 1 / 3, dtype=torch.float64))
    assert (found[3:6] < 1e-3).all()
    assert float(found[6]) == pytest.approx(3)  # effective rank


@pytest.mark.parametrize("size", [1, 2, 5])
def test_few_points(size: int) -> None:
    assert 1 <= number(planted(1, 0.1, 0, size)) <= 4
    assert number(torch.eye(WIDTH)[:1].repeat(size, 1)) == 1


def test_silence_has_one_source() -> None:
    for points in (torch.zeros(50, WIDTH), planted(3, 0.1, 0, 50)):
        found = count_sources(points, torch.zeros(50), taught())
        assert found.number == 1
        assert found.scores.sum() == 1


def test_most_bounds_the_count() -> None:
    points = planted(4, 0.1, 3)
    for most in (1, 2, 3, 4, 9):
        found = count_sources(points, torch.ones(len(points)), taught(), most)
        assert found.number == min(4, most)
        assert len(found.scores) == min(4, most)
        assert float(found.scores.sum()) == pytest.approx(1)


def test_a_rare_talker_is_counted_as_far_as_he_was_taught() -> None:
    """One in ten of the audible bins."""
    points = planted(2, 0.1, 4, least=0.0)
    rare = torch.cat([points[:2700], planted(1, 0.05, 77, 300)])
    assert number(rare) >= 2


def test_a_sample_has_points_as_often_as_they_weigh() -> None:
    points = torch.arange(4.0)[:, None]
    drawn = sample_points(points, torch.tensor([0.0, 1.0, 3.0, 0.0]), 400)
    assert drawn.shape == (400, 1)
    assert ((drawn == 1).sum(), (drawn == 2).sum()) == (100, 300)


def test_wrong_shapes_are_refused() -> None:
    points = planted(2, 0.1, 0, 20)
    with pytest.raises(ValueError, match="coefficients"):
        count_sources(points, torch.ones(20), [[0.0] * SIGNS] * 3)
    with pytest.raises(ValueError, match="most"):
        count_sources(points, torch.ones(20), taught(), 0)
