"""Voice vectors into talkers, and posteriors of a Markov chain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.agglomerative import cluster_directions, smooth_posteriors


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
    directions = cluster_directions(vectors, torch.ones(70), number, 4, 6)
    assert owners(vectors, directions) == [2] * 10 + [0] * 40 + [1] * 20


def test_one_talker_is_one_cluster() -> None:
    assert len(cluster_directions(voices([50]), torch.ones(50), None, 4, 6)) == 1


def test_outliers_are_no_talkers() -> None:
    vectors = voices([30, 30, 2])  # the third would be a talker by number, but speaks too little
    assert len(cluster_directions(vectors, torch.ones(62), None, 4, 6)) == 2
    two = cluster_directions(vectors, torch.ones(62), 2, 4, 6)
    assert owners(vectors[:60], two) == [0] * 30 + [1] * 30


def test_a_limit_and_stretches_without_weight() -> None:
    vectors = voices([20, 20, 20])
    assert len(cluster_directions(vectors, torch.ones(60), None, 4, 2)) == 2
    weights = torch.cat([torch.zeros(20), torch.ones(40)])
    assert len(cluster_directions(vectors, weights, None, 4, 6)) == 2
    assert cluster_directions(vectors, torch.zeros(60), None, 4, 6).shape == (1, 24)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_fewer_vectors_than_talkers(number: int) -> None:
    directions = cluster_directions(voices([1, 1]), torch.ones(2), number, 4, 6)
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
