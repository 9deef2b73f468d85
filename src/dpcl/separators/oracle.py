"""Oracle separators: the masks that the references give, and the mixture itself.

All masks lie in [0, 1] and sum to one in every bin, silent ones too, so that the sources sum to
the mixture whether or not the references do. The STFT is the paper's: 32 ms windows every 8 ms at
8 kHz.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.separators.base import Context, WindowSeparator, need_number
from dpcl.signal.bins import ideal_assignments
from dpcl.signal.stft import STFT

SAMPLE_RATE = 8000  # Hz

_stft = STFT(window=256, hop=64)

Rule = Callable[[Tensor, Tensor], Tensor]  # references (C, L, F), mixture (L, F) -> masks (C, L, F)


class Oracle(WindowSeparator):
    """Masks by a rule on the references: an upper bound (or a lower one), not a method."""

    sample_rate = SAMPLE_RATE
    stft = _stft

    def __init__(self, name: str, rule: Rule, context: Context) -> None:
        """Raises InputError for a context without the references, or of another length."""
        references, mixture = context.references, context.mixture
        if references is None or mixture is None:
            raise InputError(
                f"{name}: needs the references of the mixture; use it with `dpcl evaluate`"
            )
        if references.ndim != 2 or references.shape[1:] != mixture.shape:
            raise InputError(
                f"references of shape {tuple(references.shape)} do not fit a mixture of shape "
                f"{tuple(mixture.shape)}; give (C, T) for a mixture (T,)"
            )
        self.name, self.rule = name, rule
        self.references = _stft(references)  # (C, L, F)
        self.mixture = _stft(mixture)  # (L, F), of the references' level
        self.default_sources = len(references)

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Apply the rule to the frames of one window."""
        need_number(self.name, len(self.references), num_sources)
        frames = slice(start, start + len(spectrum))
        return self.rule(self.references[:, frames], self.mixture[frames])


def mixture(references: Tensor, spectrum: Tensor) -> Tensor:
    """Give every source an equal share of the mixture: the score of doing nothing."""
    return torch.full_like(references.abs(), 1 / len(references))


def ibm(references: Tensor, spectrum: Tensor) -> Tensor:
    """Ideal binary mask: each bin goes whole to the reference that is strongest in it.

    Source: Wang 2005, "On ideal binary mask as the computational goal of auditory scene analysis".
    """
    owners: Tensor = ideal_assignments(references).mT.reshape(references.shape)
    return owners


def irm(references: Tensor, spectrum: Tensor) -> Tensor:
    """Ideal ratio mask: each reference's share of the sum of their magnitudes.

    Source: Erdogan et al. 2015, Table 1 ("ideal ratio mask"); equal shares in silent bins.
    """
    magnitudes = references.abs()
    total = magnitudes.sum(0, keepdim=True)
    return torch.where(total > 0, magnitudes / total, 1 / len(magnitudes))


def psm(references: Tensor, spectrum: Tensor) -> Tensor:
    """Phase-sensitive mask, truncated: the best masks in [0, 1] that sum to one.

    a = |S| cos(phase difference) / |X| is the best real mask (Erdogan et al. 2015, sec. 4). The
    masks here are the point of the simplex nearest to a, and so the least squared error
    sum |mask X - S|^2 of all masks in [0, 1] that sum to one. For two sources that sum to the
    mixture this is plain truncation to [0, 1]. Equal shares in silent bins.
    """
    in_phase = (references * torch.sgn(spectrum).conj()).real  # |S| cos(phase difference)
    magnitude = spectrum.abs()
    best = torch.where(magnitude > 0, in_phase / magnitude, torch.zeros_like(in_phase))
    return _nearest_on_simplex(best)


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


ORACLES: dict[str, Rule] = {"mixture": mixture, "ibm": ibm, "irm": irm, "psm": psm}
