"""Metrics of separation: SI-SDR, SDR (BSS Eval), PESQ, STOI, DNSMOS, word errors, remixes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpcl.errors import InputError, need_package
from dpcl.recordings.recogniser import RATE, Whisper
from dpcl.signal.audio import resample

WHISPER = "DPCL_WHISPER"  # environment variable with the folder or name of the Whisper model
_DEFAULT = "base"

DNSMOS_RATE = 16000  # Hz
_PESQ_MODES = {8000: "nb", 16000: "wb"}  # mode by sample rate in Hz: P.862 and P.862.2

CAP_DB = 100.0  # limit of SI-SDR and SDR, in both directions
FILTER_TAPS = 512  # length of the filters that BSS Eval allows between reference and estimate
_SILENCE = 1e-20  # share of energy without the mean, up to which a signal is silent: rounding


def check_measures(measures: tuple[str, ...], sample_rate: int) -> None:
    """Check that perceptual metrics are known, installed and defined at a sample rate.

    Args:
        measures: names of metrics.
        sample_rate: sample rate of the estimates, Hz.

    Raises:
        InputError: A metric is unknown, not installed, or not defined at this sample rate.
    """
    for name in measures:
        if name not in MEASURES:
            raise InputError(
                f"no metric is called {name!r}; choose from si_sdr, sdr, {', '.join(MEASURES)}"
            )
        measure = MEASURES[name]
        if measure.package:
            need_package(measure.extra, f"{measure.title} needs", measure.package)
        if measure.sample_rates and sample_rate not in measure.sample_rates:
            rates = " and ".join(str(rate) for rate in measure.sample_rates)
            raise InputError(
                f"{measure.title} is defined at {rates} Hz, but the separator's sample rate is"
                f" {sample_rate} Hz; remove {name} from --metrics"
            )
        measure.prepare()


def perceptual_score(
    measure: str, estimates: Tensor, references: Tensor, sample_rate: int
) -> Tensor:
    """Score each estimate against its reference with a perceptual metric.

    Args:
        measure: name in MEASURES.
        estimates: (C, T).
        references: (C, T).
        sample_rate: of both, in Hz.

    Returns:
        Scores (C,), float64; NaN for silent signals and for too little speech.

    Source: PESQ: ITU-T P.862.1 and P.862.2. STOI: Taal et al. 2011. DNSMOS: Reddy et al. 2022.
    """
    function = MEASURES[measure].function
    pairs = zip(estimates.double().numpy(), references.double().numpy(), strict=True)
    scores = [
        function(estimate, reference, sample_rate) if estimate.any() and reference.any() else np.nan
        for estimate, reference in pairs
    ]
    return torch.tensor(scores, dtype=torch.float64)


def _pesq(estimate: np.ndarray, reference: np.ndarray, sample_rate: int) -> float:
    """Return the PESQ of an estimate (T,); NaN where PESQ is not defined."""
    from pesq import PesqError, pesq

    try:
        return float(pesq(sample_rate, reference, estimate, _PESQ_MODES[sample_rate]))
    except PesqError:  # no utterance found, or less than 0.25 s
        return np.nan


def _stoi(estimate: np.ndarray, reference: np.ndarray, sample_rate: int) -> float:
    """Return the STOI of an estimate (T,); NaN for less than 0.4 s of speech."""
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames")
        try:
            return float(stoi(reference, estimate, sample_rate))
        except RuntimeWarning:  # less than 0.4 s of speech
            return np.nan


def _dnsmos(estimate: np.ndarray, reference: np.ndarray, sample_rate: int) -> float:
    """Return the overall quality of an estimate (T,) by DNSMOS P.835, without a reference."""
    from speechmos import dnsmos

    samples = resample(estimate.astype(np.float32), sample_rate, DNSMOS_RATE)
    samples = samples / max(1.0, float(np.abs(samples).max()))
    return float(dnsmos.run(samples, DNSMOS_RATE, return_df=False)["ovrl_mos"])


def remix(sources: Tensor, mixture: Tensor, level: float) -> Tensor:
    """Change the level of one source of a mixture at a time; all else stays as it is.

    Args:
        sources: (C, T).
        mixture: (T,), the sources and whatever else sounds.
        level: change in dB.

    Returns:
        One remix per source (C, T).

    Example:
        >>> sources = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> remix(sources, sources.sum(0), -20)
        tensor([[0.1000, 1.0000],
                [1.0000, 0.1000]])
    """
    return mixture + (10 ** (level / 20) - 1) * sources


def _snr(estimate: np.ndarray, reference: np.ndarray, sample_rate: int) -> float:
    """Return the ratio of a reference (T,) to the error of its estimate in dB."""
    error = np.square(reference - estimate).sum()
    with np.errstate(divide="ignore"):
        ratio = 10 * np.log10(np.square(reference).sum() / error) if error else CAP_DB
    return float(np.clip(ratio, -CAP_DB, CAP_DB))


def recogniser_name() -> str:
    """Return the folder or name of the Whisper model that scores are made with."""
    return os.environ.get(WHISPER) or _DEFAULT


@lru_cache(maxsize=1)
def load_recogniser(name: str) -> Whisper:
    """Load the recogniser once in a process.

    Args:
        name: folder of a Whisper model, or name in its cache.

    Raises:
        InputError: faster-whisper is not installed, or the model is not on this computer.
    """
    return Whisper(name, threads=torch.get_num_threads())


def prepare_recogniser() -> None:
    """Load the recogniser, so that a missing model ends a command before any work."""
    load_recogniser(recogniser_name())


def word_error_rate(
    estimate: NDArray[np.float64], reference: NDArray[np.float64], sample_rate: int
) -> float:
    """Return the word error rate of an estimate in percent.

    The right words are those that the same recogniser finds in the reference, so the errors of the
    recogniser on clean speech do not count. Case and punctuation are ignored. Inserted words count,
    so the rate may exceed 100 %.

    Args:
        estimate: (T,).
        reference: (T,).
        sample_rate: of both, in Hz.

    Returns:
        Substituted, omitted and inserted words in percent of the words of the reference; NaN for a
        reference without words.
    """
    expected = _words(reference.astype(np.float32).tobytes(), sample_rate)
    if not expected:
        return np.nan
    return error_rate(expected, _words(estimate.astype(np.float32).tobytes(), sample_rate))


def number_of_words(reference: NDArray[np.float64], sample_rate: int) -> float:
    """Return the number of words that the recogniser finds in a reference (T,)."""
    return len(_words(reference.astype(np.float32).tobytes(), sample_rate).split())


def error_rate(expected: str, found: str) -> float:
    """Return the word error rate of a text in percent.

    Args:
        expected: the right words.
        found: the words to score.
    """
    import jiwer

    return 100 * float(jiwer.wer(expected, found))


@lru_cache(maxsize=64)  # a reference is compared with the mixture and with the estimate
def _words(samples: bytes, sample_rate: int) -> str:
    """Return the words of float32 samples, in lower case, without punctuation."""
    recogniser = load_recogniser(recogniser_name())
    signal = resample(np.frombuffer(samples, np.float32), sample_rate, RATE)
    phrases, _ = recogniser(signal, recogniser.language)
    text = "".join(word.text for words in phrases for word in words).lower()
    kept = "".join(letter if letter.isalnum() or letter == "'" else " " for letter in text)
    return " ".join(kept.split())


@dataclass(frozen=True)
class Measure:
    """Perceptual metric.

    Attributes:
        title: name in tables.
        function: function of estimate (T,), reference (T,) and sample rate; NaN if not defined.
        package: Python package that it needs; empty for none.
        extra: extra of dpcl that installs the package.
        sample_rates: Hz; empty for any.
        prepare: function that raises InputError if anything else is missing.
        weight: function of reference (T,) and sample rate by which means weigh a score.
        level: change of the level of each source in dB, if remixes are compared in place of the
            sources; None for the sources.
    """

    title: str
    function: Callable[[np.ndarray, np.ndarray, int], float]
    package: str = ""
    extra: str = ""
    sample_rates: tuple[int, ...] = ()
    prepare: Callable[[], None] = lambda: None
    weight: Callable[[np.ndarray, int], float] | None = None
    level: float | None = None

    def compared(self, sources: Tensor, mixture: Tensor) -> Tensor:
        """Return the signals (C, T) that are compared, of sources (C, T) and the mixture (T,)."""
        return sources if self.level is None else remix(sources, mixture, self.level)


# pesq: MOS-LQO, narrow-band at 8 kHz, wide-band at 16 kHz. stoi: from 0 to 1, at 10 kHz, to which
# pystoi resamples. wer: percent, by the Whisper model that DPCL_WHISPER names. dnsmos: from 1 to 5,
# at 16 kHz. remix-12, remix-6: SNR in dB of the mixture with one talker softer by 12 or 6 dB.
MEASURES = {
    "pesq": Measure("PESQ", _pesq, "pesq", "pesq", tuple(_PESQ_MODES)),
    "stoi": Measure("STOI", _stoi, "pystoi", "eval"),
    "dnsmos": Measure("DNSMOS", _dnsmos, "speechmos", "mos"),
    "wer": Measure(
        "WER",
        word_error_rate,
        "jiwer",
        "asr",
        prepare=prepare_recogniser,
        weight=number_of_words,  # all errors over all words, as is usual
    ),
    **{
        f"remix{level:+d}": Measure(f"remix {level:+d} dB: SNR", _snr, level=level)
        for level in (-12, -6)
    },
}


@dataclass(frozen=True)
class Scores:
    """Scores of the C references of one mixture, each with its best estimate.

    Scores are in dB, float64. They are NaN for a silent reference and, with fewer estimates than
    references, for a reference without an estimate.

    Attributes:
        si_sdr: SI-SDR (C,).
        si_sdri: improvement of the SI-SDR over the mixture (C,).
        sdr: SDR (C,).
        sdri: improvement of the SDR over the mixture (C,).
        estimate: index of the estimate matched to each reference (C,), int64; -1 for none.
        silent: True for a silent reference (C,), bool.
    """

    si_sdr: Tensor
    si_sdri: Tensor
    sdr: Tensor
    sdri: Tensor
    estimate: Tensor
    silent: Tensor


def si_sdr(estimates: Tensor, references: Tensor) -> Tensor:
    """Return the scale-invariant signal-to-distortion ratio (SI-SDR), with means removed.

    Args:
        estimates: (..., T).
        references: (..., T); both are broadcast against each other.

    Returns:
        SI-SDR (...) in dB, float64, within ±100 dB; NaN for silent references.

    Example:
        >>> reference = torch.tensor([1.0, -1.0, 1.0, -1.0])
        >>> noise = torch.tensor([0.1, 0.1, -0.1, -0.1])
        >>> round(si_sdr(reference + noise, reference).item(), 3)
        20.0

    Source: Le Roux et al. 2019, eq. 3. The paper assumes signals of zero mean. Like Conv-TasNet,
    asteroid and speechbrain (there "SI-SNR"), this function removes the mean of each signal first.
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
    """Return the SDR (BSS Eval version 3) of every estimate against every reference.

    Filters have 512 taps and means are kept, like in mir_eval's bss_eval_sources. The systems are
    solved directly in float64. Conjugate gradients (use_cg_iter of fast_bss_eval) are no faster
    here and, at 200 iterations, up to 7 dB off.

    Args:
        estimates: (E, T).
        references: (C, T).

    Returns:
        SDR (C, E) in dB, float64; NaN for silent references.

    Raises:
        InputError: fast_bss_eval is not installed.

    Source: Vincent et al. 2006, computed by Scheibler 2021 ("SDR, medium rare").
    """
    need_package("eval", "SDR needs", "fast_bss_eval")
    import fast_bss_eval

    estimates, references = _unit(estimates), _unit(references)
    audible = references.any(dim=-1)  # (C,)
    scores = references.new_full((references.shape[0], estimates.shape[0]), torch.nan)
    if audible.any() and estimates.shape[0]:
        # Arrays, as torch solves batches wrongly on several threads (pytorch issue 142815, MKL).
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
    """Match estimates to references so that the sum of the SI-SDRs is largest.

    Args:
        estimates: (..., E, T).
        references: (..., C, T).

    Returns:
        Index of the estimate of each reference (..., C), int64; -1 for none. A silent reference
        gets none, as it must not take an estimate from another. With fewer estimates than audible
        references, some audible references get none.

    Example:
        >>> references = torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]])
        >>> best_permutation(references.flip(0), references)
        tensor([1, 0])
    """
    from scipy.optimize import linear_sum_assignment

    pairs = references.new_zeros(*references.shape[:-1], estimates.shape[-2], dtype=torch.float64)
    for row, reference in enumerate(references.unbind(-2)):  # one pair at a time: an hour is large
        for column, estimate in enumerate(estimates.unbind(-2)):
            pairs[..., row, column] = si_sdr(estimate, reference)
    best = torch.full(pairs.shape[:-1], -1)  # (..., C)
    if pairs.numel() == 0:
        return best.to(pairs.device)
    for chosen, scores in zip(
        best.view(-1, best.shape[-1]), pairs.reshape(-1, *pairs.shape[-2:]), strict=True
    ):
        audible = (
            (~scores[:, 0].isnan()).nonzero()[:, 0].cpu()
        )  # indices of the references to match
        rows, columns = linear_sum_assignment(scores[audible].cpu().numpy(), maximize=True)
        chosen[audible[rows]] = torch.from_numpy(columns)
    return best.to(pairs.device)


def score(estimates: Tensor, references: Tensor, mixture: Tensor) -> Scores:
    """Match estimates to references by SI-SDR, and score them.

    E and C may differ: surplus estimates are ignored, and references without an estimate score NaN.

    Args:
        estimates: (E, T).
        references: (C, T).
        mixture: (T,).

    Returns:
        Scores of every reference.

    Raises:
        InputError: Shapes do not agree, samples are NaN or infinite, or fast_bss_eval is not
            installed.
    """
    _check(estimates, references, mixture)
    match = best_permutation(estimates, references)  # (C,)
    matched = estimates[match.clamp(min=0)] if len(estimates) else torch.zeros_like(references)
    matched_si_sdr = torch.where(match >= 0, si_sdr(matched, references), torch.nan)
    # One call scores the estimates and the mixture, as they share the systems to solve.
    pairs = sdr(torch.cat([matched, mixture.unsqueeze(0)]), references)  # (C, C + 1)
    matched_sdr = torch.where(match >= 0, pairs.diagonal(), torch.nan)
    return Scores(
        si_sdr=matched_si_sdr,
        si_sdri=matched_si_sdr - si_sdr(mixture, references),
        sdr=matched_sdr,
        sdri=matched_sdr - pairs[:, -1],
        estimate=match,
        silent=~_centred(references).any(dim=-1),
    )


def _centred(signals: Tensor) -> Tensor:
    """Return signals without their means in float64; all zeros for a constant signal."""
    signals = _unit(signals)
    signals = signals - signals.mean(dim=-1, keepdim=True)
    energy = signals.square().sum(dim=-1, keepdim=True)
    return torch.where(energy > _SILENCE, signals, 0.0)


def _unit(signals: Tensor) -> Tensor:
    """Scale signals to unit energy in float64, so that very soft and very loud ones score alike."""
    signals = signals.double()
    peak = signals.abs().amax(dim=-1, keepdim=True)
    signals = torch.where(peak > 0, signals / peak, 0.0)
    return torch.nn.functional.normalize(signals, dim=-1)


def _check(estimates: Tensor, references: Tensor, mixture: Tensor) -> None:
    """Raise InputError for shapes that do not agree, and for NaN or infinite samples."""
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
    for name, signals in (
        ("estimates", estimates),
        ("references", references),
        ("mixture", mixture),
    ):
        if not signals.isfinite().all():
            raise InputError(f"{name} hold NaN or infinite samples; give finite samples")
