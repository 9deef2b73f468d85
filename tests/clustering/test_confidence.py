"""Confidence: separate clusters score high, mixed ones low; the fit finds a linear relation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from dpcl.clustering.count import (
    BEST,
    SOURCE_CUES,
    confidence_cues,
    estimate_si_sdr,
    fit_confidence,
)


def cloud(spread: float, count: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    centroids = torch.eye(4)[:count]
    noise = spread * torch.randn(count * 500, 4, generator=random)
    points = functional.normalize(centroids.repeat_interleave(500, 0) + noise, dim=-1)
    return points, torch.ones(len(points)), centroids


def test_cues_fall_where_clusters_mix() -> None:
    clear, mixed = (confidence_cues(*cloud(spread)) for spread in (0.1, 0.7))
    assert clear.shape == (2, SOURCE_CUES)
    assert (clear[:, :3] > mixed[:, :3] + 0.1).all()  # closeness, margin, purity
    assert (clear[:, 5] > 0.99).all()  # the second clustering agrees


def test_one_source_and_a_source_without_points_have_finite_cues() -> None:
    points, weights, centroids = cloud(0.2, 1)
    assert confidence_cues(points, weights, centroids).isfinite().all()
    far = torch.cat([centroids, -centroids])
    assert confidence_cues(points, weights, far).isfinite().all()


def test_the_fit_finds_a_linear_relation_and_stays_within_limits() -> None:
    random = torch.Generator().manual_seed(0)
    cues = torch.randn(400, SOURCE_CUES, generator=random, dtype=torch.float64)
    cues[:, 6] = 2.0  # constant
    wanted = 5.0 + 3.0 * cues[:, 0] - cues[:, 4]
    coefficients = fit_confidence(cues, wanted)
    assert coefficients[1] == pytest.approx(3.0, abs=0.15) and coefficients[7] == 0
    found = torch.tensor(estimate_si_sdr(cues, coefficients))
    assert (found - wanted).abs().mean() < 0.15
    assert estimate_si_sdr(1e6 * torch.ones(1, SOURCE_CUES), [0.0] + [1.0] * SOURCE_CUES) == [BEST]
