"""SISDRImprovement against the scores of dpcl, batch by batch."""

from __future__ import annotations

import pytest
import torch

from dpcl.errors import InputError
from dpcl.evaluation.metrics import best_permutation, si_sdr

pytest.importorskip("torchmetrics")


def test_the_mean_is_the_mean_of_all_audible_references() -> None:
    from dpcl.evaluation.improvement import SISDRImprovement

    generator = torch.Generator().manual_seed(0)
    references = torch.randn(3, 2, 2000, generator=generator)
    references[2, 1] = 0  # silent
    mixture = references.sum(1)
    estimates = references.flip(1) + 0.1 * torch.randn(3, 2, 2000, generator=generator)
    metric = SISDRImprovement()
    metric.update(estimates[:1], references[:1], mixture[:1])
    metric.update(estimates[1:], references[1:], mixture[1:])
    expected = []
    for k in range(3):
        for c, chosen in enumerate(best_permutation(estimates[k], references[k]).tolist()):
            if chosen >= 0:
                own = si_sdr(estimates[k, chosen], references[k, c])
                expected.append(float(own - si_sdr(mixture[k], references[k, c])))
    assert len(expected) == 5
    assert metric.compute().item() == pytest.approx(sum(expected) / 5, abs=1e-4)
    metric.reset()
    assert metric.compute().isnan()
    with pytest.raises(InputError, match=r"give \(B, E, T\), \(B, C, T\) and \(B, T\)"):
        metric.update(estimates, references[:2], mixture)
