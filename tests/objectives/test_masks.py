"""Mask targets and the permutation-invariant mask loss."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from dpcl.objectives import mask_inference_loss
from dpcl.objectives.masks import Norm, least_cost, phase_sensitive_targets


def spectra() -> tuple[Tensor, Tensor]:
    """Sources (2, 3, 4, 5) and their sum, of which one bin is silent."""
    generator = torch.Generator().manual_seed(1)
    parts = torch.randn(2, 2, 3, 4, 5, generator=generator).double()
    sources = torch.complex(parts[0], parts[1])
    sources[:, :, 0, 0] = 0
    return sources, sources.sum(1)


def item(sources: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sources)
    masks = torch.rand(2, 20, sources, generator=generator).double()
    mixture = torch.rand(2, 20, generator=generator).double()
    targets = torch.rand(2, 20, sources, generator=generator).double() * mixture.unsqueeze(-1)
    return masks, mixture, targets


def test_phase_sensitive_targets_are_truncated_projections() -> None:
    sources, mixture = spectra()
    targets = phase_sensitive_targets(sources, mixture)
    assert targets.shape == (2, 20, 3)
    between = sources.angle() - mixture.angle().unsqueeze(1)
    expected = (sources.abs() * between.cos()).clamp_min(0)
    expected = torch.minimum(expected, mixture.abs().unsqueeze(1))
    torch.testing.assert_close(targets, expected.flatten(2).mT)
    assert (expected.flatten(2).mT > 0).any() and (targets == 0).any()
    one, of_one = sources[0], mixture[0]  # without a batch
    torch.testing.assert_close(phase_sensitive_targets(one, of_one), targets[0])


def test_a_source_alone_is_its_own_target() -> None:
    sources, _ = spectra()
    sources[:, 1:] = 0
    targets = phase_sensitive_targets(sources, sources[:, 0])
    torch.testing.assert_close(targets, sources.abs().flatten(-2).mT)
    assert not targets[..., 1:].any()


def test_targets_are_ordered_as_ideal_assignments_are() -> None:
    sources, _ = spectra()
    targets = phase_sensitive_targets(sources, sources[:, 2])
    assert targets.shape == (2, 20, 3)
    torch.testing.assert_close(targets[1, 7, 2], sources[1, 2, 1, 2].abs())


@pytest.mark.parametrize("norm", [1, 2])
def test_value_is_the_least_over_all_orders(norm: Norm) -> None:
    masks, mixture, targets = item()
    loss = mask_inference_loss(masks, mixture, targets, norm)
    estimates = masks * mixture.unsqueeze(-1)
    every = [
        (estimates - targets[..., list(order)]).abs().pow(norm).sum((1, 2))
        for order in permutations(range(3))
    ]
    expected = torch.stack(every).min(0).values / mixture.pow(norm).sum(-1)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("norm", [1, 2])
def test_gradient_agrees_with_finite_differences(norm: Norm) -> None:
    masks, mixture, targets = item()
    masks.requires_grad_()
    assert torch.autograd.gradcheck(lambda m: mask_inference_loss(m, mixture, targets, norm), masks)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("sources", [1, 2, 4])
def test_order_and_loudness_do_not_matter(norm: Norm, sources: int) -> None:
    masks, mixture, targets = item(sources)
    loss = mask_inference_loss(masks, mixture, targets, norm)
    order = torch.randperm(sources, generator=torch.Generator().manual_seed(sources))
    torch.testing.assert_close(mask_inference_loss(masks[..., order], mixture, targets, norm), loss)
    torch.testing.assert_close(mask_inference_loss(masks, 1e3 * mixture, 1e3 * targets, norm), loss)
    ideal = (targets / mixture.unsqueeze(-1))[..., order]
    perfect = mask_inference_loss(ideal, mixture, targets, norm)
    torch.testing.assert_close(perfect, torch.zeros(2).double())


@pytest.mark.parametrize("norm", [1, 2])
def test_lies_in_zero_to_two(norm: Norm) -> None:
    mixture = torch.rand(1, 20, generator=torch.Generator().manual_seed(1))
    masks = torch.tensor([0.0, 0.0, 1.0]).expand(1, 20, 3)
    targets = torch.zeros(1, 20, 3)
    targets[0, ::2, 0] = mixture[0, ::2]
    targets[0, 1::2, 1] = mixture[0, 1::2]
    value = mask_inference_loss(masks, mixture, targets, norm)
    assert 0 < value <= 2


@pytest.mark.parametrize("norm", [1, 2])
def test_silence_and_bfloat16(norm: Norm) -> None:
    masks, mixture, targets = item()
    mixture[0], targets[0] = 0, 0
    half = masks.bfloat16().requires_grad_()
    loss = mask_inference_loss(half, mixture.bfloat16(), targets.bfloat16(), norm)
    loss.sum().backward()
    assert loss[0] == 0 and half.grad is not None and half.grad.isfinite().all()
    expected = mask_inference_loss(masks, mixture, targets, norm)
    torch.testing.assert_close(loss.double(), expected, rtol=0.02, atol=0)


def test_of_equally_good_orders_one_is_followed() -> None:
    """With the mean of both gradients, outputs that start out alike would stay alike."""
    costs = torch.ones(1, 2, 2, requires_grad=True)
    least_cost(costs).sum().backward()
    assert costs.grad is not None and sorted(costs.grad.flatten().tolist()) == [0, 0, 1, 1]


def test_says_which_shapes_do_not_fit() -> None:
    masks, mixture, targets = item()
    sources, of_sources = spectra()
    with pytest.raises(ValueError, match=r"got \(2, 20, 3\), \(2, 20, 2\) and \(2, 20\)"):
        mask_inference_loss(masks, mixture, targets[..., 1:])
    with pytest.raises(ValueError, match="norm must be 1 or 2; got 3"):
        mask_inference_loss(masks, mixture, targets, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got \(2, 3, 4, 5\) and \(2, 4, 4\)"):
        phase_sensitive_targets(sources, of_sources[..., 1:])
