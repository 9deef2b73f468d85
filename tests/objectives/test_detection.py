"""Objectives of the detecting heads: right answers cost nothing, gradients are exact."""

from __future__ import annotations

import pytest
import torch

from dpcl.objectives.masks import background_loss, count_loss


def test_sure_and_right_costs_nothing_and_sure_and_wrong_much() -> None:
    truth = torch.tensor([[1, 0, 1], [0, 0, 1]])
    odds = 40.0 * (2 * truth - 1)
    weights = torch.rand(2, 3)
    assert background_loss(odds, truth, weights).abs().max() < 1e-6
    torch.testing.assert_close(background_loss(-odds, truth, weights), torch.full((2,), 40.0))


def test_only_weighted_bins_count() -> None:
    odds, truth = torch.tensor([[3.0, -5.0]]), torch.tensor([[True, True]])
    weights = torch.tensor([[2.0, 0.0]])
    expected = background_loss(odds[:, :1], truth[:, :1], weights[:, :1])
    torch.testing.assert_close(background_loss(odds, truth, weights), expected)
    assert background_loss(odds, truth, torch.zeros(1, 2)).item() == 0


def test_more_talkers_than_classes_are_the_last_class() -> None:
    logits = torch.randn(2, 5, 4)
    counts = torch.randint(0, 4, (2, 5))
    more = torch.where(counts == 3, 7, counts)
    torch.testing.assert_close(count_loss(logits, counts), count_loss(logits, more))


def test_gradients() -> None:
    odds = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    truth, weights = torch.rand(2, 4) > 0.5, torch.rand(2, 4, dtype=torch.float64)
    counts = torch.randint(0, 4, (2, 3))
    assert torch.autograd.gradcheck(lambda x: background_loss(x, truth, weights), (odds,))
    assert torch.autograd.gradcheck(lambda x: count_loss(x, counts), (logits,))


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(B, N\)"):
        background_loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="B and L"):
        count_loss(torch.zeros(2, 3, 4), torch.zeros(2, 2, dtype=torch.int64))
