"""Spatial stage: levels and phases of several channels refine the masks of any separator.

A talker reaches two microphones with a difference of level and phase that depends on the place. In
every frequency bin, the direction of the vector of all channels follows a complex angular-central
Gaussian mixture with one component for each source. The masks of the inner separator are its
priors, so the components of all bins and windows have the order of the sources.

All channels share the refined masks, so the image of a source stays as it is. A beamformer (MVDR)
after the masks scored less in simulated rooms, and its outputs do not sum to the recording.

Source: Ito, Araki, Nakatani 2016, "Complex angular central Gaussian mixture model for directional
statistics in mask-based microphone array signal processing"; masks of a network as priors:
Nakatani et al. 2017, "Integrating DNN-based and spatial clustering-based mask estimation".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import torch
from torch import Tensor

from dpcl.separators.base import Analyses, Analysis, Link, Result, Separator
from dpcl.signal.channels import power_mean

ITERATIONS = 10  # of the EM algorithm
ENOUGH = 200  # frames of a window from which its components are estimated, at least
TRUST = 0.5  # exponent of the priors in a frequency whose sources have directions; else 1
# Covariance of directions and priors, relative to the variance of the priors and to the certainty
# of the directions: their vote grows between these values. On mixtures of `valid` it is 0.58 to 2.8
# in rooms, 1.3 or more in stereo; at most 0.52 if all talkers move alike or the channels drift.
AGREES = 0.53, 0.6
# Beside the main direction of each frequency, talkers leave a rest that grows with the level (slope
# of the logarithms 0.7 to 1 in rooms and stereo, at most 0.44 for noise of one channel) and comes
# and goes (mean logarithm 1.4 neper or more below the logarithm of the mean; noise 0.6 to 0.8).
GROWS, VARIES = (0.48, 0.56), (0.85, 1.15)
FLOOR = 1e-4  # least prior
LOADING = 1e-3  # share of the identity in a covariance
FEW = 5.0  # frames of the common covariance that are added to those of a source
SILENT = 1e-5  # level of a bin, relative to the loudest, below which its direction is ignored
# Quantile of the levels of a channel in a frequency: its background; and level of a bin, relative
# to it, from which the direction counts, to the power of the number of channels: many channels
# distinguish weak sounds. Noise of one channel has a direction of its own.
QUIET, STANDS_OUT = 0.1, 4.0
TINY = 1e-10


class Spatial(Separator):
    """Separator that refines the masks of another one by several channels.

    The inner separator gets one channel, as it would without this stage: the mean of the channels,
    or the root of their mean power. The analysis of a window is its own, with the spectra of the
    channels added.

    Args:
        separator: any separator.
        weights: weights (M,) of the channels in their mean; None for the root of their mean power,
            where the mean would lose a part of the sound.
    """

    def __init__(self, separator: Separator, weights: Tensor | None = None) -> None:
        self.inner, self.weights = separator, weights
        self.sample_rate, self.stft = separator.sample_rate, separator.stft
        self.window_seconds = separator.window_seconds
        self.overlap_seconds = separator.overlap_seconds
        self.low_apart = separator.low_apart

    @property
    def windows_at_once(self) -> int:
        """Largest number of windows in one call of the inner separator."""
        return self.inner.windows_at_once

    @property
    def bins(self) -> int:
        """Number of bins that the inner separator gets."""
        return self.inner.bins

    def prepared(self, windows: int) -> Spatial:
        """Return the same stage with the fastest form of the inner separator."""
        other = copy(self)
        other.inner = self.inner.prepared(windows)
        return other

    def analyse(self, spectra: Tensor) -> Analysis:
        """Analyse one channel of windows (W, M, L, F), and keep the spectra of all."""
        channels = spectra.transpose(0, 1)
        if self.weights is None:
            one = power_mean(channels, range(len(channels)))
        else:
            one = torch.tensordot(self.weights.to(channels), channels, dims=1)
        own = spectra[..., : self.stft.bins]
        kept = torch.view_as_real(own.resolve_conj().contiguous())
        return (*self.inner.analyse(one[:, None]), kept)

    def link(self, analyses: Analyses, num_sources: int | None, most: int) -> Link:
        """Link the windows as the inner separator does."""
        return self.inner.link(_Inner(analyses), num_sources, most)

    def masks(self, window: int, analysis: Analysis, link: Link) -> Tensor:
        """Refine the masks of one window; a background comes from everywhere, so its mask stays."""
        masks = self.inner.masks(window, analysis[:-1], link)
        spectra = torch.view_as_complex(analysis[-1])
        if not link.background:
            return refine(masks, spectra)
        if not link.num_sources:
            return masks
        talkers, background = masks[:-1], masks[-1:]
        share = talkers.sum(0)
        even = torch.full_like(talkers, 1 / len(talkers))
        talkers = torch.where(share > FLOOR, talkers / share.clamp_min(FLOOR), even)
        return torch.cat([share * refine(talkers, spectra, share), background])

    def embeddings(self, analysis: Analysis) -> Tensor | None:
        """Return the embeddings of the inner separator."""
        return self.inner.embeddings(analysis[:-1])


class _Inner:
    """Analyses without the spectra of the channels."""

    def __init__(self, analyses: Analyses) -> None:
        self.windows, self._whole = analyses.windows, analyses

    def map(self, function: Callable[[int, Analysis], Result]) -> Iterator[Result]:
        """Call `function` with number and analysis of each window."""
        return self._whole.map(lambda window, analysis: function(window, analysis[:-1]))

    def replace(
        self, function: Callable[[int, Analysis], tuple[Analysis, Result]]
    ) -> Iterator[Result]:
        """Work like `map`; keep the spectra beside the analysis that `function` returns."""

        def replaced(window: int, analysis: Analysis) -> tuple[Analysis, Result]:
            own, result = function(window, analysis[:-1])
            return (*own, analysis[-1]), result

        return self._whole.replace(replaced)

    def each(self, function: Callable[[Any], Result], items: Any) -> Iterator[Result]:
        """Call `function` with each of `items`."""
        return self._whole.each(function, items)


def refine(
    masks: Tensor, spectra: Tensor, weights: Tensor | None = None, iterations: int = ITERATIONS
) -> Tensor:
    """Refine masks by the directions of the channels, bin by bin.

    Priors and directions vote. The directions lose their vote where they do not distinguish the
    sources: in bins that do not stand out of the background of every channel, in frequencies whose
    components do not differ, in a window whose components contradict the priors, as they follow
    a moving microphone and not the talkers, and in one whose channels differ by noise alone.

    Args:
        masks: (C, L, F), not negative; they sum to one in every bin.
        spectra: complex (M, L, F), channels of the recording.
        weights: (L, F), weights of the bins in the components; None for one.
        iterations: number of iterations of the EM algorithm.

    Returns:
        Masks (C, L, F) that sum to one in every bin.

    Example:
        >>> masks, spectrum = torch.full((2, 8, 4), 0.5), torch.randn(1, 8, 4) + 0j
        >>> bool(torch.allclose(refine(masks, spectrum.expand(2, -1, -1)), masks))
        True
    """
    if len(spectra) < 2 or len(masks) < 2:
        return masks
    vectors = spectra.permute(2, 1, 0)  # (F, L, M)
    level = torch.linalg.vector_norm(vectors, dim=-1)  # (F, L)
    magnitudes = vectors.abs()
    quiet = max(1, round(QUIET * magnitudes.shape[1]))
    background = magnitudes.kthvalue(quiet, dim=1, keepdim=True).values  # (F, 1, M)
    least = STANDS_OUT ** (1 / len(spectra)) * background
    present = (magnitudes > least).all(-1) & (level > SILENT * level.amax())
    present = present.to(masks)
    directions = vectors / level.clamp_min(TINY).unsqueeze(-1)
    counted = present if weights is None else present * weights.T
    given = masks.transpose(1, 2).contiguous()  # (C, F, L)
    prior = given.clamp_min(FLOOR).log()
    every = slice(None, None, max(1, given.shape[-1] // ENOUGH))
    posterior, distance = given[..., every], torch.ones_like(given[..., every])
    for _ in range(iterations):
        components = _components(posterior * counted[:, every], distance, directions[:, every])
        distance = _distances(directions[:, every], *components)
        likelihood = -len(spectra) * distance.log() * present[:, every]
        posterior = (TRUST * prior[..., every] + likelihood).softmax(0)
    likelihood = -len(spectra) * _distances(directions, *components).log() * present
    certain, vote = _vote(given, likelihood.softmax(0), level * counted)
    vote = vote * _of_talkers(vectors, level, present)
    trust = 1 - (1 - TRUST) * vote * certain.unsqueeze(-1) * present
    refined: Tensor = (trust * prior + vote * likelihood).softmax(0)
    return refined.transpose(1, 2)


def _components(posterior: Tensor, distance: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate the covariances of the components by their principal axes.

    All components of a frequency have the same scales. So a component is no mere collection of the
    bins with much noise, or of those with little. A source with few bins gets the common
    covariance, which favours no source.

    Args:
        posterior: (C, F, L), zero for silent bins.
        distance: (C, F, L), of the directions under the previous covariances.
        directions: (F, L, M), of unit length.

    Returns:
        Axes, complex (C, F, M, M), and scales (F, M).
    """
    channels = directions.shape[-1]
    weights = (posterior / distance).to(directions).unsqueeze(-1)  # (C, F, L, 1)
    sums = (weights * directions).transpose(-1, -2) @ directions.conj()
    own, common = _unit_trace(sums), _unit_trace(sums.sum(0, keepdim=True))
    count = posterior.sum(-1)[..., None, None]
    scales, axes = torch.linalg.eigh((count * own + FEW * common) / (count + FEW))
    return axes, (1 - LOADING) * scales.mean(0).clamp_min(0) + LOADING / channels


def _distances(directions: Tensor, axes: Tensor, scales: Tensor) -> Tensor:
    """Return the quadratic forms (C, F, L) of directions (F, L, M) with inverse covariances."""
    projected = directions.conj() @ axes  # (C, F, L, M)
    squares = projected.real.square() + projected.imag.square()
    distances: Tensor = (squares / scales.unsqueeze(-2)).sum(-1).clamp_min(TINY)
    return distances


def _unit_trace(matrices: Tensor) -> Tensor:
    """Scale matrices (..., M, M) to a trace of one."""
    trace = torch.diagonal(matrices, dim1=-2, dim2=-1).real.sum(-1)
    return matrices / trace.clamp_min(TINY)[..., None, None]


def _vote(given: Tensor, alone: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much the directions decide: in each frequency (F,), and in the whole window.

    Args:
        given: masks (C, F, L) of the inner separator.
        alone: posteriors (C, F, L) of the directions without priors.
        weights: (F, L).
    """
    entropy = torch.special.entr(alone).sum(0) / math.log(len(alone))  # (F, L)
    certain = (weights * (1 - entropy)).sum(1) / weights.sum(1).clamp_min(TINY)
    weights = weights / weights.sum().clamp_min(TINY)
    claimed = (weights * (1 - entropy)).sum()
    first, second = (x - (weights * x).sum((1, 2), keepdim=True) for x in (given, alone))
    agreement = (weights * first * second).sum() / (weights * first.square()).sum().clamp_min(TINY)
    ratio = agreement / claimed.clamp_min(TINY)
    low, high = AGREES
    return certain.clamp(0, 1), ((ratio - low) / (high - low)).clamp(0, 1)


def _of_talkers(vectors: Tensor, level: Tensor, present: Tensor) -> Tensor:
    """Return how much the channels differ by talkers, not by noise of single channels: 0 to 1.

    Args:
        vectors: complex (F, L, M), spectra of the channels.
        level: (F, L), their norms.
        present: (F, L), 1 for bins that stand out of the background.
    """
    covariances = vectors.transpose(-1, -2) @ vectors.conj()  # (F, M, M)
    main = torch.linalg.eigh(covariances)[1][..., -1:]  # (F, M, 1)
    along = (vectors @ main.conj()) @ main.transpose(-1, -2)
    rest = (vectors - along).abs().square().sum(-1)  # (F, L)
    counted = (level > SILENT * level.amax()).to(level)
    least = max(TINY * float(level.amax()) ** 2, torch.finfo(rest.dtype).tiny)
    rest = rest.clamp_min(least)
    mean, mean_log = _mean(rest, counted).clamp_min(least), _mean(rest.log(), counted)
    loud = level.square().sum(1) / level.square().sum().clamp_min(TINY)
    varies = (loud * (mean.log() - mean_log)[:, 0]).sum()
    x, y = 2 * level.clamp_min(TINY).log(), rest.log()
    x, y = x - _mean(x, present), y - _mean(y, present)
    grows = (present * x * y).sum() / (present * x.square()).sum().clamp_min(TINY)
    low, high = torch.tensor([GROWS, VARIES]).T
    votes = (torch.stack([grows, varies]) - low) / (high - low)
    vote: Tensor = votes.amax().clamp(0, 1)
    return vote


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean over time (F, 1) of values (F, L)."""
    return (weights * values).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp_min(1)
