"""Sparse NMF with one dictionary per talker (speaker-dependent baseline).

Magnitude spectra V (L, F) are modelled as H W: activations H (L, K) of the K atoms W (K, F) of a
dictionary. The cost is the KL divergence of V from H W plus a penalty on the activations:

    sum V log(V / HW) - V + HW  +  sparsity * sum_k |w_k|_2 sum_l h_lk,

where atoms have unit norm (L2): otherwise their scale would evade the penalty. All functions take
batches, with leading dimensions of talkers or of mixtures.

Sources: Schmidt and Olsson 2006 (a sparse dictionary per talker); Le Roux, Weninger, Hershey 2015,
"Sparse NMF: half-baked or well done?" (this cost); Lee and Seung 2001 (multiplicative updates).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.separators.base import WindowSeparator, need_number
from dpcl.signal.stft import STFT

SAMPLE_RATE = 8000  # Hz
ATOMS = 256  # atoms of one talker, as in Hershey et al. 2016
# SPARSITY and ITERATIONS were chosen on lists/valid2.csv, with spectra of mean 1. Twice or half the
# sparsity loses less than 0.2 dB, none at all 1.5 dB.
SPARSITY = 1.0
ITERATIONS = 50
QUIET = 1e-2  # loudest bin of a frame, relative to the loudest of all, below which it is not used
TINY = 1e-9  # least model of a bin, for spectra of mean 1: silent bins get equal shares
FLOOR = 1e-20  # least divisor


class NMF(WindowSeparator):
    """Separator with one dictionary per talker (speaker-dependent baseline).

    Args:
        dictionaries: dictionary (K, F) of each talker, with atoms of unit norm, in the order of the
            sources.
    """

    sample_rate = SAMPLE_RATE
    stft = STFT()

    def __init__(self, dictionaries: Sequence[Tensor]) -> None:
        """Join the dictionaries (K, F), one for each talker, with atoms of unit norm."""
        self.sizes = [len(dictionary) for dictionary in dictionaries]
        self.default_sources = len(self.sizes)
        self.dictionary = torch.cat(list(dictionaries))  # (K1 + K2 + …, F)

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Estimate the masks of one window, in the order of the dictionaries.

        The mask of a talker in a bin is the share of their atoms in the model of the bin, a
        Wiener-like mask on magnitudes.
        """
        need_number("nmf", len(self.sizes), num_sources)
        magnitude = _mean_one(spectrum.abs())  # (L, F)
        dictionary = self.dictionary.to(magnitude)
        activations = activate(magnitude, dictionary, SPARSITY, ITERATIONS)  # (L, K)
        parts = zip(
            torch.split(activations, self.sizes, -1),
            torch.split(dictionary, self.sizes),
            strict=True,
        )
        explained = torch.stack([h @ w + TINY for h, w in parts])  # (C, L, F)
        return explained / explained.sum(0)


def learn_dictionary(recordings: Sequence[Tensor], seed: int = 0) -> Tensor:
    """Learn the dictionary of a talker.

    Learning starts from random frames, each blurred by noise, so that even few frames give
    different atoms. Frames keep their relative levels.

    Args:
        recordings: samples (T,) of the talker at 8 kHz.
        seed: seed of the random numbers.

    Returns:
        Dictionary (ATOMS, F) with atoms of unit norm.

    Raises:
        InputError: All recordings are silent.
    """
    spectra = torch.cat([NMF.stft(recording).abs() for recording in recordings])  # (L, F)
    loudness = spectra.amax(dim=-1)
    if not bool(loudness.any()):
        raise InputError("the recordings to learn from are silent; give some with speech")
    spectra = _mean_one(spectra[loudness > QUIET * loudness.max()])
    random = torch.Generator().manual_seed(seed)
    chosen = spectra[torch.randint(len(spectra), (ATOMS,), generator=random)]  # (K, F)
    chosen = chosen * (0.5 + torch.rand(chosen.shape, generator=random)) + 0.01
    dictionary: Tensor = chosen / chosen.norm(dim=-1, keepdim=True)
    activations = 0.1 + torch.rand(len(spectra), ATOMS, generator=random)
    activations = activations * (spectra.sum() / (activations @ dictionary).sum())
    for _ in range(ITERATIONS):
        activations = update_activations(spectra, dictionary, activations, SPARSITY)
        dictionary, activations = update_dictionary(spectra, dictionary, activations, SPARSITY)
    return dictionary


def activate(spectra: Tensor, dictionary: Tensor, sparsity: float, iterations: int) -> Tensor:
    """Estimate the activations of a fixed dictionary.

    Args:
        spectra: (..., L, F).
        dictionary: (..., K, F).
        sparsity: weight of the penalty.
        iterations: number of updates.

    Returns:
        Activations (..., L, K).
    """
    activations = spectra.new_ones(*spectra.shape[:-1], dictionary.shape[-2])
    for _ in range(iterations):
        activations = update_activations(spectra, dictionary, activations, sparsity)
    return activations


def update_activations(
    spectra: Tensor, dictionary: Tensor, activations: Tensor, sparsity: float
) -> Tensor:
    """Update the activations (..., L, K) by one multiplicative step; the cost never increases."""
    sums = dictionary.sum(dim=-1, keepdim=True)  # (..., K, 1), zero for an unused atom
    weights = dictionary / (sums + sparsity).clamp_min(FLOOR)  # (..., K, F)
    gains = _ratio(spectra, dictionary, activations) @ weights.transpose(-1, -2)
    return activations * gains


def update_dictionary(
    spectra: Tensor, dictionary: Tensor, activations: Tensor, sparsity: float
) -> tuple[Tensor, Tensor]:
    """Update the atoms (..., K, F) by one step; the cost never increases.

    Le Roux et al. take a multiplicative step that is not proven to descend. This step minimises a
    bound. The divergence is bounded as by Lee and Seung, the norm |w| by (|w|^2 + 1) / 2. With r
    the next atom of plain NMF, this leaves sparsity w^2 + w - r = 0 in every coefficient, and w = r
    without sparsity. The atoms are then scaled to unit norm and the activations inversely, which
    changes neither term of the cost.

    Args:
        spectra: (..., L, F).
        dictionary: atoms (..., K, F) of unit norm.
        activations: (..., L, K).
        sparsity: weight of the penalty.

    Returns:
        Atoms (..., K, F) of unit norm, and activations (..., L, K).
    """
    ratio = _ratio(spectra, dictionary, activations)
    used = activations.sum(dim=-2).unsqueeze(-1).clamp_min(FLOOR)
    plain = dictionary * (activations.transpose(-1, -2) @ ratio) / used  # (..., K, F)
    atoms = 2 * plain / (1 + (1 + 4 * sparsity * plain).sqrt())
    norm = atoms.norm(dim=-1, keepdim=True)  # (..., K, 1), zero for an unused atom
    atoms = torch.where(norm > 0, atoms / norm, atoms)
    return atoms, activations * norm.transpose(-1, -2)


def cost(spectra: Tensor, dictionary: Tensor, activations: Tensor, sparsity: float) -> Tensor:
    """Return the cost (...) that the updates reduce: divergence and penalty, see the module."""
    model = activations @ dictionary
    divergence = torch.xlogy(spectra, spectra) - torch.xlogy(spectra, model) - spectra + model
    norms = dictionary.norm(dim=-1)  # (..., K)
    penalty: Tensor = sparsity * (norms * activations.sum(dim=-2)).sum(dim=-1)
    return divergence.sum(dim=(-1, -2)) + penalty


def _ratio(spectra: Tensor, dictionary: Tensor, activations: Tensor) -> Tensor:
    """Return V / HW (..., L, F), in the memory of HW: this and the products take all the time."""
    model = (activations @ dictionary).clamp_min_(FLOOR)
    return torch.div(spectra, model, out=model)


def _mean_one(magnitude: Tensor) -> Tensor:
    """Scale magnitudes (..., L, F) to mean one, so that no level is special; silence stays zero."""
    mean = magnitude.mean(dim=(-1, -2), keepdim=True)
    return magnitude / torch.where(mean > 0, mean, torch.ones_like(mean))
