"""The objective under many conditions: affinity, background, number of talkers, waveforms."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from dpcl.mixtures.conditions import ConditionedMixture
from dpcl.networks.base import EmbeddingNetwork, Predictions
from dpcl.objectives.affinity import affinity_loss
from dpcl.objectives.attractor import attractors
from dpcl.objectives.detection import background_loss, count_loss
from dpcl.signal.bins import ideal_assignments, level_weights
from dpcl.signal.features import first_bin, level_log_magnitude, loud_level
from dpcl.signal.stft import STFT
from dpcl.training.recipe import Recipe

ACTIVE = 0.03  # level of a frame, relative to the talker's own, from which the talker is active
AUDIBLE = 0.01  # and relative to the level of the mixture
SILENT = 1e-8  # power of a talker who is not in the mixture
TINY = 1e-8  # energy that keeps ratios finite
WORST, BEST = -20.0, 30.0  # dB between which the waveforms' SI-SDR counts


def conditioned_loss(
    recipe: Recipe, network: EmbeddingNetwork, stft: STFT, batch: ConditionedMixture
) -> Tensor:
    """Return the mean objective of a batch, a number with a gradient.

    The sum of the affinity objective on the bins of talkers, and, times their weights in the
    recipe: the background class (cross-entropy on all audible bins), the number of talkers per
    frame (cross-entropy), and the negative SI-SDR (dB) of the talkers under soft masks around the
    centroids of their own bins.

    Args:
        recipe: its objective and signal settings.
        network: with a background head, and a head for counts where they have weight.
        stft: of the recipe.
        batch: sources (B, C, T), mixtures (B, T), level factors (B,).
    """
    objective, signal = recipe.objective, recipe.model.signal
    first = first_bin(signal.sample_rate, signal.window)
    spectra, mixture = stft(batch.sources), stft(batch.mixture)  # (B, C, L, F), (B, L, F)
    level = loud_level(mixture.abs(), first) * batch.level_factor[:, None, None]
    magnitudes = spectra.abs()
    background = (mixture - spectra.sum(1)).abs()  # (B, L, F)
    dominates = (background > magnitudes.amax(1)).flatten(1)  # (B, N)
    weights = level_weights(mixture.abs(), level, first, objective.floor_db)  # (B, N)
    of_talkers = weights * ~dominates

    predicted: Predictions = network(level_log_magnitude(mixture, first, level), detect=True)
    embeddings = predicted.embeddings  # (B, N, K)
    assignments = ideal_assignments(spectra)  # (B, N, C)
    loss = affinity_loss(embeddings, assignments, of_talkers).mean()
    log_odds = predicted.background  # (B, N)
    assert log_odds is not None
    loss = loss + objective.background * background_loss(log_odds, dominates, weights).mean()
    if objective.counts:
        assert predicted.counts is not None
        counts = active_talkers(magnitudes, level, first)  # (B, L)
        loss = loss + objective.counts * count_loss(predicted.counts, counts).mean()
    if objective.waveform:
        present = batch.sources.square().mean(-1) > SILENT  # (B, C)
        centroids = functional.normalize(attractors(embeddings, assignments, of_talkers), dim=-1)
        sharpness = recipe.model.masks.sharpness or 1.0
        logits = sharpness * centroids @ embeddings.mT  # (B, C, N)
        logits = logits.masked_fill(~present.unsqueeze(-1), -1e4)
        masks = logits.softmax(1) * (1 - log_odds.sigmoid()).unsqueeze(1)
        masked = masks.view_as(magnitudes) * mixture.unsqueeze(1)
        estimates = stft.inverse(masked, batch.sources.shape[-1])  # (B, C, T)
        ratios = _si_sdr(estimates, batch.sources).clamp(WORST, BEST)
        if present.any():  # a batch may be silent
            loss = loss - objective.waveform * ratios[present].mean()
    return loss


def active_talkers(magnitudes: Tensor, level: Tensor, first: int) -> Tensor:
    """Return the number of active talkers (B, L) in each frame.

    A talker is active where their frame is at most 30 dB below their own level and 40 dB below the
    level of the mixture.

    Args:
        magnitudes: of the talkers (B, C, L, F).
        level: of the mixtures (B, 1, 1).
        first: bins below this one do not count.
    """
    frames = magnitudes[..., first:].square().sum(-1).sqrt()  # (B, C, L)
    own = loud_level(magnitudes, first).squeeze(-1)  # (B, C, 1)
    active: Tensor = (frames > ACTIVE * own) & (frames > AUDIBLE * level)
    return active.sum(1)


def _si_sdr(estimates: Tensor, references: Tensor) -> Tensor:
    """SI-SDR of every estimate (..., T) for its own reference, in dB (...).

    Source: Le Roux et al. 2019, eq. 3, of signals without their means.
    """
    estimates = estimates - estimates.mean(-1, keepdim=True)
    references = references - references.mean(-1, keepdim=True)
    energy = references.square().sum(-1, keepdim=True) + TINY
    target = (estimates * references).sum(-1, keepdim=True) / energy * references
    error = (target - estimates).square().sum(-1) + TINY
    return 10 * ((target.square().sum(-1) + TINY) / error).log10()
