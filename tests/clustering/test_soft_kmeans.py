"""Soft k-means as layers: hard k-means is its limit, and its gradient is that of its steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpcl.clustering.kmeans import SAMPLE, following_kmeans, hard_start, kmeans, soft_kmeans


def blobs(
    items: int, bins: int, clusters: int, width: int, spread: float, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Points (B, N, K) around some centres, and weights (B, N), some of them zero."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(items, clusters, width, generator=random, dtype=torch.float64)
    labels = torch.randint(clusters, (items, bins), generator=random)
    noise = spread * torch.randn(items, bins, width, generator=random, dtype=torch.float64)
    points = centres.gather(1, labels.unsqueeze(-1).expand(-1, -1, width)) + noise
    weights = torch.rand(items, bins, generator=random, dtype=torch.float64)
    return points, weights * (torch.rand(items, bins, generator=random) > 0.3)


def lloyd(points: Tensor, centroids: Tensor, weights: Tensor) -> Tensor:
    """One step of hard k-means on (N, K), (C, K), (N,), as it is written in books."""
    labels = torch.tensor([int((x - centroids).norm(dim=-1).argmin()) for x in points])
    means = []
    for c in range(len(centroids)):
        own = labels == c
        means.append((weights[own, None] * points[own]).sum(0) / weights[own].sum())
    return torch.stack(means)


def test_a_step_by_hand() -> None:
    """Points 0, 1 and 3 on a line, centroids 0 and 2, alpha ln 2: 2^-d² shares each point."""
    points = torch.tensor([[[0.0], [1.0], [3.0]]])
    centroids, shares = soft_kmeans(
        points, torch.tensor([[[0.0], [2.0]]]), torch.tensor([[1.0, 2.0, 1.0]]), 0.6931472, 1
    )
    # distances² 0, 4; 1, 1; 9, 1 -> shares of the first 16/17, 1/2, 1/257
    first = torch.tensor([16 / 17, 1.0, 1 / 257])  # times the weights
    second = torch.tensor([1 / 17, 1.0, 256 / 257])
    expected = torch.stack([(s * points[0, :, 0]).sum() / s.sum() for s in (first, second)])
    torch.testing.assert_close(centroids[0, :, 0], expected, rtol=0, atol=2e-5)
    nearness = 2 ** -(points[0] - expected).square()  # (N, C)
    torch.testing.assert_close(shares[0].T, nearness / nearness.sum(1, keepdim=True))


@pytest.mark.parametrize("clusters", [2, 3, 5])
def test_a_step_is_lloyds_as_alpha_grows(clusters: int) -> None:
    """espnet's distance was a sum of points less squares of centroids, by a missing bracket."""
    points, weights = blobs(2, 200, clusters, 4, 0.7)
    starts = points[:, :clusters]
    found, shares = soft_kmeans(points, starts, weights, 1e8, 1)
    for item in range(2):
        expected = lloyd(points[item], starts[item], weights[item])
        torch.testing.assert_close(found[item], expected, rtol=0, atol=1e-4)
    assert ((shares == 0) | (shares == 1)).double().mean() > 0.999


@given(seed=st.integers(0, 10**6), clusters=st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_hard_kmeans_stays_where_it_ended_as_alpha_grows(seed: int, clusters: int) -> None:
    """The same fixed point, and the same assignments."""
    points, weights = blobs(1, 150, clusters, 3, 0.4, seed)
    assume(int((weights > 0).sum()) >= clusters)
    hard = kmeans(points, clusters, weights, tolerance=0.0, iterations=200)
    found, shares = soft_kmeans(points, hard.centroids, weights, 1e8, 5)
    torch.testing.assert_close(found, hard.centroids, rtol=0, atol=1e-6)
    assert torch.equal(shares.argmax(1), hard.labels)


def test_many_steps_end_where_a_step_changes_nothing() -> None:
    """INERTIA slows a centroid down by a millionth; it does not hold it anywhere."""
    points, weights = blobs(2, 300, 3, 4, 0.5)
    end, shares = soft_kmeans(points, points[:, :3], weights, 3.0, 500)
    pull = shares * weights.unsqueeze(1)
    means = (pull @ points) / pull.sum(-1, keepdim=True)
    torch.testing.assert_close(end, means, rtol=0, atol=1e-8)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_gradient_of_points_centroids_and_alpha(steps: int) -> None:
    points, weights = blobs(2, 7, 3, 2, 0.6)
    centroids, alpha = points[:, :3].clone(), torch.tensor(1.7, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (points, centroids, alpha)]
    assert torch.autograd.gradcheck(lambda v, m, a: soft_kmeans(v, m, weights, a, steps), inputs)


def test_bins_without_weight_do_not_matter() -> None:
    points, weights = blobs(2, 60, 2, 3, 0.5)
    silent = weights == 0
    assert silent.any()
    elsewhere = torch.where(silent.unsqueeze(-1), 100 - 7 * points, points)
    starts = points[:, :2].clone()
    centroids, shares = soft_kmeans(points, starts, weights, 5.0, 4)
    again, changed = soft_kmeans(elsewhere, starts, weights, 5.0, 4)
    torch.testing.assert_close(again, centroids)
    heard = ~silent.unsqueeze(1).expand_as(shares)
    torch.testing.assert_close(changed[heard], shares[heard])
    points.requires_grad_()
    soft_kmeans(points, starts, weights, 5.0, 4)[0].square().sum().backward()
    assert points.grad is not None
    assert not points.grad[silent].any()
    assert points.grad[~silent].all()


def test_weights_count_relative_to_one_another() -> None:
    points, weights = blobs(2, 60, 2, 3, 0.5)
    ours, _ = soft_kmeans(points, points[:, :2], weights, 5.0, 3)
    theirs, _ = soft_kmeans(points, points[:, :2], 1e-7 * weights, 5.0, 3)
    torch.testing.assert_close(ours, theirs)
    twice = torch.cat([points, points[:1, :30].expand(2, -1, -1)], 1)  # of the first item
    doubled = weights.clone()
    doubled[0, :30] *= 2
    more = torch.cat([weights, weights[:, :30]], 1)
    one, _ = soft_kmeans(points[:1], points[:1, :2], doubled[:1], 5.0, 3)
    two, _ = soft_kmeans(twice[:1], points[:1, :2], more[:1], 5.0, 3)
    torch.testing.assert_close(one, two)


def test_order_of_clusters_and_of_points_is_carried_over() -> None:
    points, weights = blobs(2, 50, 3, 4, 0.6)
    starts = points[:, :3]
    centroids, shares = soft_kmeans(points, starts, weights, 4.0, 3)
    clusters, order = torch.tensor([2, 0, 1]), torch.randperm(50)
    moved, swapped = soft_kmeans(points[:, order], starts[:, clusters], weights[:, order], 4.0, 3)
    torch.testing.assert_close(moved, centroids[:, clusters])
    torch.testing.assert_close(swapped, shares[:, clusters][:, :, order])


def test_a_cluster_without_bins_stays_where_it_is() -> None:
    points, weights = blobs(1, 50, 2, 3, 0.2)
    away = torch.full((1, 1, 3), 60.0, dtype=torch.float64)
    inputs = [torch.cat([points[:, :2], away], 1), torch.tensor(50.0, dtype=torch.float64)]
    points, *inputs = [x.requires_grad_() for x in (points, *inputs)]
    centroids, shares = soft_kmeans(points, inputs[0], weights, inputs[1], 5)
    torch.testing.assert_close(centroids[:, 2:], away)
    assert not shares[:, 2].any()
    (centroids.square().sum() + shares.square().sum()).backward()
    for x in (points, *inputs):
        assert x.grad is not None
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("alpha", [1e-3, 5.0, 1e6])
def test_finite_where_there_is_nothing_to_tell_apart(alpha: float) -> None:
    """All points the same, nothing heard at all: one or the other, but no NaN."""
    same = torch.ones(2, 9, 4, requires_grad=True)
    weights = torch.tensor([[0.0] * 9, [1.0] * 9])
    starts = torch.eye(4)[:2].expand(2, -1, -1)
    centroids, shares = soft_kmeans(same, starts, weights, alpha, 3)
    torch.testing.assert_close(centroids[0], starts[0])  # silence moves nothing
    torch.testing.assert_close(centroids[1], torch.ones(2, 4), rtol=0, atol=1e-4)
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 9))
    (centroids.sum() + shares.square().sum()).backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_far_from_the_origin_as_near_it() -> None:
    """Squares of a thousand would leave float32 nothing of distances of a tenth."""
    points, weights = blobs(1, 80, 2, 3, 0.3)
    starts = points[:, :2]
    _, near = soft_kmeans(points, starts, weights, 5.0, 0)
    far = [(x + 1000).float() for x in (points, starts)]
    _, shares = soft_kmeans(*far, weights.float(), 5.0, 0)
    torch.testing.assert_close(shares.double(), near, rtol=0, atol=0.02)


def test_exact_under_autocast() -> None:
    points, weights = (x.float() for x in blobs(2, 60, 3, 4, 0.5))
    plain = soft_kmeans(points, points[:, :3], weights, 5.0, 3)
    with torch.autocast("cpu", torch.bfloat16):
        again = soft_kmeans(points, points[:, :3], weights, 5.0, 3)
        half = soft_kmeans(points.bfloat16(), points[:, :3].bfloat16(), weights, 5.0, 3)
    for ours, theirs, coarse in zip(plain, again, half, strict=True):
        assert torch.equal(ours, theirs)
        assert coarse.dtype == torch.float32


@pytest.mark.parametrize(
    ("points", "centroids", "weights"),
    [
        ((5, 3), (2, 3), (5,)),
        ((1, 5, 3), (1, 2, 3), (1, 4)),
        ((1, 5, 3), (1, 2, 4), (1, 5)),
        ((2, 5, 3), (1, 2, 3), (2, 5)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    points: tuple[int, ...], centroids: tuple[int, ...], weights: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="must be"):
        soft_kmeans(torch.ones(points), torch.ones(centroids), torch.ones(weights), 5.0, 1)


def test_the_hard_start_is_kmeans_and_has_no_gradient() -> None:
    points, weights = blobs(3, 100, 3, 4, 0.2)
    starts = hard_start(points.requires_grad_(), 3, weights)
    assert not starts.requires_grad
    expected = kmeans(points.detach(), 3, weights).centroids
    torch.testing.assert_close(starts, expected, rtol=0, atol=1e-6)  # fewer points than SAMPLE


def test_the_hard_start_samples_what_has_weight() -> None:
    """A tenth of many bins is heard, around two places; the others lie anywhere."""
    torch.manual_seed(0)
    bins = 5 * SAMPLE
    points = 10 * torch.randn(2, bins, 3)
    weights = (torch.rand(2, bins) < 0.1).float()
    places = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    heard = places[torch.randint(2, (2, bins))] + 0.1 * torch.randn(2, bins, 3)
    points = torch.where(weights.unsqueeze(-1) > 0, heard, points)
    starts = hard_start(points, 2, weights)
    for item in starts:
        assert torch.cdist(item, places).min(0).values.max() < 0.02
    assert torch.equal(hard_start(points[1:], 2, weights[1:]), starts[1:])


def test_one_block_of_all_frames_is_clustered_as_a_whole() -> None:
    points, weights = blobs(2, 300, 3, 4, 0.3)
    found = following_kmeans(points, 3, weights, 4.0, 2, 300)
    expected = soft_kmeans(points, hard_start(points, 3, weights), weights, 4.0, 2)[1]
    assert torch.equal(found, expected)


def test_a_block_knows_what_came_before_it_alone() -> None:
    points, weights = blobs(2, 450, 2, 4, 0.3)
    found = following_kmeans(points, 2, weights, 4.0, 2, 120)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 450, dtype=torch.float64))
    for place in (135, 225, 300, 435):
        other, heavier = points.clone(), weights.clone()
        other[:, place:] = other[:, place:].flip(-1) - 3
        heavier[:, place:] += 1
        ours = following_kmeans(other, 2, heavier, 4.0, 2, 120)
        assert torch.equal(ours[..., :place], found[..., :place])
        assert not torch.equal(ours[..., place:], found[..., place:])


def test_clusters_keep_their_places_when_a_start_would_give_others() -> None:
    """The heavier cluster of the first block is the lighter one of the others."""
    where = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0] * 9 + [1]).repeat(4, 1)  # frames of ten bins
    labels[2:] = 1 - labels[2:]
    points = where[labels].view(1, 40, 2) + 0.01 * torch.randn(1, 40, 2).double()
    found = following_kmeans(points, 2, torch.ones(1, 40).double(), 20.0, 2, 10).argmax(1)
    same = found.view(4, 10) == labels
    assert same.all() or not same.any()


def test_what_is_heard_later_teaches_what_came_before() -> None:
    """Its centroids are of the past: masks of the last block alone reach the first points."""
    points, weights = blobs(2, 360, 2, 4, 0.3)
    alpha = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    points.requires_grad_()
    found = following_kmeans(points, 2, weights, alpha, 2, 120)
    found[:, 0, 240:].square().sum().backward()
    assert points.grad is not None and alpha.grad is not None
    assert points.grad.isfinite().all() and alpha.grad != 0
    assert all(points.grad[:, first : first + 120].any() for first in (0, 120, 240))
