"""Oracle separators: what a mask could do if the references were known, and what nothing does.

All masks lie in [0, 1] and add up to one in every bin, silent ones too, so that the sources add up
to the mixture whether or not the references do. The STFT is the paper's: 32 ms windows every 8 ms
at 8 kHz.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.separators.separation import OracleSeparator, Separation
from dpcl.signal.bins import ideal_assignments
from dpcl.signal.stft import STFT

ORACLE_SAMPLE_RATE = 8000  # Hz

_stft = STFT(window=256, hop=64)


def mixture(mixture: Tensor, references: Tensor) -> Separation:
    """Every source gets an equal share of the mixture: the score of doing nothing."""
    *batch, num_sources, samples = _checked(mixture, references).shape
    masks = mixture.new_ones(*batch, num_sources, _stft.frames(samples), _stft.bins)
    sources = mixture.unsqueeze(-2).expand_as(references)
    return Separation(sources / num_sources, masks / num_sources)


def ibm(mixture: Tensor, references: Tensor) -> Separation:
    """Ideal binary mask: each bin goes whole to the reference that is strongest in it.

    Source: Wang 2005, "On ideal binary mask as the computational goal of auditory scene analysis".
    """
    spectra = _stft(_checked(mixture, references))  # (..., C, L, F)
    owners = ideal_assignments(spectra).transpose(-1, -2)  # (..., C, L*F)
    return _masked(mixture, owners.reshape(spectra.shape))


def irm(mixture: Tensor, references: Tensor) -> Separation:
    """Ideal ratio mask: each reference's share of the sum of their magnitudes.

    Source: Erdogan et al. 2015, Table 1 ("ideal ratio mask"); equal shares in silent bins.
    """
    magnitudes = _stft(_checked(mixture, references)).abs()  # (..., C, L, F)
    total = magnitudes.sum(dim=-3, keepdim=True)
    equal = torch.full_like(magnitudes, 1 / magnitudes.shape[-3])
    return _masked(mixture, torch.where(total > 0, magnitudes / total, equal))


def psm(mixture: Tensor, references: Tensor) -> Separation:
    """Phase-sensitive mask, truncated: the best masks in [0, 1] that add up to one.

    a = |S| cos(phase difference) / |X| is the best real mask (Erdogan et al. 2015, sec. 4). The
    masks here are the point of the simplex nearest to a, and so the least squared error
    sum |mask X - S|^2 of all masks in [0, 1] adding up to one: what truncation leaves over or
    takes too much is shared equally by the masks that stay above zero. For two sources that add
    up to the mixture this is plain truncation to [0, 1]. Equal shares in silent bins.
    """
    spectra = _stft(_checked(mixture, references))  # (..., C, L, F)
    spectrum = _stft(mixture).unsqueeze(-3)  # (..., 1, L, F)
    in_phase = (spectra * torch.sgn(spectrum).conj()).real  # |S| cos(phase difference)
    magnitude = spectrum.abs()
    best = torch.where(magnitude > 0, in_phase / magnitude, torch.zeros_like(in_phase))
    return _masked(mixture, _nearest_on_simplex(best))


def _nearest_on_simplex(points: Tensor) -> Tensor:
    """Nearest non-negative values that add up to one over dim -3 (Duchi et al. 2008, Fig. 1)."""
    points = points.nan_to_num()  # a mixture bin that all but cancels divides to infinity
    # A common shift changes nothing, and whoever is 1 below the largest gets nothing: so this
    # is exact, and keeps large ratios from swallowing the one that is to be shared.
    points = (points - points.amax(dim=-3, keepdim=True)).clamp(min=-1)  # (..., C, L, F)
    ranked = points.sort(dim=-3, descending=True).values
    counts = torch.arange(1, points.shape[-3] + 1, dtype=points.dtype, device=points.device)
    shifts = (ranked.cumsum(dim=-3) - 1) / counts[:, None, None]  # if the first 1, 2, ... C stay
    staying = (ranked > shifts).sum(dim=-3, keepdim=True)  # (..., 1, L, F), at least 1
    return (points - shifts.gather(-3, staying - 1)).clamp(min=0)


def _masked(mixture: Tensor, masks: Tensor) -> Separation:
    spectra = masks * _stft(mixture).unsqueeze(-3)  # (..., C, L, F)
    return Separation(_stft.inverse(spectra, mixture.shape[-1]), masks)


def _checked(mixture: Tensor, references: Tensor) -> Tensor:
    expected = (*mixture.shape[:-1], *references.shape[-2:-1], *mixture.shape[-1:])
    if references.ndim != mixture.ndim + 1 or references.shape != expected:
        raise InputError(
            f"references of shape {tuple(references.shape)} do not fit a mixture of shape "
            f"{tuple(mixture.shape)}; give (..., C, T) for a mixture (..., T)"
        )
    return references


ORACLES: dict[str, OracleSeparator] = {"mixture": mixture, "ibm": ibm, "irm": irm, "psm": psm}
