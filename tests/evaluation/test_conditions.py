from __future__ import annotations

import math

import pytest
import torch

from dpcl.evaluation.conditions import interval, score_channels
from dpcl.evaluation.metrics import score


def test_an_interval_holds_the_mean_and_leaves_out_what_is_no_number() -> None:
    found = interval([1.0, 2.0, 3.0, math.nan])
    assert found is not None and found.mean == 2.0
    assert 1.0 <= found.low < 2.0 < found.high <= 3.0
    assert found == interval([1.0, 2.0, 3.0])
    assert interval([math.nan]) is None and interval([]) is None
    one = interval([4.0])
    assert one is not None and (one.low, one.high) == (4.0, 4.0)
    constant = interval([-1.5] * 9)
    assert constant is not None and constant.mean == pytest.approx(constant.high)


def test_an_array_is_scored_at_each_microphone() -> None:
    generator = torch.Generator().manual_seed(0)
    references = torch.randn(2, 3, 500, generator=generator)  # two talkers, three microphones
    estimates = references + 0.3 * torch.randn(2, 3, 500, generator=generator)
    mixture = references.sum(0)
    found = score_channels(estimates, references, mixture)
    assert found.shape == (6,)
    for m in range(3):
        alone = score(estimates[:, m], references[:, m], mixture[m]).si_sdri
        torch.testing.assert_close(found[2 * m : 2 * m + 2], alone)
        flat = score_channels(estimates[:, m], references[:, m], mixture[m])
        torch.testing.assert_close(flat, alone)
