"""How a talker's log spectra follow one another: a hidden Markov model learned from his speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.kmeans import kmeans
from dpcl.errors import InputError
from dpcl.signal.level import active_level_db
from dpcl.signal.stft import STFT

SAMPLE_RATE = 8000  # Hz
# All chosen on lists/valid2.csv.
STATES = 32  # of one talker
FLOOR = 0.01  # magnitude, 60 dB under the root mean square of speech at an active level of 0 dB
EM_STEPS = 5
RENEWAL = 0.7  # chance that a state does not hang on the last one: 0.4 to 1 differ by 0.1 dB
FRAMES_A_STATE = 8  # fewer recordings give fewer states
SMOOTHING = 10.0  # frames of the talker's average variance that are added to those of a state
LEAST_VARIANCE = 0.05  # nepers squared: 2 dB

stft = STFT()


@dataclass(frozen=True)
class TalkerHMM:
    """Gaussian states of log magnitude spectra (natural log) at an active level of 0 dB."""

    means: Tensor  # (K, F)
    deviations: Tensor  # (K, F)
    prior: Tensor  # (K,), how often a state occurs
    transitions: Tensor  # (K, K), from the row's state to the column's; rows add up to one


def log_spectrum(samples: Tensor) -> Tensor:
    """samples (T,) at any level -> log magnitude (L, F) at an active level of 0 dB (P.56)."""
    level_db = active_level_db(samples.numpy(), SAMPLE_RATE)
    scale = 0.0 if level_db == float("-inf") else 10 ** (-level_db / 20)
    return stft(samples * scale).abs().clamp_min(FLOOR).log()


def learn_talker(recordings: Sequence[Tensor], states: int = STATES) -> TalkerHMM:
    """The model of a talker's recordings (T,) at 8 kHz, each brought to an active level of 0 dB.

    A Gaussian mixture with diagonal covariances by k-means and a few steps of EM (Dempster et al.
    1977), its components the states; transitions are how often one follows the other, by their
    posteriors in neighbouring frames, mixed with the prior: seconds of speech teach pairs of states
    badly. Raises InputError where all recordings are silent.
    """
    sounding = [recording for recording in recordings if bool(recording.any())]
    if not sounding:
        raise InputError("the recordings to learn from are silent; give some with speech")
    spectra = [log_spectrum(recording) for recording in sounding]
    frames = torch.cat(spectra)  # (N, F)
    states = min(states, max(1, len(frames) // FRAMES_A_STATE))
    labels = kmeans(frames, states, restarts=1, iterations=15).labels
    responsibilities = functional.one_hot(labels, states).to(frames.dtype)  # (N, K)
    means, deviations, prior = _maximise(frames, responsibilities)
    for _ in range(EM_STEPS):
        responsibilities = _log_densities(frames, means, deviations, prior).softmax(dim=-1)
        means, deviations, prior = _maximise(frames, responsibilities)
    counts = prior.expand(states, -1).clone()  # as if each state had been left once more
    for part in torch.split(responsibilities, [len(spectrum) for spectrum in spectra]):
        counts += part[:-1].T @ part[1:]
    counts /= counts.sum(dim=-1, keepdim=True)
    transitions = (1 - RENEWAL) * counts + RENEWAL * prior
    return TalkerHMM(means, deviations, prior, transitions)


def _maximise(frames: Tensor, responsibilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means, deviations (K, F) and prior (K,) of frames (N, F) shared out as (N, K)."""
    counts = responsibilities.sum(dim=0).clamp_min(1e-6).unsqueeze(-1)  # (K, 1)
    means = responsibilities.T @ frames / counts
    # Seen from the average frame: else the differences of squares would be rounding.
    centre = frames.mean(dim=0)
    squares = responsibilities.T @ (frames - centre).square() / counts
    variances = (squares - (means - centre).square()).clamp_min(0)
    average = (counts * variances).sum(dim=0) / counts.sum()  # (F,)
    variances = (counts * variances + SMOOTHING * average) / (counts + SMOOTHING)
    prior = counts[:, 0] / counts.sum()
    return means, variances.clamp_min(LEAST_VARIANCE).sqrt(), prior


def _log_densities(frames: Tensor, means: Tensor, deviations: Tensor, prior: Tensor) -> Tensor:
    """Log of prior times density, up to a constant, (N, K)."""
    precisions = deviations.square().reciprocal()  # (K, F)
    centre = frames.mean(dim=0)
    frames, means = frames - centre, means - centre
    distances = frames.square() @ precisions.T - 2 * frames @ (means * precisions).T
    distances = distances + (means.square() * precisions).sum(dim=-1)
    return prior.log() - 0.5 * distances - deviations.log().sum(dim=-1)
