"""Sparse NMF: its updates descend, agree with scikit-learn, and find what was planted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dpcl.errors import InputError
from dpcl.recordings.separate import LoadedSeparator
from dpcl.separators.classical.nmf import (
    ATOMS,
    NMF,
    activate,
    cost,
    learn_dictionary,
    update_activations,
    update_dictionary,
)


def _random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


@given(
    frames=st.integers(1, 12),
    bins=st.integers(1, 9),
    atoms=st.integers(1, 6),
    sparsity=st.sampled_from([0.0, 0.3, 5.0]),
    zeros=st.floats(0, 0.9),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=60)
def test_cost_never_increases(
    frames: int, bins: int, atoms: int, sparsity: float, zeros: float, seed: int
) -> None:
    spectra = _random(frames, bins, seed=seed) ** 3
    spectra = spectra * (_random(frames, bins, seed=seed + 1) > zeros)
    dictionary = functional.normalize(0.01 + _random(atoms, bins, seed=seed + 2), dim=-1)
    activations = 0.01 + _random(frames, atoms, seed=seed + 3)
    before = cost(spectra, dictionary, activations, sparsity)
    for _ in range(15):
        activations = update_activations(spectra, dictionary, activations, sparsity)
        between = cost(spectra, dictionary, activations, sparsity)
        assert between <= before + 1e-9
        dictionary, activations = update_dictionary(spectra, dictionary, activations, sparsity)
        before = cost(spectra, dictionary, activations, sparsity)
        assert before <= between + 1e-9
        norms = dictionary.norm(dim=-1)
        assert torch.all((norms - 1).abs().minimum(norms.abs()) < 1e-9)  # or used no more


def test_without_sparsity_it_takes_the_steps_of_scikit_learn() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    spectra = _random(40, 15, seed=0)
    dictionary = functional.normalize(0.1 + _random(6, 15, seed=1), dim=-1)
    activations = 0.1 + _random(40, 6, seed=2)
    # scikit-learn takes first the factor that it calls W, here the atoms: so all is transposed.
    with pytest.warns(match="Maximum number of iterations"):
        theirs, their_activations, _ = decomposition.non_negative_factorization(
            spectra.T.numpy().copy(),
            W=dictionary.T.numpy().copy(),
            H=activations.T.numpy().copy(),
            init="custom",
            n_components=6,
            solver="mu",
            beta_loss="kullback-leibler",
            max_iter=20,
            tol=1e-30,
        )
    for _ in range(20):
        dictionary, activations = update_dictionary(spectra, dictionary, activations, 0.0)
        activations = update_activations(spectra, dictionary, activations, 0.0)
    expected = torch.from_numpy(theirs @ their_activations).T
    torch.testing.assert_close(activations @ dictionary, expected, rtol=1e-6, atol=1e-9)


def test_planted_dictionary_is_found() -> None:
    planted = torch.zeros(4, 24, dtype=torch.float64)
    for k in range(4):
        planted[k, 5 * k : 5 * k + 8] = 0.2 + _random(8, seed=k)  # they overlap
    planted = functional.normalize(planted, dim=-1)
    active = _random(400, 4, seed=9) * (_random(400, 4, seed=10) > 0.6)
    spectra = active @ planted
    dictionary = functional.normalize(0.1 + _random(4, 24, seed=11), dim=-1)
    activations = 0.1 + _random(400, 4, seed=12)
    for _ in range(500):
        activations = update_activations(spectra, dictionary, activations, 1e-3)
        dictionary, activations = update_dictionary(spectra, dictionary, activations, 1e-3)
    likeness = planted @ dictionary.T  # (4, 4)
    assert likeness.amax(dim=-1).min() > 0.99
    assert likeness.argmax(dim=-1).unique().numel() == 4


def test_sparsity_leaves_fewer_atoms_active() -> None:
    spectra = _random(50, 20, seed=0)
    dictionary = functional.normalize(_random(30, 20, seed=1), dim=-1)
    counts = [
        int((activate(spectra, dictionary, sparsity, 200) > 1e-3).sum()) for sparsity in (0.0, 20.0)
    ]
    assert counts[1] < 0.8 * counts[0]


def test_batch_is_explained_item_by_item() -> None:
    spectra, dictionary = _random(3, 10, 7, seed=0), _random(3, 4, 7, seed=1)
    together = activate(spectra, dictionary, 0.5, 10)
    torch.testing.assert_close(together[1], activate(spectra[1], dictionary[1], 0.5, 10))


def _tones(*frequencies: float, samples: int = 8000, seed: int = 0) -> Tensor:
    """Tones that come and go at times of their own."""
    gates = _random(len(frequencies), samples // 800 + 1, seed=seed) > 0.4
    time = torch.arange(samples) / 8000
    tones = torch.stack([(2 * torch.pi * f * time).sin() for f in frequencies])
    return (tones * gates.repeat_interleave(800, dim=-1)[:, :samples]).sum(0).float()


@pytest.fixture(scope="module")
def separator() -> LoadedSeparator:
    speech = [(300.0, 1100.0), (700.0, 2300.0)]
    return LoadedSeparator(
        NMF([learn_dictionary([_tones(*talker, seed=4), _tones(*talker)]) for talker in speech])
    )


def test_talkers_are_told_apart_in_the_order_of_their_dictionaries(
    separator: LoadedSeparator,
) -> None:
    first, second = _tones(300, 1100, seed=7), _tones(700, 2300, seed=8)
    sources = separator(first + second, 2).sources
    for source, reference in zip(sources, (first, second), strict=True):
        error = (source - reference).square().sum() / reference.square().sum()
        assert error < 0.03  # 15 dB
    batch = separator(torch.stack([second, first + second])).sources
    assert batch.shape == (2, 2, 8000)
    torch.testing.assert_close(batch[1], sources, atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [1, 50, 3001])
@pytest.mark.parametrize("level", [0.0, 1e-12, 1.0, 1e4])
def test_sources_add_up_to_the_mixture(
    separator: LoadedSeparator, samples: int, level: float
) -> None:
    mixture = level * torch.randn(samples, generator=torch.Generator().manual_seed(0))
    separation = separator(mixture)
    assert separation.masks is not None
    assert separation.masks.min() >= 0
    ones = torch.ones(separation.masks.shape[1:])
    torch.testing.assert_close(separation.masks.sum(0), ones, atol=1e-5, rtol=0)
    torch.testing.assert_close(separation.sources.sum(0), mixture, atol=1e-5 * level, rtol=0)


def test_level_changes_nothing(separator: LoadedSeparator) -> None:
    mixture = _tones(300, 700, 900)
    torch.testing.assert_close(
        separator(100 * mixture).masks, separator(mixture).masks, atol=5e-3, rtol=0
    )


def test_dictionary_is_the_same_each_time_and_of_unit_norm() -> None:
    recording = _tones(500, 900, samples=1500)  # fewer frames than atoms
    dictionary = learn_dictionary([recording])
    assert dictionary.shape == (ATOMS, 129)
    assert torch.equal(dictionary, learn_dictionary([recording]))
    torch.testing.assert_close(dictionary.norm(dim=-1), torch.ones(ATOMS))
    torch.testing.assert_close(dictionary, learn_dictionary([100 * recording]))


def test_what_cannot_be_separated_is_refused(separator: LoadedSeparator) -> None:
    with pytest.raises(InputError, match="nmf: has 2 sources, not 3; give --sources 2"):
        separator(torch.ones(100), 3)
    with pytest.raises(InputError, match="empty or holds NaN"):
        separator(torch.full((100,), torch.nan))
    with pytest.raises(InputError, match="silent"):
        learn_dictionary([torch.zeros(1000)])
