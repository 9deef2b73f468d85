"""The objectives beside those of peers that are installed, and what these get wrong.

pip install --no-deps asteroid==0.7.0 asteroid-filterbanks espnet==202511 torch-complex padertorch
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dpcl.objectives.affinity import affinity_loss
from dpcl.objectives.masks import mask_inference_loss

PeerLoss = Callable[..., Tensor]


@pytest.fixture(scope="module")
def asteroid_loss() -> PeerLoss:
    """Its deep_clustering_loss(embeddings (B, N, K), labels (B, F, L), mask (B, F, L)) -> (B,)."""
    losses: PeerLoss = pytest.importorskip("asteroid.losses").deep_clustering_loss
    if metadata.version("asteroid") != "0.7.0":
        pytest.skip("what is said here of asteroid was seen in 0.7.0")
    return losses


def random_embeddings(batch: int, bins: int, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(batch * bins * width)
    points = torch.randn(batch, bins, width, generator=generator)
    return functional.normalize(points, dim=-1).requires_grad_()


def random_labels(batch: int, bins: int, sources: int) -> Tensor:
    return torch.randint(sources, (batch, bins), generator=torch.Generator().manual_seed(bins))


def one_hot(labels: Tensor, sources: int) -> Tensor:
    return functional.one_hot(labels, sources).float()


def dense(embeddings: Tensor, assignments: Tensor, weights: Tensor) -> Tensor:
    """The definition, in double precision."""
    v, y, w = embeddings.double(), assignments.double(), weights.double()
    pairs = w.unsqueeze(-1) * w.unsqueeze(-2)  # (B, N, N)
    return (pairs * (v @ v.mT - y @ y.mT).square()).sum((1, 2)) / w.sum(-1).square()


def gradient(loss: Tensor, embeddings: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), embeddings)[0]


@pytest.mark.parametrize("sources", [2, 3, 4])
@pytest.mark.parametrize("bins", [60, 5_000])
def test_agrees_with_asteroid_up_to_its_normalisation(
    asteroid_loss: PeerLoss, sources: int, bins: int
) -> None:
    """With a binary mask asteroid divides by the active bins, ours by their square."""
    embeddings, labels = random_embeddings(3, bins, 20), random_labels(3, bins, sources)
    active = (torch.rand(3, bins, generator=torch.Generator().manual_seed(1)) < 0.6).float()
    expected = asteroid_loss(embeddings, labels.unsqueeze(1), active.unsqueeze(1))
    expected = expected / active.sum(-1)
    loss = affinity_loss(embeddings, one_hot(labels, sources), active)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        gradient(loss, embeddings), gradient(expected, embeddings), rtol=1e-3, atol=1e-8
    )


def test_a_fractional_mask_of_asteroid_weighs_as_its_square(asteroid_loss: PeerLoss) -> None:
    """asteroid multiplies embeddings by the mask itself, so that a pair counts m_i² m_j²."""
    embeddings, labels = random_embeddings(2, 80), random_labels(2, 80, 2)
    mask = torch.rand(2, 80, generator=torch.Generator().manual_seed(2))
    squared = mask.square()
    expected = asteroid_loss(embeddings, labels.unsqueeze(1), mask.unsqueeze(1))
    expected = expected * mask.sum(-1) / squared.sum(-1).square()
    loss = affinity_loss(embeddings, one_hot(labels, 2), squared)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("label", [1, 2])
def test_asteroid_raises_where_a_lower_label_is_missing_in_the_batch(
    asteroid_loss: PeerLoss, label: int
) -> None:
    """It counts the labels it sees; three sources of which the first owns no bin are two to it."""
    embeddings = random_embeddings(2, 40)
    labels = torch.full((2, 40), label)
    with pytest.raises(RuntimeError, match="out of bounds"):
        asteroid_loss(embeddings, labels.unsqueeze(1))
    weights = torch.ones(2, 40)
    loss = affinity_loss(embeddings, one_hot(labels, 3))
    expected = dense(embeddings, one_hot(labels, 3), weights).float()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_asteroid_is_not_a_number_for_a_silent_item(asteroid_loss: PeerLoss) -> None:
    embeddings, labels = random_embeddings(2, 40), random_labels(2, 40, 2)
    active = torch.stack([torch.zeros(40), torch.ones(40)])
    peer = asteroid_loss(embeddings, labels.unsqueeze(1), active.unsqueeze(1))
    assert peer[0].isnan()
    assert gradient(peer, embeddings).isnan().any()
    loss = affinity_loss(embeddings, one_hot(labels, 2), active)
    assert loss[0] == 0
    torch.testing.assert_close(loss[1], peer[1] / 40, rtol=1e-5, atol=0)
    slope = gradient(loss, embeddings)
    assert not slope[0].any()
    assert slope[1].isfinite().all()


def test_a_batch_whose_first_source_is_nowhere_dominant() -> None:
    """Value and gradient are those of the definition, and an empty column changes neither."""
    embeddings, labels = random_embeddings(2, 70), random_labels(2, 70, 2)
    weights = torch.rand(2, 70, generator=torch.Generator().manual_seed(3))
    assignments = one_hot(labels + 1, 3)  # source 0 owns no bin of any item
    assert not assignments[..., 0].any()
    loss = affinity_loss(embeddings, assignments, weights)
    expected = dense(embeddings, assignments, weights)
    torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=0)
    slope = gradient(loss, embeddings)
    torch.testing.assert_close(slope, gradient(expected, embeddings), rtol=1e-4, atol=1e-7)
    without = affinity_loss(embeddings, one_hot(labels, 2), weights)
    torch.testing.assert_close(loss, without, rtol=1e-6, atol=0)
    torch.testing.assert_close(slope, gradient(without, embeddings), rtol=1e-5, atol=1e-9)


def test_one_source_may_own_every_bin() -> None:
    """A talker alone: embeddings in one point are perfect, whichever column is his."""
    point = functional.normalize(torch.ones(1, 30, 5), dim=-1)
    for source in range(3):
        assignments = one_hot(torch.full((1, 30), source), 3)
        assert affinity_loss(point, assignments) < 1e-5


def test_an_item_counts_the_same_whatever_is_beside_it() -> None:
    """Peers sum over the batch and divide by all active bins: loud, long items drown the others."""
    embeddings = random_embeddings(3, 50)
    labels = torch.stack(
        [torch.zeros(50).long(), torch.ones(50).long(), random_labels(1, 50, 2)[0]]
    )
    weights = torch.ones(3, 50)
    weights[1, 5:] = 0  # hardly anything to hear
    assignments = one_hot(labels, 2)
    together = affinity_loss(embeddings, assignments, weights)
    for item in range(3):
        one = slice(item, item + 1)
        alone = affinity_loss(embeddings[one], assignments[one], weights[one])
        torch.testing.assert_close(alone[0], together[item], rtol=1e-6, atol=0)


def test_nearly_perfect_embeddings_of_a_long_recording_are_not_below_zero() -> None:
    """Large squares cancel in the low-rank form: in float32 asteroid's value is negative here."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(2, (1, 129_000), generator=generator)
    ideal = functional.one_hot(labels, 20).float()
    noise = 1e-3 * torch.randn(ideal.shape, generator=generator)
    embeddings = functional.normalize(ideal + noise, dim=-1)
    loss = affinity_loss(embeddings, one_hot(labels, 2))
    exact = affinity_loss(embeddings.double(), one_hot(labels, 2).double())
    assert loss >= 0
    torch.testing.assert_close(loss.double(), exact, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def espnet_loss() -> PeerLoss:
    """Its FrequencyDomainDPCL(magnitudes [(B, L, F)] * C, embeddings (B, L*F, K)) -> (B,)."""
    criterions = pytest.importorskip("espnet2.enh.loss.criterions.tf_domain")
    if metadata.version("espnet") != "202511":
        pytest.skip("what is said here of espnet was seen in 202511")
    loss: PeerLoss = criterions.FrequencyDomainDPCL()
    return loss


@pytest.mark.parametrize("sources", [2, 3])
def test_agrees_with_espnet_up_to_its_normalisation(espnet_loss: PeerLoss, sources: int) -> None:
    """It divides by nothing, and silent bins count as all others."""
    generator = torch.Generator().manual_seed(0)
    magnitudes = torch.rand(sources, 2, 30, 40, generator=generator)
    embeddings = random_embeddings(2, 1200, 20)
    expected = espnet_loss(list(magnitudes), embeddings) / 1200**2
    assignments = one_hot(magnitudes.argmax(0).flatten(1), sources)
    loss = affinity_loss(embeddings, assignments)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        gradient(loss, embeddings), gradient(expected, embeddings), rtol=1e-3, atol=1e-9
    )


def test_espnet_raises_where_three_sources_are_equal(espnet_loss: PeerLoss) -> None:
    """It adds up the numbers of all that are loudest: 0 + 1 + 2 for a bin of digital silence."""
    magnitudes = torch.rand(3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    magnitudes[:, 0, 2, 3] = 0
    embeddings = random_embeddings(1, 20)
    with pytest.raises(RuntimeError, match="num_classes"):
        espnet_loss(list(magnitudes), embeddings)
    assignments = one_hot(magnitudes.argmax(0).flatten(1), 3)
    loss = affinity_loss(embeddings, assignments, magnitudes.sum(0).flatten(1))
    assert loss.isfinite().all()


@pytest.fixture(scope="module")
def padertorch() -> ModuleType:
    """Its losses, without the trainer, the data sets and the rest that its import asks for."""
    try:
        distribution = metadata.distribution("padertorch")
    except metadata.PackageNotFoundError:
        pytest.skip("padertorch is not installed")
    path = distribution.locate_file("padertorch/ops/losses/source_separation.py")
    package = ModuleType("padertorch")
    package.ops = SimpleNamespace(einsum=torch.einsum)  # type: ignore[attr-defined]
    module = ModuleType("source_separation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "padertorch", package)
        exec(compile(Path(str(path)).read_text(), str(path), "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("sources", [2, 3])
def test_agrees_with_padertorch(padertorch: ModuleType, sources: int) -> None:
    embeddings, labels = random_embeddings(1, 500, 20), random_labels(1, 500, sources)
    assignments = one_hot(labels, sources)
    expected = padertorch.deep_clustering_loss(embeddings[0], assignments[0])
    loss = affinity_loss(embeddings, assignments)[0]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        gradient(loss, embeddings), gradient(expected, embeddings), rtol=1e-3, atol=1e-9
    )


def test_masks_in_the_best_order_agree_with_padertorch(padertorch: ModuleType) -> None:
    """Its pit_loss takes one item of a batch, and its mean is over sources and bins."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 600, 3, generator=generator).softmax(-1)
    targets = torch.rand(2, 600, 3, generator=generator)
    mixture = torch.rand(2, 600, generator=generator)
    estimates = masks * mixture.unsqueeze(-1)
    expected = torch.stack([padertorch.pit_loss(*pair, 1) for pair in zip(estimates, targets)])  # noqa: B905
    expected = expected * targets[0].numel() / mixture.square().sum(-1)
    torch.testing.assert_close(mask_inference_loss(masks, mixture, targets, norm=2), expected)
