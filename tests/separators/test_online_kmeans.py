"""Centroids that follow a stream: found when there is enough, kept in silence, never exchanged."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.kmeans import kmeans
from dpcl.separators import online
from dpcl.separators.online import OnlineClusters, follow, start

HOP = 0.02  # s
BINS, K = 12, 5
BLOCK = round(online.BLOCK / HOP)


def heard(
    talkers: list[set[int]], spread: float = 0.2, seed: int = 0, wrong: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Points (L, F, K) and weights (L, F): who talks in each frame, talker c in direction c.

    wrong: share of the bins of a frame that lie where talker 1 would be.
    """
    random = torch.Generator().manual_seed(seed)
    noise = spread * torch.randn(len(talkers), BINS, K, generator=random)
    owner = torch.zeros(len(talkers), BINS, dtype=torch.long)
    for frame, active in enumerate(talkers):
        choice = torch.tensor(sorted(active) or [0])
        owner[frame] = choice[torch.randint(len(choice), (BINS,), generator=random)]
    owner[torch.rand(owner.shape, generator=random) < wrong] = 1
    points = functional.normalize(torch.eye(K)[owner] + noise, dim=-1)
    weights = torch.rand(len(talkers), BINS, generator=random)
    return points, weights * torch.tensor([[float(bool(active))] for active in talkers])


def seconds(length: float, *talkers: int) -> list[set[int]]:
    return [set(talkers)] * round(length / HOP)


def run(talkers: list[set[int]], sources: int, **how: float) -> tuple[Tensor, OnlineClusters]:
    points, weights = heard(talkers, **how)  # type: ignore[arg-type]
    return follow(points, weights, start(sources, BINS, K), HOP)


def places(centroids: Tensor) -> list[int]:
    """Which talker each centroid is of; -1 for one that is not found."""
    return [int(c.argmax()) if c.any() else -1 for c in centroids]


@given(
    cuts=st.lists(st.integers(0, 300), max_size=8),
    sources=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=30)
def test_pieces_are_the_whole(cuts: list[int], sources: int, seed: int) -> None:
    talkers = seconds(2, 0) + seconds(0.5) + seconds(2, 0, 1) + seconds(1.5, 2)
    points, weights = heard(talkers, seed=seed)
    whole, end = follow(points, weights, start(sources, BINS, K), HOP)
    assert whole.shape == (len(talkers), sources, K)
    state, pieces = start(sources, BINS, K), []
    bounds = [0, *sorted(cuts), len(talkers)]
    for first, last in pairwise(bounds):
        centroids, state = follow(points[first:last], weights[first:last], state, HOP)
        pieces.append(centroids)
    assert torch.equal(torch.cat(pieces), whole)
    assert torch.equal(state.masses, end.masses) and state.found == end.found
    known = whole.any(-1)
    assert (known[1:] >= known[:-1]).all()  # who is found is not lost


@pytest.mark.parametrize("frame", [0, 10, 45, 100, 149])
def test_the_future_changes_nothing(frame: int) -> None:
    points, weights = heard(seconds(3, 0, 1))
    other, otherwise = points.clone(), weights.clone()
    other[frame + 1 :] = functional.normalize(torch.randn(len(points) - frame - 1, BINS, K), dim=-1)
    otherwise[frame + 1 :] = 1
    state = start(2, BINS, K)
    ours, theirs = (follow(*x, state, HOP)[0] for x in ((points, weights), (other, otherwise)))
    assert torch.equal(ours[: frame + 1], theirs[: frame + 1])
    assert frame == 149 or not torch.equal(ours, theirs)


def test_nothing_is_known_until_enough_was_heard() -> None:
    centroids, _ = run(seconds(5) + seconds(3, 0, 1), 2)
    known = centroids.any(-1).all(-1)
    first = int(known.nonzero()[0]) * HOP - 5
    assert online.START <= first <= online.START + online.BLOCK + HOP
    assert not centroids[~known].any()
    assert known[int(known.nonzero()[0]) :].all()
    assert sorted(places(centroids[-1])) == [0, 1]


def test_one_talker_alone_is_not_two() -> None:
    """k-means would halve the voice, and the second talker would find no centroid free."""
    centroids, state = run(seconds(8, 0), 2)
    assert state.found == 1
    assert places(centroids[-1]) == [0, -1]


def test_who_enters_late_gets_the_next_place() -> None:
    centroids, _ = run(seconds(6, 3) + seconds(6, 1) + seconds(6, 3, 1) + seconds(3, 4), 3)
    assert places(centroids[int(6 / HOP)]) == [3, -1, -1]
    assert places(centroids[int(11 / HOP)]) == [3, 1, -1]
    assert places(centroids[-1]) == [3, 1, 4]


def test_a_poor_start_is_put_right() -> None:
    """While nothing is settled, centroids are those of k-means on all that was heard."""
    points, weights = heard(seconds(3, 0, 1))
    blurred = points[:20] + points[:20].roll(1, 1)  # at first every bin has much of another
    points[:20] = functional.normalize(blurred, dim=-1)
    weights[:20] *= 3
    _, state = follow(points, weights, start(2, BINS, K), HOP)
    found = kmeans(points.flatten(0, 1), 2, weights.flatten()).centroids
    cosines = functional.cosine_similarity(state.centroids[:, None], found, dim=-1)
    assert cosines.amax(1).min() > 0.999


def test_of_what_was_heard_some_seconds_are_kept() -> None:
    _, state = run(seconds(30, 0, 1), 2)
    assert sum(heard for _, _, heard in state.recent) < online.RECENT + 2 * online.BLOCK


def test_who_enters_louder_takes_no_place_of_another() -> None:
    """k-means puts the heaviest cluster first."""
    points, weights = heard(seconds(6, 3) + seconds(2, 1))
    weights[300:] *= 20
    centroids, _ = follow(points, weights, start(2, BINS, K), HOP)
    assert places(centroids[-1]) == [3, 1]


@pytest.mark.parametrize("sources", [2, 3])
def test_no_two_change_places(sources: int) -> None:
    random = torch.Generator().manual_seed(1)
    talkers = seconds(3, *range(sources))
    for _ in range(60):
        who = torch.randperm(sources, generator=random)[: 1 + len(talkers) % sources].tolist()
        talkers += seconds(1.1, *who) + seconds(0.3)
    centroids, _ = run(talkers, sources, spread=0.35)
    known = centroids.any(-1).all(-1)
    orders = {tuple(places(c)) for c in centroids[known]}
    assert len(orders) == 1
    assert sorted(orders.pop()) == list(range(sources))


def test_silence_changes_nothing() -> None:
    points, weights = heard(seconds(4, 0, 1) + seconds(60))
    before, state = follow(points[:200], weights[:200], start(2, BINS, K), HOP)
    after, later = follow(points[200:], weights[200:], state, HOP)
    assert torch.equal(after[-1], after[0]) and torch.equal(after[0], state.centroids)
    assert torch.equal(later.masses, state.masses)
    assert before[-1].any()
    _, state = run(seconds(60), 2)
    assert state.recent == () and not state.found  # an hour of silence takes no memory


def test_who_is_silent_for_minutes_keeps_the_centroid() -> None:
    """Also where now and then a bin of the other is taken for theirs."""
    centroids, state = run(seconds(5, 0, 1) + seconds(180, 0), 2, wrong=0.02)
    kept = centroids[int(5 / HOP)], state.centroids
    cosines = functional.cosine_similarity(*kept, dim=-1)
    assert cosines.min() > 0.98


def test_centroids_follow_a_voice_that_changes() -> None:
    points, weights = heard(seconds(30, 0, 1))
    angle = torch.linspace(0, torch.pi / 2, len(points))[:, None]
    turned = points.clone()  # the plane of axes 0 and 4: talker 0 goes from one to the other
    turned[..., 0] = points[..., 0] * angle.cos() - points[..., 4] * angle.sin()
    turned[..., 4] = points[..., 0] * angle.sin() + points[..., 4] * angle.cos()
    centroids, state = follow(turned, weights, start(2, BINS, K), HOP)
    first = places(centroids[int(2 / HOP)]).index(0)
    assert state.centroids[first].argmax() == 4
    assert state.centroids[1 - first].argmax() == 1


def test_the_level_of_the_weights_does_not_matter() -> None:
    points, weights = heard(seconds(2, 0) + seconds(4, 0, 1))
    quiet, _ = follow(points, weights / 1024, start(2, BINS, K), HOP)
    loud, _ = follow(points, weights, start(2, BINS, K), HOP)
    torch.testing.assert_close(quiet, loud)


def test_the_state_that_was_given_is_left_alone() -> None:
    points, weights = heard(seconds(3, 0, 1))
    _, state = follow(points, weights, start(2, BINS, K), HOP)
    before = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    copies = {n: v.clone() for n, v in before.items() if isinstance(v, Tensor)}
    follow(points, weights, state, HOP)
    for name, copy in copies.items():
        assert torch.equal(before[name], copy), name
