"""Counting sources: planted clusters are counted, whatever their order, rotation and weights."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.count import CUES, OF_CLOUD, Count, count_sources, cues, fit, sample_points

WIDTH = 8


def planted(count: int, noise: float, seed: int, size: int = 3000, least: float = 0.1) -> Tensor:
    """Unit points (size, WIDTH) around `count` orthogonal directions, none with a share < least."""
    random = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=random)).Q[:count]
    shares = least + (1 - least * count) * torch.rand(count, generator=random).softmax(0)
    owners = torch.multinomial(shares, size, replacement=True, generator=random)
    spread = noise * torch.randn(size, WIDTH, generator=random)
    return functional.normalize(directions[owners] + spread, dim=-1)


def frames_of(points: Tensor) -> Tensor:
    return torch.arange(len(points)) // 30


@cache
def taught() -> tuple[list[list[float]], list[list[float]]]:
    """Fitted on planted clusters with seeds that the tests do not use."""
    cases = [(1 + i % 4, 0.05 + 0.05 * (i // 4 % 5), 10_000 + i) for i in range(40)]
    clouds = [planted(*case) for case in cases]
    found = torch.stack([cues(x, x.new_ones(len(x)), frames_of(x)) for x in clouds])
    return fit(found, torch.tensor([count for count, *_ in cases]), torch.ones(len(cases)))


def counted(points: Tensor, weights: Tensor | None = None, most: int = 10) -> Count:
    weights = points.new_ones(len(points)) if weights is None else weights
    return count_sources(points, weights, frames_of(points), *taught(), most)


def number(points: Tensor, weights: Tensor | None = None) -> int:
    return counted(points, weights).number


@given(count=st.integers(1, 4), noise=st.floats(0.05, 0.25), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=8)
def test_planted_clusters_are_counted(count: int, noise: float, seed: int) -> None:
    points = planted(count, noise, seed)
    assert number(points) == count
    random = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=random)).Q
    shuffled = torch.randperm(len(points), generator=random)
    frames = frames_of(points)[shuffled] + 3
    other = (points @ turned)[shuffled]
    assert count_sources(other, torch.ones(len(points)), frames, *taught()).number == count


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
    one, other = (counted(points, w) for w in (weights, weights * scale))
    torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-2)


def test_signs_do_not_change_when_embeddings_are_rotated() -> None:
    points = planted(3, 0.1, 5)
    turned = torch.linalg.qr(
        torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    ).Q
    # The first three k-means are the same; beyond the planted number, starts decide.
    same = slice(0, 7 + 1 + 3 + 3)
    one, other = (cues(x, torch.ones(len(x)), frames_of(x)) for x in (points, points @ turned))
    torch.testing.assert_close(one[same], other[same], rtol=0, atol=1e-3)


def test_a_perfect_embedding_has_as_many_eigenvalues_as_talkers() -> None:
    points = torch.eye(WIDTH)[torch.arange(3000) % 3]
    found = cues(points, torch.ones(3000), frames_of(points)).exp()
    torch.testing.assert_close(found[:3], torch.full((3,), 1 / 3, dtype=torch.float64))
    assert (found[3:6] < 1e-3).all()
    assert float(found[6]) == pytest.approx(3)  # effective rank


def sharing(points: Tensor, frames: Tensor, clusters: int = 2) -> Tensor:
    """Mean and quantiles of the entropies of the shares of so many clusters."""
    each = (CUES - OF_CLOUD - 1) // 3
    return cues(points, torch.ones(len(points)), frames)[OF_CLOUD:-1].view(3, each)[clusters - 2]


def test_talkers_who_overlap_share_frames() -> None:
    points = torch.eye(WIDTH)[torch.arange(3000) % 2]  # the talkers in turn, bin by bin
    expected = torch.full((4,), math.log(2), dtype=torch.float64)
    torch.testing.assert_close(sharing(points, torch.arange(3000) // 30), expected)


def test_talkers_who_take_turns_do_not() -> None:
    points = torch.eye(WIDTH)[torch.arange(3000) // 300 % 2]
    torch.testing.assert_close(
        sharing(points, torch.arange(3000) // 30), torch.zeros(4, dtype=torch.float64)
    )


def test_frames_count_by_their_weight() -> None:
    """A third of the weight is in frames that two share alike: the rest is one's alone."""
    points = torch.eye(WIDTH)[torch.cat([torch.zeros(2000, dtype=int), torch.arange(1000) % 2])]
    found = sharing(points, torch.arange(3000) // 100)
    assert float(found[0]) == pytest.approx(math.log(2) / 3)
    assert found[1:].tolist() == pytest.approx([0, 0, math.log(2)])


@pytest.mark.parametrize("size", [1, 2, 5])
def test_few_points(size: int) -> None:
    assert 1 <= number(planted(1, 0.1, 0, size)) <= 4
    assert number(torch.eye(WIDTH)[:1].repeat(size, 1)) == 1


def test_silence_has_one_source() -> None:
    for points in (torch.zeros(50, WIDTH), planted(3, 0.1, 0, 50)):
        found = counted(points, torch.zeros(50))
        assert found.number == 1
        assert found.scores.sum() == 1


def test_most_bounds_the_count() -> None:
    points = planted(4, 0.1, 3)
    for most in (1, 2, 3, 4, 9):
        found = counted(points, most=most)
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
    weights, frames = torch.ones(20), frames_of(points)
    hidden, output = taught()
    with pytest.raises(ValueError, match="hidden"):
        count_sources(points, weights, frames, [row[1:] for row in hidden], output)
    with pytest.raises(ValueError, match="output"):
        count_sources(points, weights, frames, hidden, [row[1:] for row in output])
    with pytest.raises(ValueError, match="most"):
        count_sources(points, weights, frames, hidden, output, 0)
