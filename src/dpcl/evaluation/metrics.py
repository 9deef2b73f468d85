"""Metrics of separation: SI-SDR, SDR (BSS Eval), PESQ and STOI."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dpcl.errors import InputError, need_package

MEASURES = ("pesq", "stoi")
_PACKAGES = {"pesq": ("pesq", "pesq"), "stoi": ("pystoi", "eval")}
_PESQ_MODES = {8000: "nb", 16000: "wb"}  # P.862 and P.862.2


def check_measures(measures: tuple[str, ...], sample_rate: int) -> None:
    """Raise InputError for a measure that is unknown, not installed or not made for this rate."""
    for measure in measures:
        if measure not in MEASURES:
            raise InputError(
                f"no metric is called {measure!r}; there are si_sdr, sdr, {', '.join(MEASURES)}"
            )
        package, extra = _PACKAGES[measure]
        need_package(extra, f"{measure.upper()} needs", package)
    if "pesq" in measures and sample_rate not in _PESQ_MODES:
        raise InputError(
            f"PESQ is defined at 8000 and 16000 Hz, but the separator gives {sample_rate} Hz;"
            " leave pesq out of the metrics"
        )


def perceptual_score(
    measure: str, estimates: Tensor, references: Tensor, sample_rate: int
) -> Tensor:
    """A measure of each estimate (C, T) against its reference (C, T) -> (C,), float64.

    pesq: MOS-LQO, narrow-band at 8 kHz and wide-band at 16 kHz (ITU-T P.862.1 and P.862.2).
    stoi: 0 to 1 (Taal et al. 2011), at 10 kHz, to which pystoi resamples.
    """
    of = {"pesq": _pesq, "stoi": _stoi}[measure]
    pairs = zip(estimates.double().numpy(), references.double().numpy(), strict=True)
    scores = [
        of(estimate, reference, sample_rate) if estimate.any() and reference.any() else np.nan
        for estimate, reference in pairs
    ]
    return torch.tensor(scores, dtype=torch.float64)


def _pesq(estimate: np.ndarray, reference: np.ndarray, sample_rate: int) -> float:
    from pesq import PesqError, pesq

    try:
        return float(pesq(sample_rate, reference, estimate, _PESQ_MODES[sample_rate]))
    except PesqError:  # no utterance found, or less than a quarter of a second
        return np.nan


def _stoi(estimate: np.ndarray, reference: np.ndarray, sample_rate: int) -> float:
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames")
        try:
            return float(stoi(reference, estimate, sample_rate))
        except RuntimeWarning:  # less than 0.4 s of speech
            return np.nan


CAP_DB = 100.0
FILTER_TAPS = 512  # BSS Eval: distortions by any filter of this length are forgiven
_SILENCE = 1e-20  # energy left after removing the mean, by the energy before: rounding, no sound


@dataclass(frozen=True)
class Scores:
    """Scores of one mixture's C references, each with its best estimate; dB, float64.

    The improvements are over the mixture itself. NaN where a reference is silent or, with fewer
    estimates than references, where no estimate is left for it.
    """

    si_sdr: Tensor  # (C,)
    si_sdri: Tensor  # (C,)
    sdr: Tensor  # (C,)
    sdri: Tensor  # (C,)
    estimate: Tensor  # (C,) int64, the estimate that was matched to each reference, -1 for none
    silent: Tensor  # (C,) bool, the reference is silent


def si_sdr(estimates: Tensor, references: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, means removed; NaN for silent references.

    estimates, references: (..., T), broadcast against one another -> (...).
    Source: Le Roux et al. 2019, eq. 3. The paper takes signals of zero mean; like Conv-TasNet,
    asteroid and speechbrain (there "SI-SNR") this removes the mean of each signal first.
    """
    estimates, references = _centred(estimates), _centred(references)
    energy = references.square().sum(dim=-1)  # (...)
    gain = (estimates * references).sum(dim=-1) / energy
    targets = gain.unsqueeze(-1) * references  # (..., T)
    ratio = targets.square().sum(dim=-1) / (estimates - targets).square().sum(dim=-1)
    ratio = torch.where(targets.any(dim=-1), ratio, 0.0)  # a silent estimate: 0 / 0
    decibels = (10 * ratio.log10()).clamp(-CAP_DB, CAP_DB)
    return torch.where(energy > 0, decibels, torch.nan)


def sdr(estimates: Tensor, references: Tensor) -> Tensor:
    """BSS Eval SDR in dB of every estimate against every reference; NaN for silent references.

    estimates (E, T), references (C, T) -> (C, E). BSS Eval version 3, 512 taps, as mir_eval's
    bss_eval_sources; means are kept, as there. Solved directly in float64: fast_bss_eval's
    conjugate gradients (use_cg_iter) are no faster here and, at 200 iterations, up to 7 dB off.
    Raises InputError where fast_bss_eval is not installed.
    Source: Vincent et al. 2006, computed by Scheibler 2021 ("SDR, medium rare").
    """
    need_package("eval", "SDR needs", "fast_bss_eval")
    import fast_bss_eval

    estimates, references = _unit(estimates), _unit(references)
    audible = references.any(dim=-1)  # (C,)
    scores = references.new_full((references.shape[0], estimates.shape[0]), torch.nan)
    if audible.any() and estimates.shape[0]:
        # On arrays: torch solves batches wrongly on several threads (pytorch issue 142815, MKL).
        negative = fast_bss_eval.sdr_loss(
            estimates.cpu().numpy(),
            references[audible].cpu().numpy(),
            filter_length=FILTER_TAPS,
            clamp_db=CAP_DB,
            pairwise=True,
        )
        scores[audible] = -torch.from_numpy(negative).to(scores)
    return scores


def best_permutation(estimates: Tensor, references: Tensor) -> Tensor:
    """Which estimate belongs to each reference, so that the sum of the SI-SDRs is largest.

    estimates (..., E, T), references (..., C, T) -> int64 (..., C), -1 where there is none: for
    silent references, which must not take an estimate from another, and where E < C.
    """
    from scipy.optimize import linear_sum_assignment

    pairs = si_sdr(estimates.unsqueeze(-3), references.unsqueeze(-2))  # (..., C, E)
    best = torch.full(pairs.shape[:-1], -1)  # (..., C)
    if pairs.numel() == 0:
        return best.to(pairs.device)
    for chosen, scores in zip(
        best.view(-1, best.shape[-1]), pairs.reshape(-1, *pairs.shape[-2:]), strict=True
    ):
        audible = (~scores[:, 0].isnan()).nonzero()[:, 0].cpu()  # the references to be matched
        rows, columns = linear_sum_assignment(scores[audible].cpu().numpy(), maximize=True)
        chosen[audible[rows]] = torch.from_numpy(columns)
    return best.to(pairs.device)


def score(estimates: Tensor, references: Tensor, mixture: Tensor) -> Scores:
    """Match the estimates to the references by SI-SDR and score them.

    estimates (E, T), references (C, T), mixture (T,). E and C may differ: estimates that match no
    reference are left out, references that no estimate is left for score NaN.
    Raises InputError for shapes that do not fit and for samples that are NaN or infinite.
    """
    _check(estimates, references, mixture)
    match = best_permutation(estimates, references)  # (C,)
    matched = estimates[match.clamp(min=0)] if len(estimates) else torch.zeros_like(references)
    ours = torch.where(match >= 0, si_sdr(matched, references), torch.nan)
    # One call for the estimates and the mixture: they share the systems to be solved.
    pairs = sdr(torch.cat([matched, mixture.unsqueeze(0)]), references)  # (C, C + 1)
    ours_sdr = torch.where(match >= 0, pairs.diagonal(), torch.nan)
    return Scores(
        si_sdr=ours,
        si_sdri=ours - si_sdr(mixture, references),
        sdr=ours_sdr,
        sdri=ours_sdr - pairs[:, -1],
        estimate=match,
        silent=~_centred(references).any(dim=-1),
    )


def _centred(signals: Tensor) -> Tensor:
    """Without their means in float64, or all zeros where there is nothing but a constant."""
    signals = _unit(signals)
    signals = signals - signals.mean(dim=-1, keepdim=True)
    energy = signals.square().sum(dim=-1, keepdim=True)
    return torch.where(energy > _SILENCE, signals, 0.0)


def _unit(signals: Tensor) -> Tensor:
    """Unit energy in float64, or all zeros: very soft and very loud signals score alike."""
    signals = signals.double()
    peak = signals.abs().amax(dim=-1, keepdim=True)
    signals = torch.where(peak > 0, signals / peak, 0.0)
    return torch.nn.functional.normalize(signals, dim=-1)


def _check(estimates: Tensor, references: Tensor, mixture: Tensor) -> None:
    if estimates.ndim != 2 or references.ndim != 2 or mixture.ndim != 1 or not len(mixture):
        raise InputError(
            f"estimates {tuple(estimates.shape)}, references {tuple(references.shape)} and mixture "
            f"{tuple(mixture.shape)} cannot be scored; give (E, T), (C, T) and (T,) with samples"
        )
    if not estimates.shape[-1] == references.shape[-1] == len(mixture):
        raise InputError(
            f"estimates of {estimates.shape[-1]}, references of {references.shape[-1]} and a "
            f"mixture of {len(mixture)} samples cannot be compared; give them equal lengths"
        )
    for what, signals in (
        ("estimates", estimates),
        ("references", references),
        ("mixture", mixture),
    ):
        if not signals.isfinite().all():
            raise InputError(f"the {what} hold NaN or infinite samples; nothing can be scored")
