"""Waveform losses, and masks trained through unfolded phase reconstruction."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from dpcl.objectives import waveform_approximation_loss, waveform_loss
from dpcl.objectives.masks import Distance, masked_waveforms
from dpcl.signal.stft import STFT

DISTANCES: list[Distance] = ["l1", "l2", "si_sdr"]
SHORT = STFT(16, 4)


def waves(sources: int = 3, samples: int = 40) -> tuple[Tensor, Tensor]:
    """Estimates and references (2, C, T)."""
    generator = torch.Generator().manual_seed(sources)
    references = torch.randn(2, sources, samples, generator=generator).double()
    noise = torch.randn(2, sources, samples, generator=generator)
    return references.flip(1) + 0.5 * noise, references


def masked(sources: int = 2, samples: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (2, N, C) in (0, 1), the mixture (2, T) and its sources (2, C, T)."""
    generator = torch.Generator().manual_seed(samples)
    references = torch.randn(2, sources, samples, generator=generator).double()
    bins = SHORT.frames(samples) * SHORT.bins
    logits = torch.randn(2, bins, sources, generator=generator).double()
    return logits.sigmoid(), references.sum(1), references


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Le Roux et al. 2019, eq. 3, on signals without their means."""
    estimate, reference = estimate - estimate.mean(), reference - reference.mean()
    target = (estimate @ reference) / (reference @ reference) * reference
    return 10 * (target.square().sum() / (estimate - target).square().sum()).log10()


@pytest.mark.parametrize("distance", DISTANCES)
def test_value_is_the_least_over_all_orders(distance: Distance) -> None:
    estimates, references = waves()
    loss = waveform_loss(estimates, references, distance)
    for b in range(2):
        totals = []
        for order in permutations(range(3)):
            pairs = [(estimates[b, i], references[b, j]) for i, j in enumerate(order)]
            if distance == "si_sdr":
                totals.append(-sum(si_sdr(*pair) for pair in pairs) / 3)
            else:
                power = 1 if distance == "l1" else 2
                every = references[b].abs().pow(power).sum()
                totals.append(sum((e - r).abs().pow(power).sum() for e, r in pairs) / every)
        torch.testing.assert_close(loss[b], torch.stack(totals).min(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradient_agrees_with_finite_differences(distance: Distance) -> None:
    estimates, references = waves()
    estimates.requires_grad_()
    assert torch.autograd.gradcheck(lambda e: waveform_loss(e, references, distance), estimates)


@pytest.mark.parametrize("distance", DISTANCES)
def test_order_and_common_loudness_do_not_matter(distance: Distance) -> None:
    estimates, references = waves()
    loss = waveform_loss(estimates, references, distance)
    torch.testing.assert_close(waveform_loss(estimates[:, [2, 0, 1]], references, distance), loss)
    torch.testing.assert_close(waveform_loss(1e3 * estimates, 1e3 * references, distance), loss)


def test_si_sdr_does_not_hear_level_sign_or_offset() -> None:
    estimates, references = waves()
    loss = waveform_loss(estimates, references, "si_sdr")
    for other in (1e-2 * estimates, 2 - 100 * estimates):
        torch.testing.assert_close(
            waveform_loss(other, references, "si_sdr"), loss, rtol=0, atol=1e-6
        )


def test_best_and_worst_values() -> None:
    _, references = waves()
    silent = torch.zeros_like(references)
    for distance in ("l1", "l2"):
        assert not waveform_loss(references.flip(1), references, distance).any()
        nothing = waveform_loss(silent, references, distance)
        torch.testing.assert_close(nothing, torch.ones(2).double())
    perfect = waveform_loss(references.flip(1), references, "si_sdr")
    torch.testing.assert_close(perfect, torch.full((2,), -80.0).double(), rtol=0, atol=1e-3)
    nothing = waveform_loss(silent, references, "si_sdr")
    torch.testing.assert_close(nothing, torch.full((2,), 80.0).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("distance", DISTANCES)
def test_silent_references_and_estimates_are_finite(distance: Distance) -> None:
    estimates, references = waves()
    references[0, 1] = 0
    references[1] = 0
    estimates[0, 2] = 0
    estimates.requires_grad_()
    loss = waveform_loss(estimates, references, distance)
    loss.sum().backward()
    assert loss.isfinite().all() and estimates.grad is not None
    assert estimates.grad.isfinite().all()
    if distance == "si_sdr":
        assert loss[1] == 0 and not estimates.grad[1].any()


def test_a_silent_reference_takes_no_part_in_the_mean_si_sdr() -> None:
    estimates, references = waves(2)
    references[:, 1] = 0
    loss = waveform_loss(estimates, references, "si_sdr")
    for b in range(2):
        best = max(float(si_sdr(e, references[b, 0])) for e in estimates[b])
        assert float(loss[b]) == pytest.approx(-best, abs=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
def test_bfloat16(distance: Distance) -> None:
    estimates, references = waves()
    half = estimates.bfloat16().requires_grad_()
    loss = waveform_loss(half, references.bfloat16(), distance)
    loss.sum().backward()
    assert half.grad is not None and half.grad.isfinite().all()
    expected = waveform_loss(estimates, references, distance)
    torch.testing.assert_close(loss.double(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradient_through_masks_agrees_with_finite_differences(distance: Distance) -> None:
    masks, mixture, references = masked(samples=12)
    masks.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m: waveform_approximation_loss(
            m, mixture, references, SHORT, SHORT.inverse, distance
        ),
        masks,
    )


def test_one_mask_of_ones_is_the_mixture() -> None:
    _, mixture, _ = masked()
    ones = torch.ones(2, SHORT.frames(30) * SHORT.bins, 1)
    found = masked_waveforms(ones, mixture, SHORT, SHORT.inverse)
    torch.testing.assert_close(found.squeeze(1), mixture, rtol=0, atol=1e-6)


def test_masks_of_silence_and_of_bfloat16_masks() -> None:
    masks, mixture, references = masked()
    mixture[0], references[0] = 0, 0
    half = masks.bfloat16().requires_grad_()
    loss = waveform_approximation_loss(
        half, mixture.float(), references.float(), SHORT, SHORT.inverse
    )
    loss.sum().backward()
    assert loss[0] == 0 and loss.isfinite().all()
    assert half.grad is not None and half.grad.isfinite().all()


def test_says_which_shapes_do_not_fit() -> None:
    estimates, references = waves()
    with pytest.raises(ValueError, match=r"got \(2, 3, 39\) and \(2, 3, 40\)"):
        waveform_loss(estimates[..., 1:], references)
    with pytest.raises(ValueError, match='must be "l1", "l2" or "si_sdr"; got \'l3\''):
        waveform_loss(estimates, references, "l3")  # type: ignore[arg-type]
    masks, mixture, _ = masked()
    with pytest.raises(ValueError, match=r"= \(2, 81, C\) for a spectrum of 9 frames and 9 bins"):
        masked_waveforms(masks[:, 1:], mixture, SHORT, SHORT.inverse)
