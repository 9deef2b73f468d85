"""Masks in which sources that are silent for a while are held back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dpcl.errors import FLOOR_DB
from dpcl.separators.masks import SILENT, active_masks, gate

FRAMES, BINS, REACH = 400, 30, 40


def conversation(*speaking: float) -> tuple[Tensor, Tensor]:
    """Scores (C, L, F) of bins that sources own in these shares, not clearly; who owns (L, F)."""
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor(speaking).expand(FRAMES * BINS, -1)
    owners = torch.multinomial(shares, 1, generator=generator).view(FRAMES, BINS)
    scores = 2.5 * torch.nn.functional.one_hot(owners, len(speaking)).float().permute(2, 0, 1)
    return scores + torch.randn(scores.shape, generator=generator), owners


def test_a_source_that_is_silent_gets_little() -> None:
    scores, _ = conversation(0.5, 0.5, 0.0)
    masks = active_masks(scores, torch.ones(FRAMES, BINS), REACH)
    torch.testing.assert_close(masks.sum(0), torch.ones(FRAMES, BINS))
    assert masks[2].mean() < scores.softmax(0)[2].mean() / 2


def test_sources_that_are_active_stay_as_they_are() -> None:
    for shares in ((0.5, 0.5), (0.36, 0.64), (0.33, 0.33, 0.34), (0.2,) * 5):
        scores, _ = conversation(*shares)
        masks = active_masks(scores, torch.ones(FRAMES, BINS), REACH)
        torch.testing.assert_close(masks, scores.softmax(0), atol=0.05, rtol=0)


def test_who_is_silent_changes_with_time() -> None:
    first, _ = conversation(1.0, 0.0)
    second, _ = conversation(0.0, 1.0)
    scores = torch.cat([first, second], 1)
    masks = active_masks(scores, torch.ones(2 * FRAMES, BINS), REACH)
    plain = scores.softmax(0)
    far = slice(2 * REACH, FRAMES - 2 * REACH)
    assert masks[1, far].mean() < plain[1, far].mean() / 2
    assert masks[0, FRAMES:][far].mean() < plain[0, FRAMES:][far].mean() / 2


def test_bins_that_do_not_count_say_nothing_of_who_is_active() -> None:
    scores, _ = conversation(0.5, 0.5)
    noise, _ = conversation(0.0, 1.0)
    audible = torch.ones(FRAMES, BINS)
    audible[:, 10:] = 0
    mixed = torch.where(audible.bool(), scores, noise)
    masks = active_masks(mixed, audible, REACH)
    torch.testing.assert_close(masks[:, :, :10], scores.softmax(0)[:, :, :10], atol=0.05, rtol=0)


def test_silence_short_windows_and_batches() -> None:
    scores, _ = conversation(0.9, 0.1)
    silent = active_masks(scores, torch.zeros(FRAMES, BINS), REACH)
    assert silent.isfinite().all()
    for frames in (1, 3, 5):
        short = active_masks(scores[:, :frames], torch.ones(frames, BINS), REACH)
        assert short.shape == (2, frames, BINS)
        assert short.isfinite().all()
    both = torch.stack([scores, scores.flip(0)])
    audible = torch.ones(2, FRAMES, BINS)
    masks = active_masks(both, audible, REACH)
    torch.testing.assert_close(masks[0], active_masks(scores, audible[0], REACH))
    torch.testing.assert_close(masks[1], masks[0].flip(0))


@pytest.mark.parametrize("floor", [FLOOR_DB, -12.0])
def test_a_source_is_held_back_as_far_as_it_is_silent(floor: float) -> None:
    scores, _ = conversation(0.5, 0.5)
    activity = torch.zeros(2, FRAMES // 4)
    activity[1, 50:] = -torch.inf
    masks = gate(scores, activity, 4, floor)
    torch.testing.assert_close(masks[:, :197], scores.softmax(0)[:, :197])
    torch.testing.assert_close(masks.sum(0), torch.ones(FRAMES, BINS))
    for frames, share in ((slice(200, None), 1.0), (slice(198, 199), 0.5)):  # it fades
        held = torch.stack([scores[0], scores[1] + share * math.log(SILENT)]).softmax(0)
        held = torch.maximum(held, scores.softmax(0).clamp_max(10 ** (floor / 20)))
        torch.testing.assert_close(masks[:, frames], (held / held.sum(0))[:, frames])


def test_frames_that_are_no_whole_number_of_strides() -> None:
    scores = torch.randn(3, 10, 5)
    masks = gate(scores, torch.zeros(3, 3), 4)
    torch.testing.assert_close(masks, scores.softmax(0))
