"""What listeners would make of separated speech: PESQ and STOI, by the packages that others use.

Both are measures of one estimate against one reference. Where there is nothing to measure (a silent
reference or estimate, too little speech) the score is NaN, and never part of a mean.
"""

from __future__ import annotations

import warnings

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


def perceive(measure: str, estimates: Tensor, references: Tensor, sample_rate: int) -> Tensor:
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
