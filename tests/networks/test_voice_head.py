"""The voice head: one vector of unit length for every weighting of the frames."""

from __future__ import annotations

import pytest
import torch

from dpcl.networks.voice import VoiceHead


@pytest.fixture
def head() -> VoiceHead:
    torch.manual_seed(0)
    return VoiceHead(3, 8, 12, 6).eval()


def test_vectors_have_unit_length_at_any_scale_of_the_weights(head: VoiceHead) -> None:
    frames, weights = torch.randn(2, 20, 3, 8), torch.rand(2, 20, 4)
    vectors = head.pooled(frames, weights)
    assert vectors.shape == (2, 4, 6)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2, 4))
    torch.testing.assert_close(vectors, head.pooled(frames, 0.1 * weights))


def test_frames_without_weight_matter_only_nearby(head: VoiceHead) -> None:
    frames, weights = torch.randn(1, 40, 3, 8), torch.zeros(1, 40, 1)
    weights[:, :10] = 1.0
    other = frames.clone()
    other[:, 20:] = torch.randn(1, 20, 3, 8)  # further than the convolutions reach
    torch.testing.assert_close(head.pooled(frames, weights), head.pooled(other, weights))


def test_no_weight_at_all_is_finite(head: VoiceHead) -> None:
    assert head.pooled(torch.randn(1, 5, 3, 8), torch.zeros(1, 5, 2)).isfinite().all()
