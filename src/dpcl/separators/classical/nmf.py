"""Sparse NMF with a dictionary for each talker: who is given speaks in the words he is known by.

Magnitude spectra V (L, F) are explained as H W: activations H (L, K) of the K atoms W (K, F) of a
dictionary. Minimised is the KL divergence of V from H W plus a penalty on the activations,

    sum V log(V / HW) - V + HW  +  sparsity * sum_k |w_k|_2 sum_l h_lk,

with atoms of unit norm (L2), without which the penalty could be evaded by scaling. All functions
take batches: leading dimensions of talkers, or of mixtures.

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
ATOMS = 256  # of one talker, as in Hershey et al. 2016
# Both chosen on lists/valid2.csv, with spectra of mean 1; twice the sparsity or half of it loses
# less than 0.2 dB, none at all 1.5 dB.
SPARSITY = 1.0
ITERATIONS = 50
QUIET = 1e-2  # frames whose loudest bin lies 40 dB under the loudest of all teach nothing
TINY = 1e-9  # beside spectra of mean 1: an activation of nothing, shared equally
FLOOR = 1e-20  # under which no divisor falls


class NMF(WindowSeparator):
    """A separator that knows who speaks: it has the dictionaries of these talkers, in order."""

    sample_rate = SAMPLE_RATE
    stft = STFT()

    def __init__(self, dictionaries: Sequence[Tensor]) -> None:
        """dictionaries: one for each talker, (K, F) with atoms of unit norm."""
        self.sizes = [len(dictionary) for dictionary in dictionaries]
        self.default_sources = len(self.sizes)
        self.dictionary = torch.cat(list(dictionaries))  # (K1 + K2 + …, F)

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Estimate the masks of one window, in the order of the dictionaries.

        The mask of a talker in a bin is the share that their atoms have in the model of the bin, a
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
    """The dictionary (ATOMS, F) of a talker's recordings (T,) at 8 kHz, from frames as they are.

    It starts from frames drawn at random, each blurred by noise, so that also few frames give
    different atoms. Raises InputError where the recordings are silent.
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
    """Activations (..., L, K) of a fixed dictionary (..., K, F) for spectra (..., L, F)."""
    activations = spectra.new_ones(*spectra.shape[:-1], dictionary.shape[-2])
    for _ in range(iterations):
        activations = update_activations(spectra, dictionary, activations, sparsity)
    return activations


def update_activations(
    spectra: Tensor, dictionary: Tensor, activations: Tensor, sparsity: float
) -> Tensor:
    """One multiplicative step of the activations (..., L, K); the cost never increases."""
    sums = dictionary.sum(
        dim=-1, keepdim=True
    )  # (..., K, 1), zero for an atom that is used no more
    weights = dictionary / (sums + sparsity).clamp_min(FLOOR)  # (..., K, F)
    gains = _ratio(spectra, dictionary, activations) @ weights.transpose(-1, -2)
    return activations * gains


def update_dictionary(
    spectra: Tensor, dictionary: Tensor, activations: Tensor, sparsity: float
) -> tuple[Tensor, Tensor]:
    """One step of the atoms (..., K, F), of unit norm before and after; the cost never increases.

    Le Roux et al. take a multiplicative step that is not proven to descend. This one minimises a
    bound: on the divergence that of Lee and Seung, on the norm |w| that of its square,
    (|w|^2 + 1) / 2. With r the atom that plain NMF would take next, that leaves
    sparsity w^2 + w - r = 0 in every coefficient, and w = r without sparsity. The atoms are then
    scaled to unit norm and the activations against it, which changes neither term of the cost.
    """
    ratio = _ratio(spectra, dictionary, activations)
    used = activations.sum(dim=-2).unsqueeze(-1).clamp_min(FLOOR)
    plain = dictionary * (activations.transpose(-1, -2) @ ratio) / used  # (..., K, F)
    atoms = 2 * plain / (1 + (1 + 4 * sparsity * plain).sqrt())
    norm = atoms.norm(dim=-1, keepdim=True)  # (..., K, 1), zero for an atom that is used no more
    atoms = torch.where(norm > 0, atoms / norm, atoms)
    return atoms, activations * norm.transpose(-1, -2)


def cost(spectra: Tensor, dictionary: Tensor, activations: Tensor, sparsity: float) -> Tensor:
    """What the updates bring down, (...): divergence and penalty (see the top of this module)."""
    model = activations @ dictionary
    divergence = torch.xlogy(spectra, spectra) - torch.xlogy(spectra, model) - spectra + model
    norms = dictionary.norm(dim=-1)  # (..., K)
    penalty: Tensor = sparsity * (norms * activations.sum(dim=-2)).sum(dim=-1)
    return divergence.sum(dim=(-1, -2)) + penalty


def _ratio(spectra: Tensor, dictionary: Tensor, activations: Tensor) -> Tensor:
    """V / HW, (..., L, F), in the room of HW: this and the products are all the time there is."""
    model = (activations @ dictionary).clamp_min_(FLOOR)
    return torch.div(spectra, model, out=model)


def _mean_one(magnitude: Tensor) -> Tensor:
    """Magnitudes (..., L, F) of mean one, so that no level is special; silence stays silence."""
    mean = magnitude.mean(dim=(-1, -2), keepdim=True)
    return magnitude / torch.where(mean > 0, mean, torch.ones_like(mean))
