"""Voice vectors into talkers, and posteriors of a Markov chain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.agglomerative import (
    NEAR,
    SHARED,
    _pairs,
    cluster_directions,
    smooth_posteriors,
)


def voices(counts: list[int], spread: float = 0.06, room: float = 1.0, size: int = 24) -> Tensor:
    """Vectors (sum of counts, size) around one direction per talker, and one that all share."""
    generator = torch.Generator().manual_seed(1)
    talkers = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
    rows = [
        talkers[k] + room * talkers[-1] + spread * torch.randn(n, size, generator=generator)
        for k, n in enumerate(counts)
    ]
    return functional.normalize(torch.cat(rows), dim=-1)


def owners(vectors: Tensor, directions: Tensor) -> list[int]:
    return (vectors @ directions.T).argmax(1).tolist()


@pytest.mark.parametrize("number", [None, 3])
def test_talkers_are_found_in_the_order_of_their_time(number: int | None) -> None:
    vectors = voices([10, 40, 20])
    directions, mass = cluster_directions(vectors, torch.ones(70), number, 4, 6)
    assert mass.tolist() == [40.0, 20.0, 10.0]
    assert owners(vectors, directions) == [2] * 10 + [0] * 40 + [1] * 20


def test_one_talker_is_one_cluster() -> None:
    assert len(cluster_directions(voices([50]), torch.ones(50), None, 4, 6)[0]) == 1


def test_outliers_are_no_talkers() -> None:
    vectors = voices([30, 30, 2])  # the third would be a talker by number, but speaks too little
    assert len(cluster_directions(vectors, torch.ones(62), None, 4, 6)[0]) == 2
    two, mass = cluster_directions(vectors, torch.ones(62), 2, 4, 6)
    assert mass.tolist() == [30.0, 30.0]
    assert owners(vectors[:60], two) == [0] * 30 + [1] * 30


@pytest.mark.parametrize("number", [None, 2])
def test_a_talker_who_speaks_most_stays_whole(number: int | None) -> None:
    """Their voice drifts; the other talker speaks for 2 s, and is a little like both halves."""
    generator = torch.Generator().manual_seed(1)
    axes = torch.linalg.qr(torch.randn(24, 24, generator=generator))[0]
    early, late, other = axes[0] + 0.5 * axes[1], axes[0] + 0.5 * axes[2], axes[3] + 0.4 * axes[0]
    rows = torch.cat([early.expand(30, -1), other.expand(4, -1), late.expand(30, -1)])
    noise = 0.13 * torch.randn(64, 24, generator=generator)
    vectors = functional.normalize(rows + noise, dim=-1)
    directions, mass = cluster_directions(vectors, torch.ones(64), number, 2, 6)
    assert mass.tolist() == [60.0, 4.0]
    assert owners(vectors, directions) == [0] * 30 + [1] * 4 + [0] * 30


def test_turns_of_a_long_recording() -> None:
    turns = voices([30, 20, 10]).view(6, 10, 24)[[0, 3, 5, 1, 4, 2]].flatten(0, 1)
    vectors = functional.normalize(turns.repeat(10, 1), dim=-1)  # 600, more than the groups
    directions, mass = cluster_directions(vectors, torch.ones(600), None, 4, 6)
    assert mass.tolist() == [300.0, 200.0, 100.0]
    expected = torch.tensor([0, 1, 2, 0, 1, 0]).repeat_interleave(10).repeat(10)
    assert owners(vectors, directions) == expected.tolist()


def test_the_mean_cosine_of_two_clusters_is_that_of_their_pairs() -> None:
    vectors, times = voices([3, 3], spread=0.3), torch.tensor([0, 1, 4, 5, 9, 12])
    weights = torch.tensor([1.0, 0.5, 1.0, 0.8, 1.0, 0.2])
    groups = functional.one_hot(torch.tensor([0, 1, 0, 1, 2, 2])).T.float()
    cosines, pairs, usual = _pairs(vectors, weights, times, groups)
    own = (vectors @ vectors.T).double()
    lag = (times[:, None] - times).abs()
    weight = torch.where(lag < SHARED, NEAR, 1.0).fill_diagonal_(0) * weights[:, None] * weights
    table = groups.double()
    np.testing.assert_allclose(pairs, table @ weight.double() @ table.T, atol=1e-6)
    np.testing.assert_allclose(cosines, table @ (weight * own) @ table.T, atol=1e-6)
    later = [own[0, 2], own[1, 2], own[2, 4], own[3, 4], own[4, 5]]  # the next 3 to 5 steps later
    assert usual == pytest.approx(float(torch.stack(later).median()), abs=1e-6)


def test_a_limit_and_stretches_without_weight() -> None:
    vectors = voices([20, 20, 20])
    assert len(cluster_directions(vectors, torch.ones(60), None, 4, 2)[0]) == 2
    weights = torch.cat([torch.zeros(20), torch.ones(40)])
    assert len(cluster_directions(vectors, weights, None, 4, 6)[0]) == 2
    assert cluster_directions(vectors, torch.zeros(60), None, 4, 6)[0].shape == (1, 24)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_fewer_vectors_than_talkers(number: int) -> None:
    directions, _ = cluster_directions(voices([1, 1]), torch.ones(2), number, 4, 6)
    assert len(directions) == min(number, 2)


def test_posteriors_are_those_of_all_paths() -> None:
    torch.manual_seed(0)
    scores, stay, shares = torch.randn(3, 4), 0.6, [0.5, 0.3, 0.2]
    likelihoods, total = scores.exp().tolist(), np.zeros((3, 4))
    for path in itertools.product(range(3), repeat=4):
        weight = shares[path[0]]
        for a, b in itertools.pairwise(path):
            weight *= stay * (a == b) + (1 - stay) * shares[b]
        for step, state in enumerate(path):
            weight *= likelihoods[state][step]
        total[path, range(4)] += weight
    found = smooth_posteriors(scores, stay, torch.tensor(shares))
    np.testing.assert_allclose(found.numpy(), total / total.sum(0), rtol=1e-4, atol=1e-5)


def test_one_state_is_certain() -> None:
    assert smooth_posteriors(torch.randn(1, 4), 0.9).tolist() == [[1.0] * 4]
