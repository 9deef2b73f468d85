"""Local clustering: what it shares with global clustering, and what the references decide."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dpcl.separators.load import is_oracle, load_separator, named_separator
from torch import Tensor

from dpcl.errors import InputError
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.local import SEGMENT, LocalClustering
from dpcl.separators.oracle import ibm


class IdealEmbeddings(DeepClustering):
    """Two orthogonal vectors say whose a bin is, but they change places from frame `turn` on."""

    def __init__(self, model: DeepClustering, references: Tensor, turn: int) -> None:
        super().__init__(model.model)
        owner = self.stft(references).abs().argmax(0)  # (L, F)
        owner[turn:] = 1 - owner[turn:]
        self.vectors = torch.eye(2)[owner]  # (L, F, 2)

    def embed(self, spectrum: Tensor) -> Tensor:
        return self.vectors.flatten(0, 1)[None]


@pytest.fixture(scope="module")
def separator(tiny_model: Path) -> DeepClustering:
    return load_separator(str(tiny_model))


@pytest.fixture(scope="module")
def references() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    frames = 3 * SEGMENT
    gates = torch.rand(2, frames // 10, generator=generator).repeat_interleave(640, 1)
    return gates * torch.randn(2, gates.shape[1], generator=generator)


def test_talkers_who_change_places_are_put_in_order(
    separator: DeepClustering, references: Tensor
) -> None:
    """From the second third on the embeddings mean the other talker: only an oracle can know."""
    frames = separator.stft.frames(references.shape[1])
    turned = IdealEmbeddings(separator, references, round(frames / 3))
    mixture = references.sum(0)
    ours = LocalClustering(turned)(mixture, references)
    ideal = ibm(mixture, references)  # the same STFT
    assert ours.masks is not None
    assert ideal.masks is not None
    wrong = (ours.masks.argmax(0) != ideal.masks.argmax(0)).float().mean()
    assert wrong < 0.01  # one frame where a segment ends may be on the other side
    # One clustering of the whole, in whichever order, mistakes a third of the bins or more.
    whole = turned(mixture, 2).masks
    assert whole is not None
    mistaken = (whole.argmax(0) != ideal.masks.argmax(0)).float().mean()
    assert min(mistaken, 1 - mistaken) > 0.3


def test_in_one_segment_it_is_global_clustering_up_to_the_order(
    separator: DeepClustering, references: Tensor
) -> None:
    short = references[:, : SEGMENT * 64]
    ours = LocalClustering(separator)(short.sum(0), short).masks
    expected = separator(short.sum(0), 2).masks
    assert ours is not None
    assert expected is not None
    assert any(torch.allclose(ours, expected[order]) for order in ([0, 1], [1, 0]))


@pytest.mark.parametrize("samples", [1, 1000, 20000])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_sources_add_up_to_the_mixture(
    samples: int, scale: float, separator: DeepClustering, references: Tensor
) -> None:
    sources = scale * references[:, :samples]
    ours = LocalClustering(separator)(sources.sum(0), sources)
    assert ours.sources.shape == sources.shape
    torch.testing.assert_close(ours.sources.sum(0), sources.sum(0), atol=1e-5, rtol=0)


def test_name_and_bad_mixtures(tiny_model: Path) -> None:
    local = named_separator(f"{tiny_model}:local")
    assert isinstance(local, LocalClustering)
    assert is_oracle("default:local")
    assert not is_oracle("default")
    with pytest.raises(InputError, match="NaN"):
        local(torch.full((100,), torch.nan), torch.zeros(2, 100))
    with pytest.raises(InputError, match="unknown model"):
        named_separator("nobody:local")
