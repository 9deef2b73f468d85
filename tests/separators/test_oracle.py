"""Oracle separators: masks and sources add up, and the ideal masks are ideal."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpcl.errors import InputError
from dpcl.recordings.separate import LoadedSeparator
from dpcl.separators.base import Context, Separation
from dpcl.separators.oracle import ORACLES, psm
from dpcl.separators.registry import build
from dpcl.signal.stft import STFT

NAMES = sorted(ORACLES)


def _talkers(*shape: int, seed: int = 0) -> Tensor:
    """Noise that comes and goes, each source at its own times."""
    generator = torch.Generator().manual_seed(seed)
    gates = torch.rand(*shape[:-1], shape[-1] // 400 + 1, generator=generator) > 0.4
    noise = torch.randn(*shape, generator=generator)
    return noise * gates.repeat_interleave(400, dim=-1)[..., : shape[-1]]


def _separate(name: str, mixture: Tensor, references: Tensor) -> Separation:
    return LoadedSeparator(build(name, Context(mixture, references)))(mixture)


@pytest.mark.parametrize("name", NAMES)
@given(
    num_sources=st.integers(1, 4),
    samples=st.integers(1, 1500),
    noise=st.sampled_from([0.0, 0.5]),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e4]),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=25)
def test_masks_sum_to_one_and_sources_to_the_mixture(
    name: str, num_sources: int, samples: int, noise: float, scale: float, seed: int
) -> None:
    """asteroid gave silent bins to every source: its estimates did not add up to the mixture."""
    references = scale * _talkers(num_sources, samples, seed=seed)
    mixed = references.sum(-2) + noise * scale * _talkers(samples, seed=seed + 1)
    separation = _separate(name, mixed, references)
    assert separation.masks is not None
    assert separation.sources.shape == references.shape
    assert separation.masks.shape == STFT()(references).shape
    assert separation.masks.min() >= 0
    torch.testing.assert_close(
        separation.masks.sum(-3), torch.ones(separation.masks.shape[1:]), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        separation.sources.sum(-2), mixed, atol=1e-5 * max(float(mixed.abs().max()), 1e-30), rtol=0
    )


@pytest.mark.parametrize("name", NAMES)
def test_silence_gives_finite_silence(name: str) -> None:
    separation = _separate(name, torch.zeros(1000), torch.zeros(2, 1000))
    assert separation.masks is not None
    assert separation.sources.abs().max() == 0
    assert torch.all(separation.masks.sum(0) == 1)


@pytest.mark.parametrize("name", NAMES)
def test_masks_do_not_depend_on_the_level(name: str) -> None:
    references = _talkers(2, 2000)
    soft = _separate(name, references.sum(0), references).masks
    loud = _separate(name, 128 * references.sum(0), 128 * references).masks
    torch.testing.assert_close(soft, loud)


@pytest.mark.parametrize("name", NAMES)
def test_an_oracle_is_of_one_mixture_and_its_number_of_sources(name: str) -> None:
    """References of a batch, or another number of sources than theirs, are an error."""
    references = _talkers(3, 2, 900)
    with pytest.raises(InputError, match=r"\(3, 2, 900\).*\(3, 900\)"):
        build(name, Context(references.sum(-2), references))
    oracle = LoadedSeparator(build(name, Context(references[1].sum(0), references[1])))
    assert oracle(references[1].sum(0), 2).sources.shape == (2, 900)
    with pytest.raises(InputError, match=f"{name}: has 2 sources, not 3; give --sources 2"):
        oracle(references[1].sum(0), 3)


@pytest.mark.parametrize("name", NAMES)
def test_an_oracle_without_references_is_one_sentence(name: str) -> None:
    for context in (None, Context(mixture=torch.zeros(9)), Context(references=torch.zeros(2, 9))):
        with pytest.raises(InputError, match=f"{name}: needs the references of the mixture") as one:
            build(name, context)
        assert "\n" not in str(one.value)


def test_mixture_is_shared_equally() -> None:
    references = _talkers(3, 800)
    separation = _separate("mixture", references.sum(0), references)
    torch.testing.assert_close(separation.sources, (references.sum(0) / 3).expand(3, -1))


def test_ibm_is_one_where_the_reference_is_strongest() -> None:
    references = _talkers(2, 2000)
    masks = _separate("ibm", references.sum(0), references).masks
    assert masks is not None
    first, second = STFT()(references).abs()
    assert torch.equal(masks[0], (first >= second).float())  # a tie goes to the first
    assert set(masks.unique().tolist()) == {0.0, 1.0}


def test_irm_is_the_share_of_the_magnitude() -> None:
    references = _talkers(2, 2000)
    masks = _separate("irm", references.sum(0), references).masks
    assert masks is not None
    first, second = STFT()(references).abs()
    heard = (first + second) > 0
    torch.testing.assert_close(masks[0][heard], (first / (first + second))[heard])
    assert torch.all(masks[0][~heard] == 0.5)


def test_psm_of_two_sources_is_the_truncated_projection_on_the_mixture() -> None:
    references = _talkers(2, 2000)
    mixed = references.sum(0)
    masks = _separate("psm", mixed, references).masks
    assert masks is not None
    spectra, spectrum = STFT()(references), STFT()(mixed)
    heard = spectrum.abs() > 1e-4
    expected = (spectra[0] / spectrum).real.clamp(0, 1)
    torch.testing.assert_close(masks[0][heard], expected[heard], atol=1e-4, rtol=0)


def test_psm_has_the_least_error_of_all_masks_that_sum_to_one() -> None:
    references = _talkers(3, 1200)
    mixed = references.sum(0) + 0.3 * _talkers(1200, seed=9)
    spectra, spectrum = STFT()(references), STFT()(mixed)
    masks = _separate("psm", mixed, references).masks
    assert masks is not None

    def error(candidate: Tensor) -> Tensor:
        return (candidate * spectrum - spectra).abs().square().sum(0)  # (L, F)

    generator = torch.Generator().manual_seed(1)
    for step in (1.0, 0.1, 0.01):  # towards random masks that sum to one, near and far
        other = torch.rand(masks.shape, generator=generator) ** 4
        candidate = (1 - step) * masks + step * other / other.sum(0)
        assert torch.all(error(candidate) >= error(masks) - 1e-3)


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e-33])  # the last divides to infinity
def test_psm_survives_sources_that_all_but_cancel(scale: float) -> None:
    source = _talkers(1000)
    references = torch.stack([source, -source * (1 + 1e-6), torch.zeros(1000)])
    stft = STFT()
    masks = psm(stft(references), stft(references.sum(0) * scale))
    torch.testing.assert_close(masks.sum(0), torch.ones(masks.shape[1:]))


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(InputError, match=r"\(2, 99\).*\(100,\)"):
        build("ibm", Context(torch.zeros(100), torch.zeros(2, 99)))
    with pytest.raises(InputError, match=r"\(100,\)"):
        build("psm", Context(torch.zeros(100), torch.zeros(100)))
