"""Separators that need the references: ideal masks, the mixture itself, and local clustering.

All ideal masks lie in [0, 1] and sum to one in every bin, silent ones included. So the sources sum
to the mixture, even if the references do not. The STFT is the paper's: 32 ms windows every 8 ms at
8 kHz. Local clustering takes short segments by themselves, in the order of the references.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.model import Model
from dpcl.separators.base import Context, WindowSeparator, need_number
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.masks import masks_from_centroids
from dpcl.signal.features import ideal_assignments
from dpcl.signal.stft import STFT

SAMPLE_RATE = 8000  # Hz

_stft = STFT(window=256, hop=64)

Rule = Callable[[Tensor, Tensor], Tensor]  # references (C, L, F), mixture (L, F) -> masks (C, L, F)

SEGMENT = 100  # usual number of frames of a segment of local clustering


class Oracle(WindowSeparator):
    """Separator with masks by a rule on the references.

    An oracle is an upper bound (or a lower one), not a method.

    Args:
        name: name of the separator, for error messages.
        rule: function from references (C, L, F) and mixture (L, F) to masks (C, L, F).
        context: context of the mixture, with mixture and references.

    Raises:
        InputError: The context lacks the references, or they have another length than the mixture.
    """

    sample_rate = SAMPLE_RATE
    stft = _stft

    def __init__(self, name: str, rule: Rule, context: Context) -> None:
        """Raise InputError for a context without the references, or with another length."""
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
        self.mixture = _stft(mixture)  # (L, F), at the level of the references
        self.default_sources = len(references)

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Apply the rule to the frames of one window."""
        need_number(self.name, len(self.references), num_sources)
        frames = slice(start, start + len(spectrum))
        return self.rule(self.references[:, frames], self.mixture[frames])


def mixture(references: Tensor, spectrum: Tensor) -> Tensor:
    """Give every source an equal share of the mixture: the score without separation.

    Args:
        references: spectra (C, L, F) of the sources.
        spectrum: spectrum (L, F) of the mixture.

    Returns:
        Masks (C, L, F), summing to one in each bin.
    """
    return torch.full_like(references.abs(), 1 / len(references))


def ibm(references: Tensor, spectrum: Tensor) -> Tensor:
    """Compute the ideal binary mask: each bin belongs to the strongest reference in it.

    Args:
        references: spectra (C, L, F) of the sources.
        spectrum: spectrum (L, F) of the mixture.

    Returns:
        Masks (C, L, F), summing to one in each bin.

    Source: Wang 2005, "On ideal binary mask as the computational goal of auditory scene analysis".
    """
    owners: Tensor = ideal_assignments(references).mT.reshape(references.shape)
    return owners


def irm(references: Tensor, spectrum: Tensor) -> Tensor:
    """Compute the ideal ratio mask: the share of each reference in the sum of their magnitudes.

    Args:
        references: spectra (C, L, F) of the sources.
        spectrum: spectrum (L, F) of the mixture.

    Returns:
        Masks (C, L, F), summing to one in each bin.

    Source: Erdogan et al. 2015, Table 1 ("ideal ratio mask"); equal shares in silent bins.
    """
    magnitudes = references.abs()
    total = magnitudes.sum(0, keepdim=True)
    return torch.where(total > 0, magnitudes / total, 1 / len(magnitudes))


def psm(references: Tensor, spectrum: Tensor) -> Tensor:
    """Compute the phase-sensitive mask, truncated: the best masks in [0, 1] that sum to one.

    a = |S| cos(phase difference) / |X| is the best real mask. The masks here are the point of the
    simplex nearest to a. So they have the least squared error sum |mask X - S|^2 of all masks in
    [0, 1] that sum to one. For two sources that sum to the mixture this is plain truncation. Silent
    bins get equal shares.

    Args:
        references: spectra (C, L, F) of the sources.
        spectrum: spectrum (L, F) of the mixture.

    Returns:
        Masks (C, L, F), summing to one in each bin.

    Source: Erdogan et al. 2015, section 4.
    """
    in_phase = (references * torch.sgn(spectrum).conj()).real  # |S| cos(phase difference)
    magnitude = spectrum.abs()
    best = torch.where(magnitude > 0, in_phase / magnitude, torch.zeros_like(in_phase))
    return _nearest_on_simplex(best)


def _nearest_on_simplex(points: Tensor) -> Tensor:
    """Return the nearest values >= 0 that sum to one over dim -3 (Duchi et al. 2008, Fig. 1)."""
    points = points.nan_to_num()  # a mixture bin near zero divides to infinity
    # The shift and the clamp are exact: a common shift changes nothing, and a value 1 below the
    # largest gets 0. They keep the sum of 1 from vanishing beside large ratios.
    points = (points - points.amax(dim=-3, keepdim=True)).clamp(min=-1)  # (..., C, L, F)
    ranked = points.sort(dim=-3, descending=True).values
    counts = torch.arange(1, points.shape[-3] + 1, dtype=points.dtype, device=points.device)
    # shifts if the first 1, 2, ... C values stay positive
    shifts = (ranked.cumsum(dim=-3) - 1) / counts[:, None, None]
    staying = (ranked > shifts).sum(dim=-3, keepdim=True)  # (..., 1, L, F), at least 1
    return (points - shifts.gather(-3, staying - 1)).clamp(min=0)


ORACLES: dict[str, Rule] = {"mixture": mixture, "ibm": ibm, "irm": irm, "psm": psm}


class LocalClustering(WindowSeparator):
    """Deep clustering of short segments, joined by an oracle.

    The references decide which cluster of a segment is which source. So the score is the one of a
    network that need not know the voices for longer than a segment.

    Args:
        name: name of the separator, for error messages.
        model: model whose network has an embedding head.
        context: context of the mixture, with references.
        segment: approximate number of frames of a segment.

    Raises:
        InputError: The context has no references.

    Source: Hershey et al. 2016, section 4 ("local" clustering).
    """

    def __init__(self, name: str, model: Model, context: Context, segment: int = SEGMENT) -> None:
        """Raise InputError for a context without references."""
        if context.references is None:
            raise InputError(
                f"{name}: needs the references of the mixture; use it with `dpcl evaluate`"
            )
        separator = DeepClustering(model)
        self.name, self.separator, self.segment = name, separator, segment
        self.sample_rate, self.stft = separator.sample_rate, separator.stft
        self.references = separator.stft(context.references)  # (C, L, F)
        self.default_sources = len(context.references)

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Cluster the segments of one window, each in the order of the references."""
        need_number(self.name, len(self.references), num_sources)
        encoded, magnitude = self.separator.analyse(spectrum[None, None])
        frames, bins = spectrum.shape
        vectors = self.separator.embed(encoded).view(frames, bins, -1)
        weights = self.separator.weights(magnitude).view(frames, bins)
        ideal = self.references[:, start : start + frames]
        segments = max(1, round(frames / self.segment))
        parts = zip(
            vectors.tensor_split(segments),
            weights.tensor_split(segments),
            spectrum.tensor_split(segments),
            ideal.tensor_split(segments, dim=1),
            strict=True,
        )
        return torch.cat([_in_order(self._masks(v, w), x, s) for v, w, x, s in parts], dim=1)

    def _masks(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """Cluster vectors (L, F, K) with weights (L, F) into masks (C, L, F), in no set order."""
        points = vectors.flatten(0, 1)[None]  # (1, L*F, K)
        count = len(self.references)
        centroids = self.separator.centroids(points, count, weights.reshape(1, -1))
        masks = masks_from_centroids(points, centroids, self.separator.model.settings.masks)
        return masks[0].view(count, *weights.shape)


def _in_order(masks: Tensor, spectrum: Tensor, sources: Tensor) -> Tensor:
    """Return masks (C, L, F) in the order in which the masked mixture is nearest to the sources.

    The order has the least squared error of all orders. Energies do not depend on the order, so the
    correlations of sources (C, L, F) and masked spectrum (L, F) decide.
    """
    from scipy.optimize import linear_sum_assignment

    masked = masks * spectrum
    agreement = torch.einsum("clf,dlf->cd", sources.conj(), masked).real  # (C, C)
    return masks[linear_sum_assignment(agreement.cpu().numpy(), maximize=True)[1].tolist()]
