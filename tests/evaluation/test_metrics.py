"""PESQ and STOI: what they say of good and bad estimates, and where there is nothing to measure."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpcl.errors import InputError
from dpcl.evaluation.metrics import (
    MEASURES,
    best_permutation,
    check_measures,
    perceptual_score,
    score,
    sdr,
    si_sdr,
)

RATE = 8000


@pytest.fixture(scope="module")
def speech() -> Tensor:
    """Two noises (2, T) with the envelopes of syllables, 3 s."""
    rng = np.random.default_rng(0)
    time = np.arange(3 * RATE) / RATE
    envelopes = np.stack([np.sin(2 * np.pi * 3 * time), np.sin(2 * np.pi * 2 * time + 1)])
    noise = rng.standard_normal((2, len(time)))
    noise[:, 1:] += 0.9 * noise[:, :-1]
    return torch.from_numpy(0.1 * noise * envelopes.clip(0)).float()


def need(measure: str) -> None:
    pytest.importorskip({"pesq": "pesq", "stoi": "pystoi"}[measure])


@pytest.mark.parametrize(("measure", "best"), [("pesq", 4.5), ("stoi", 1.0)])
def test_cleaner_estimates_score_higher_up_to_the_best(
    measure: str, best: float, speech: Tensor
) -> None:
    need(measure)
    scores = [
        perceptual_score(measure, speech + leak * speech.flip(0), speech, RATE)
        for leak in (0, 0.2, 1)
    ]
    assert scores[0].tolist() == pytest.approx([best, best], abs=0.06)
    assert (scores[0] > scores[1]).all()
    assert (scores[1] > scores[2]).all()


def test_stoi_is_the_mean_correlation_of_short_envelopes_which_noise_of_its_own_lacks(
    speech: Tensor,
) -> None:
    need("stoi")
    stranger = torch.from_numpy(np.random.default_rng(1).standard_normal(speech.shape))
    assert perceptual_score("stoi", stranger, speech, RATE).abs().max() < 0.35


@pytest.mark.parametrize("level", [-12, -6])
def test_the_error_of_a_remix_is_the_error_of_the_sources_times_the_change(
    level: int, speech: Tensor
) -> None:
    """Also with noise in the mixture, which a remix keeps."""
    measure, mixture = MEASURES[f"remix{level:+d}"], speech.sum(0) + 0.01
    wanted = mixture + (10 ** (level / 20) - 1) * speech
    torch.testing.assert_close(measure.compared(speech, mixture), wanted)
    error = 0.1 * speech.flip(0)
    remixed = measure.compared(speech + error, mixture)
    found = perceptual_score(f"remix{level:+d}", remixed, wanted, RATE)
    power = (10 ** (level / 20) - 1) ** 2 * error.square().sum(1)
    expected = 10 * (wanted.square().sum(1) / power).log10()
    torch.testing.assert_close(found, expected.double(), atol=1e-2, rtol=0)
    assert perceptual_score(f"remix{level:+d}", wanted, wanted, RATE).tolist() == [100, 100]


@pytest.mark.parametrize("measure", ["pesq", "stoi"])
def test_without_speech_there_is_no_score(measure: str, speech: Tensor) -> None:
    need(measure)
    silence = torch.zeros_like(speech)
    assert perceptual_score(measure, speech, silence, RATE).isnan().all()
    assert perceptual_score(measure, silence, speech, RATE).isnan().all()
    assert perceptual_score(measure, speech[:, :1000], speech[:, :1000], RATE).isnan().all()
    mixed = perceptual_score(measure, speech, torch.stack([speech[0], silence[0]]), RATE)
    assert mixed.isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("measure", "package", "extra"),
    [("pesq", "pesq", "pesq"), ("stoi", "pystoi", "eval"), ("dnsmos", "speechmos", "mos")],
)
def test_missing_package_names_the_extra(
    measure: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(InputError, match=rf"{package}.*dpcl\[{extra}\]"):
        check_measures((measure,), RATE)


def test_dnsmos_gets_the_estimate_at_16_khz_within_full_scale(
    monkeypatch: pytest.MonkeyPatch, speech: Tensor
) -> None:
    inputs = []

    def run(samples: np.ndarray, rate: int, return_df: bool) -> dict[str, float]:
        inputs.append((len(samples), rate, float(np.abs(samples).max())))
        return {"ovrl_mos": 3.5}

    package = SimpleNamespace(dnsmos=SimpleNamespace(run=run))
    monkeypatch.setitem(sys.modules, "speechmos", package)
    scores = perceptual_score("dnsmos", 10 * speech, speech, RATE)
    assert scores.tolist() == [3.5, 3.5]
    assert [(length, rate) for length, rate, _ in inputs] == [(6 * RATE, 2 * RATE)] * 2
    assert max(peak for *_, peak in inputs) <= 1


def test_unknown_measures_and_rates_are_refused() -> None:
    with pytest.raises(InputError, match="'visqol'"):
        check_measures(("visqol",), RATE)
    need("pesq")
    check_measures(("pesq",), 16000)
    with pytest.raises(InputError, match="44100 Hz"):
        check_measures(("pesq",), 44100)


needs_fast_bss_eval = pytest.mark.skipif(
    importlib.util.find_spec("fast_bss_eval") is None, reason="fast_bss_eval is not installed"
)


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def _coloured(*shape: int, seed: int = 0) -> Tensor:
    """Noise with the falling spectrum of speech, for which BSS Eval's systems are hard to solve."""
    signals = _noise(*shape, seed=seed).numpy()
    for _ in range(2):
        for sample in range(1, shape[-1]):
            signals[..., sample] += 0.9 * signals[..., sample - 1]
    return torch.from_numpy(signals)


# SI-SDR


def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_the_energies() -> None:
    reference = torch.tensor([1.0, 1.0, -1.0, -1.0])
    noise = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert si_sdr(3 * reference + 0.3 * noise, reference).item() == pytest.approx(20, abs=1e-5)


@given(st.floats(1e-6, 1e6), st.floats(-1e3, 1e3), st.floats(-20, 60), st.integers(0, 10**6))
@settings(deadline=None, max_examples=50)
def test_si_sdr_ignores_gain_and_offset(
    gain: float, offset: float, level: float, seed: int
) -> None:
    reference, noise = _noise(2, 500, seed=seed)
    estimate = reference + 10 ** (-level / 20) * noise
    expected = si_sdr(estimate, reference)
    assert si_sdr(-gain * estimate + offset, reference).item() == pytest.approx(
        expected.item(), abs=1e-3
    )
    assert si_sdr(estimate, gain * reference + offset).item() == pytest.approx(
        expected.item(), abs=1e-3
    )


def test_si_sdr_agrees_with_fast_bss_eval_on_a_batch() -> None:
    fast_bss_eval = pytest.importorskip("fast_bss_eval")
    references = _coloured(3, 2, 4000) + 0.5  # with an offset: the means count
    estimates = references + torch.tensor([0.01, 0.3, 3.0])[:, None, None] * _noise(3, 2, 4000)
    expected = -fast_bss_eval.torch.si_sdr_loss(estimates, references, zero_mean=True)
    torch.testing.assert_close(si_sdr(estimates, references), expected, atol=1e-6, rtol=0)


def test_float32_inputs_are_scored_in_float64() -> None:
    """Issue 5 of fast_bss_eval: float32 turned very good estimates into NaN."""
    reference = _noise(48000).float()
    estimate = reference.double() + 1e-4 * _noise(48000, seed=1)
    assert si_sdr(estimate, reference).item() == pytest.approx(80, abs=0.1)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_very_soft_and_very_loud_signals_score_alike(scale: float) -> None:
    """Peers add 1e-8 to the energies, fast_bss_eval clamps norms at 1e-6."""
    reference, noise = _noise(2, 2000)
    estimate = reference + 0.1 * noise
    assert si_sdr(scale * estimate, scale * reference).item() == pytest.approx(
        si_sdr(estimate, reference).item()
    )


def test_perfect_silent_and_orthogonal_estimates_stay_finite() -> None:
    reference = torch.tensor([1.0, 1.0, -1.0, -1.0])
    estimates = torch.stack(
        [reference, -2 * reference, 0 * reference, torch.tensor([1.0, -1.0, 1.0, -1.0])]
    )
    assert si_sdr(estimates, reference).tolist() == [100, 100, -100, -100]


@pytest.mark.parametrize("constant", [0.0, 0.1, -3e4])
def test_silent_reference_has_no_si_sdr(constant: float) -> None:
    assert si_sdr(_noise(1000), torch.full((1000,), constant)).isnan()


@pytest.mark.parametrize("samples", [1, 2])
def test_si_sdr_of_hardly_any_samples(samples: int) -> None:
    value = si_sdr(torch.ones(samples).cumsum(0), torch.ones(samples).cumsum(0)).item()
    assert math.isnan(value) if samples == 1 else value == 100


# BSS Eval SDR


@pytest.mark.parametrize("leak", [1e-3, 0.03, 0.3, 1.0])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_sdr_agrees_with_mir_eval(leak: float) -> None:
    separation = pytest.importorskip("mir_eval").separation
    pytest.importorskip("fast_bss_eval")
    references = _coloured(2, 8000)
    estimates = references + leak * references.flip(0) + 0.1 * leak * _noise(2, 8000, seed=1)
    expected, *_ = separation.bss_eval_sources(
        references.numpy(), estimates.numpy(), compute_permutation=False
    )
    ours = sdr(estimates, references)
    assert ours.shape == (2, 2)
    np.testing.assert_allclose(ours.diagonal().numpy(), expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_sdr_agrees_with_mir_eval_on_a_tone_and_on_a_click() -> None:
    """Signals for which the 512 shifts of the reference are all but linearly dependent."""
    separation = pytest.importorskip("mir_eval").separation
    pytest.importorskip("fast_bss_eval")
    time = torch.arange(4000, dtype=torch.float64)
    click = torch.zeros(4000, dtype=torch.float64)
    click[100] = 1
    references = torch.stack([torch.sin(2 * math.pi * 0.05 * time), click])
    estimates = references + 0.1 * _noise(2, 4000)
    expected, *_ = separation.bss_eval_sources(
        references.numpy(), estimates.numpy(), compute_permutation=False
    )
    np.testing.assert_allclose(sdr(estimates, references).diagonal().numpy(), expected, atol=1e-2)


@needs_fast_bss_eval
def test_sdr_is_right_on_several_threads() -> None:
    """pytorch issue 142815: after set_num_threads(2), torch.linalg.solve breaks on a batch.

    It raised here ("Pivots given to lu_solve must all be greater or equal to 1") or, for smaller
    systems, gave wrong numbers without a word. In a process of its own: the setting would stay.
    """
    program = (
        "import torch; torch.set_num_threads(2)\n"
        "from dpcl.evaluation.metrics import sdr\n"
        "references = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))\n"
        "print(*sdr(references + 0.1 * references.flip(0), references).diagonal().tolist())"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    generator = torch.Generator().manual_seed(0)
    references = torch.randn(2, 4000, generator=generator)
    expected = sdr(references + 0.1 * references.flip(0), references).diagonal().tolist()
    assert [float(value) for value in run.stdout.split()] == pytest.approx(expected, abs=1e-6)


@needs_fast_bss_eval
def test_sdr_forgives_a_filter_that_si_sdr_does_not() -> None:
    reference, noise = _noise(2, 4000)
    estimate = reference + 0.01 * noise
    filtered = estimate.clone()
    filtered[5:] += 0.8 * estimate[:-5]
    assert sdr(filtered[None], reference[None]).item() > 35
    assert si_sdr(filtered, reference) < 5


@needs_fast_bss_eval
def test_sdr_stays_finite_and_silent_references_have_none() -> None:
    references = torch.stack([_noise(3000), torch.zeros(3000)])
    estimates = torch.stack([references[0], torch.zeros(3000), 1e-30 * _noise(3000, seed=1)])
    perfect, silent, soft = sdr(estimates, references)[0].tolist()
    assert (perfect, silent) == (pytest.approx(100), pytest.approx(-100))
    assert -20 < soft < 0
    assert sdr(estimates, references)[1].isnan().all()


@needs_fast_bss_eval
def test_sdr_of_signals_shorter_than_the_filter() -> None:
    reference = _noise(1, 100)
    assert sdr(reference, reference).item() > 60
    assert sdr(torch.ones(1, 1), torch.ones(1, 1)).item() == pytest.approx(100)


def test_missing_package_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fast_bss_eval", None)
    with pytest.raises(InputError, match=r'pip install "dpcl\[eval\]"'):
        sdr(_noise(1, 100), _noise(1, 100))


# Permutations


@given(st.permutations(range(4)), st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_permutation_is_found(order: list[int], seed: int) -> None:
    references = _noise(4, 300, seed=seed)
    estimates = (references + 0.3 * _noise(4, 300, seed=seed + 1))[order]
    match = best_permutation(estimates, references)
    assert [order[index] for index in match.tolist()] == [0, 1, 2, 3]


def test_no_estimate_is_taken_twice() -> None:
    """nussl's argmax per column gave one output to two references and lost the other."""
    references = _noise(2, 1000)
    estimates = torch.stack([references.sum(0), _noise(1000, seed=1) + 0.01 * references[0]])
    match = best_permutation(estimates, references)
    assert sorted(match.tolist()) == [0, 1]


def test_sum_is_maximised_not_each_in_turn() -> None:
    basis = torch.linalg.qr(_noise(40, 3) - _noise(40, 3).mean(0)).Q.T  # zero mean, orthonormal
    references = basis[:2]
    # Reference 0 likes estimate 0 best (8.0 dB against 6.0), but reference 1 needs it more.
    estimates = torch.stack(
        [references[0] + 0.9 * references[1], references[0] + 0.01 * references[1] + 0.5 * basis[2]]
    )
    assert si_sdr(estimates, references[:1]).tolist()[0] < si_sdr(estimates, references[:1])[1]
    assert best_permutation(estimates, references).tolist() == [1, 0]


def test_permutation_of_a_batch() -> None:
    references = _noise(2, 3, 2, 400)
    estimates = references.clone()
    estimates[1, 2] = references[1, 2].flip(0)
    match = best_permutation(estimates, references)
    assert match.shape == (2, 3, 2)
    assert match[1, 2].tolist() == [1, 0]
    assert match[0].tolist() == [[0, 1]] * 3


def test_more_and_fewer_estimates_than_references() -> None:
    references = _noise(3, 400)
    extra = torch.cat([_noise(2, 400, seed=1), references.flip(0)])
    assert best_permutation(extra, references).tolist() == [4, 3, 2]
    assert best_permutation(references[1:2], references).tolist() == [-1, 0, -1]
    assert best_permutation(references[:0], references).tolist() == [-1, -1, -1]


def test_silent_reference_takes_no_estimate_from_another() -> None:
    references = torch.stack([torch.zeros(400), _noise(400)])
    assert best_permutation(references[1:], references).tolist() == [-1, 0]


# Scores of a mixture


@needs_fast_bss_eval
def test_scores_are_matched_and_improvements_are_over_the_mixture() -> None:
    references = _noise(2, 4000)
    mixture = references.sum(0)
    estimates = references + 0.1 * references.flip(0)
    scores = score(estimates.flip(0), references, mixture)
    assert scores.estimate.tolist() == [1, 0]
    torch.testing.assert_close(scores.si_sdr, si_sdr(estimates, references))
    torch.testing.assert_close(scores.si_sdri, scores.si_sdr - si_sdr(mixture, references))
    torch.testing.assert_close(scores.sdr, sdr(estimates, references).diagonal())
    torch.testing.assert_close(scores.sdri, scores.sdr - sdr(mixture[None], references)[:, 0])
    assert scores.sdri.min() > 15
    assert not scores.silent.any()


@needs_fast_bss_eval
def test_mixture_improves_nothing() -> None:
    references = _noise(3, 2000)
    mixture = references.sum(0)
    scores = score((mixture / 3).expand(3, -1), references, mixture)
    assert scores.si_sdri.abs().max() < 1e-9
    assert scores.sdri.abs().max() < 1e-9


@needs_fast_bss_eval
@pytest.mark.parametrize("silence", [0.0, 0.1])
def test_silent_reference_is_flagged_and_leaves_the_others_alone(silence: float) -> None:
    references = torch.stack([torch.full((2000,), silence), _noise(2000)])
    estimates = references + 0.1 * _noise(2, 2000, seed=1)
    scores = score(estimates, references, references.sum(0) + 0.2 * _noise(2000, seed=2))
    assert scores.silent.tolist() == [True, False]
    for values in (scores.si_sdr, scores.si_sdri, scores.sdr, scores.sdri):
        assert values[0].isnan()
        assert values[1].isfinite()


@needs_fast_bss_eval
@pytest.mark.parametrize("kept", [0, 1])
def test_reference_without_an_estimate_has_no_score_and_is_not_silent(kept: int) -> None:
    references = _noise(2, 1000)
    scores = score(references[:kept], references, references.sum(0))
    assert scores.si_sdr.isnan().tolist() == [kept == 0, True]
    assert scores.sdri.isnan().tolist() == [kept == 0, True]
    assert not scores.silent.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_samples_that_are_no_numbers_are_named(bad: float, where: int) -> None:
    signals = [_noise(2, 100), _noise(2, 100), _noise(100)]
    signals[where].view(-1)[7] = bad
    with pytest.raises(InputError, match=("estimates", "references", "mixture")[where]):
        score(*signals)


def test_unequal_lengths_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="99"):
        score(_noise(2, 99), _noise(2, 100), _noise(100))
    with pytest.raises(InputError, match=r"\(1, 2, 100\)"):
        score(_noise(1, 2, 100), _noise(2, 100), _noise(100))
    with pytest.raises(InputError, match="with samples"):
        score(_noise(2, 0), _noise(2, 0), _noise(0))
