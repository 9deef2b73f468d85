"""Local clustering: what it shares with global clustering, and what the references decide."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.model import Model
from dpcl.recordings.separate import LoadedSeparator
from dpcl.separators.base import Analysis, Context, Separation
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.oracle import SEGMENT, LocalClustering
from dpcl.separators.registry import build, find_method, load_network


class IdealEmbeddings(DeepClustering):
    """Two orthogonal vectors say whose a bin is, but they change places from frame `turn` on."""

    def __init__(self, model: Model, references: Tensor, turn: int) -> None:
        super().__init__(model)
        owner = self.stft(references).abs().argmax(0)  # (L, F)
        owner[turn:] = 1 - owner[turn:]
        self.vectors = torch.eye(2)[owner]  # (L, F, 2)

    def analyse(self, spectra: Tensor) -> Analysis:
        frames = torch.arange(spectra.shape[2])  # of the only window
        return frames[None, :, None], spectra.abs().mean(1)

    def embed(self, encoded: Tensor) -> Tensor:
        return self.vectors[encoded[..., 0]].flatten(1, 2)


def local(model: Model, references: Tensor, clustering: DeepClustering | None = None) -> Separation:
    """Separate the sum of the references by local clustering."""
    mixture = references.sum(0)
    separator = LocalClustering("local", model, Context(mixture, references))
    if clustering is not None:
        separator.separator = clustering
    return LoadedSeparator(separator)(mixture)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return load_network(str(tiny_model))


@pytest.fixture(scope="module")
def references() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    frames = 3 * SEGMENT
    gates = torch.rand(2, frames // 10, generator=generator).repeat_interleave(640, 1)
    return gates * torch.randn(2, gates.shape[1], generator=generator)


def test_talkers_who_change_places_are_put_in_order(model: Model, references: Tensor) -> None:
    """From the second third on the embeddings mean the other talker: only an oracle can know."""
    frames = model.settings.signal.stft().frames(references.shape[1])
    turned = IdealEmbeddings(model, references, round(frames / 3))
    mixture = references.sum(0)
    ours = local(model, references, turned)
    ibm = LoadedSeparator(build("ibm", Context(mixture, references)))
    ideal = ibm(mixture)  # the same STFT
    assert ours.masks is not None
    assert ideal.masks is not None
    wrong = (ours.masks.argmax(0) != ideal.masks.argmax(0)).float().mean()
    assert wrong < 0.01  # one frame where a segment ends may be on the other side
    # One clustering of the whole, in whichever order, mistakes a third of the bins or more.
    whole = LoadedSeparator(turned)(mixture, 2).masks
    assert whole is not None
    mistaken = (whole.argmax(0) != ideal.masks.argmax(0)).float().mean()
    assert min(mistaken, 1 - mistaken) > 0.3


def test_in_one_segment_it_is_global_clustering_up_to_the_order(
    model: Model, references: Tensor
) -> None:
    short = references[:, : SEGMENT * 64]
    ours = local(model, short).masks
    expected = LoadedSeparator(DeepClustering(model))(short.sum(0), 2).masks
    assert ours is not None
    assert expected is not None
    assert any(torch.allclose(ours, expected[order]) for order in ([0, 1], [1, 0]))


@pytest.mark.parametrize("samples", [1, 1000, 20000])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_sources_add_up_to_the_mixture(
    samples: int, scale: float, model: Model, references: Tensor
) -> None:
    sources = scale * references[:, :samples]
    ours = local(model, sources)
    assert ours.sources.shape == sources.shape
    torch.testing.assert_close(ours.sources.sum(0), sources.sum(0), atol=1e-5, rtol=0)


def test_name_and_bad_mixtures(tiny_model: Path) -> None:
    mixture = torch.full((100,), torch.nan)
    separator = build(f"{tiny_model}:local", Context(mixture, torch.zeros(2, 100)))
    assert isinstance(separator, LocalClustering)
    assert find_method("default:local").needs == "references"
    assert find_method("default").needs == "mixture"
    shorter = build(f"{tiny_model}:local25", Context(mixture, torch.zeros(2, 100)))
    assert isinstance(shorter, LocalClustering)
    assert shorter.segment == 25
    with pytest.raises(InputError, match="give at least 1"):
        find_method(f"{tiny_model}:local0")
    with pytest.raises(InputError, match="NaN"):
        LoadedSeparator(separator)(mixture)
    with pytest.raises(InputError, match="unknown model"):
        find_method("nobody:local")
    with pytest.raises(InputError, match=":local: needs the references of the mixture"):
        build(f"{tiny_model}:local")
