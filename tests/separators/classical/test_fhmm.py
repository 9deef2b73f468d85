"""The factorial model: exact inference is exact, the beam comes close, masks share every bin."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpcl.errors import InputError
from dpcl.recordings.separate import LoadedSeparator
from dpcl.separators.classical.fhmm import (
    RENEWAL,
    FactorialHMM,
    TalkerHMM,
    joint_states,
    learn_talker,
    log_max_terms,
    log_spectrum,
    posteriors,
)


def _model(states: int, bins: int, seed: int) -> TalkerHMM:
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    prior, transitions = 0.1 + rand(states), 0.1 + rand(states, states)
    return TalkerHMM(
        4 * rand(states, bins),
        0.3 + rand(states, bins),
        prior / prior.sum(),
        transitions / transitions.sum(-1, keepdim=True),
    )


def _states(
    frames: Tensor, talkers: list[TalkerHMM], beam: int = 10**6
) -> tuple[Tensor, Tensor, Tensor]:
    """Joint states (L, B, C), their log-likelihoods and posteriors (L, B)."""
    terms = [log_max_terms(frames, talker) for talker in talkers]
    states, scores = joint_states(terms, [talker.prior for talker in talkers], beam)
    return states, scores, posteriors(states, scores, talkers)


@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    frames=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=30)
def test_exact_inference_is_the_sum_over_all_paths(
    sizes: list[int], frames: int, seed: int
) -> None:
    bins = 2
    talkers = [_model(size, bins, seed + k) for k, size in enumerate(sizes)]
    generator = torch.Generator().manual_seed(seed)
    observed = 4 * torch.rand(frames, bins, generator=generator, dtype=torch.float64)
    states, _, ours = _states(observed, talkers)

    def likelihood(frame: int, joint: tuple[int, ...]) -> float:
        """As the derivative of P(all sources <= y), which is that of their maximum."""
        value = 1.0
        for y, f in zip(observed[frame].tolist(), range(bins), strict=True):
            at = torch.tensor(y, dtype=torch.float64, requires_grad=True)
            below = torch.ones((), dtype=torch.float64)
            for t, k in zip(talkers, joint, strict=True):
                z = (at - t.means[k, f]) / t.deviations[k, f]
                # Normal.cdf would be rounding far below the mean: this test failed for that once.
                below = below * torch.special.erfc(-z / math.sqrt(2)) / 2
            value *= torch.autograd.grad(below, at)[0].item()
        return value

    every = list(product(*(range(size) for size in sizes)))
    local = [{joint: likelihood(frame, joint) for joint in every} for frame in range(frames)]
    expected = torch.zeros(frames, len(every), dtype=torch.float64)
    for path in product(range(len(every)), repeat=frames):
        weight = 1.0
        for frame, joint in enumerate(path):
            weight *= local[frame][every[joint]]
            for k, talker in enumerate(talkers):
                to = every[joint][k]
                source = None if frame == 0 else every[path[frame - 1]][k]
                weight *= float(
                    talker.prior[to] if source is None else talker.transitions[source, to]
                )
        for frame, joint in enumerate(path):
            expected[frame, joint] += weight
    expected /= expected.sum(-1, keepdim=True)
    assert [tuple(joint) for joint in states[0].tolist()] == every
    torch.testing.assert_close(ours, expected, atol=1e-8, rtol=1e-6)


def _noise(frames: int, seed: int, bins: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.rand(frames, bins, generator=generator, dtype=torch.float64)


def test_beam_that_keeps_all_is_exact() -> None:
    """Two ways to the same: transitions talker by talker, and from joint state to joint state."""
    talkers = [_model(4, 5, 0), _model(3, 5, 1)]
    states, scores, expected = _states(_noise(20, 2), talkers)
    # A joint state more, that cannot be: no longer all, so the other way is taken.
    states = torch.cat([states, states[:, :1]], dim=1)
    scores = torch.cat([scores, torch.full_like(scores[:, :1], -math.inf)], dim=1)
    torch.testing.assert_close(posteriors(states, scores, talkers)[:, :-1], expected)


def test_beam_keeps_the_likely_states() -> None:
    talkers = [_model(6, 40, seed) for seed in range(3)]
    frames = torch.stack([t.means[[0, 3, 5]] for t in talkers]).amax(0)  # (3, F)
    states, scores, _ = _states(frames, talkers)
    kept, kept_scores, ours = _states(frames, talkers, beam=20)
    assert kept.shape == (3, 20, 3)
    assert torch.allclose(kept_scores.amax(-1), scores.amax(-1))
    best = states[torch.arange(3), scores.argmax(-1)]
    assert torch.equal(kept[torch.arange(3), kept_scores.argmax(-1)], best)
    torch.testing.assert_close(ours.sum(-1), torch.ones(3, dtype=torch.float64))


def test_masks_of_a_narrow_beam_come_close() -> None:
    talkers = [_model(8, 60, seed) for seed in range(2)]
    frames = torch.stack([t.means[[0, 3, 5, 7, 7]] for t in talkers]).amax(0)
    exact = FactorialHMM(talkers).posterior_masks(frames)
    beam = FactorialHMM(talkers, beam=24).posterior_masks(frames)
    assert (exact - beam).abs().mean() < 0.05
    owner = (talkers[0].means > talkers[1].means)[[0, 3, 5, 7, 7]]
    assert (exact[0].gt(0.5) == owner).double().mean() > 0.8


def _babble(low: float, high: float, seed: int, samples: int = 8000) -> Tensor:
    """Noise in a band, on and off."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfft(torch.randn(samples, generator=generator))
    frequencies = torch.fft.rfftfreq(samples, 1 / 8000)
    spectrum[(frequencies < low) | (frequencies > high)] *= 0.01
    gates = torch.rand(samples // 800 + 1, generator=generator) > 0.3
    return torch.fft.irfft(spectrum, samples) * gates.repeat_interleave(800)[:samples]


@pytest.fixture(scope="module")
def separator() -> LoadedSeparator:
    bands = [(300.0, 1300.0), (1500.0, 3500.0)]
    return LoadedSeparator(
        FactorialHMM(
            [learn_talker([_babble(*band, seed=1), _babble(*band, seed=2)], 4) for band in bands]
        )
    )


def test_talkers_are_told_apart_in_the_order_of_their_models(separator: LoadedSeparator) -> None:
    first, second = _babble(300, 1300, seed=3), _babble(1500, 3500, seed=4)
    sources = separator(first + second, 2).sources
    for source, reference in zip(sources, (first, second), strict=True):
        assert (source - reference).square().sum() < 0.05 * reference.square().sum()
    batch = separator(torch.stack([second, first + second])).sources
    torch.testing.assert_close(batch[1], sources)


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
    mixture = _babble(300, 3500, seed=5)
    torch.testing.assert_close(
        separator(100 * mixture).masks, separator(mixture).masks, atol=1e-3, rtol=0
    )


def test_model_is_a_distribution_and_the_same_each_time() -> None:
    recordings = [_babble(300, 1300, seed=1), _babble(300, 1300, seed=2)]
    model = learn_talker([recordings[0], torch.zeros(900), recordings[1]], 6)
    again = learn_talker([100 * recordings[0], recordings[1]], 6)
    assert model.means.shape == model.deviations.shape == (6, 129)
    torch.testing.assert_close(model.prior.sum(), torch.tensor(1.0))
    torch.testing.assert_close(model.transitions.sum(-1), torch.ones(6))
    assert model.transitions.min() > 0  # nothing is impossible
    torch.testing.assert_close(model.means, again.means, atol=1e-3, rtol=0)


def test_states_and_transitions_of_two_alternating_sounds_are_found() -> None:
    sounds = [_babble(300, 900, seed=1), _babble(2000, 3500, seed=2)]
    noise = torch.cat([sound[k * 1600 : (k + 1) * 1600] for k in range(5) for sound in sounds])
    model = learn_talker(
        [noise + 0.01 * torch.randn(len(noise), generator=torch.Generator().manual_seed(0))], 2
    )
    counted = (model.transitions - RENEWAL * model.prior) / (1 - RENEWAL)
    assert counted.diagonal().min() > 0.8


def test_few_frames_give_few_states() -> None:
    model = learn_talker([_babble(300, 1300, seed=1, samples=640)], 32)
    assert len(model.means) == 1
    assert torch.isfinite(model.means).all()


def test_what_cannot_be_separated_is_refused(separator: LoadedSeparator) -> None:
    with pytest.raises(InputError, match="fhmm: has 2 sources, not 3; give --sources 2"):
        separator(torch.ones(100), 3)
    with pytest.raises(InputError, match="empty or holds NaN"):
        separator(torch.empty(0))
    with pytest.raises(InputError, match="silent"):
        learn_talker([torch.zeros(1000)])


def test_log_spectrum_does_not_depend_on_the_level() -> None:
    recording = _babble(300, 1300, seed=1)
    torch.testing.assert_close(
        log_spectrum(recording), log_spectrum(1e-6 * recording), atol=1e-2, rtol=0
    )
