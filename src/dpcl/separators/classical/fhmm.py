"""Factorial HMM: one hidden Markov model per talker, log-max observation model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.kmeans import kmeans
from dpcl.errors import InputError
from dpcl.separators.base import WindowSeparator, need_number
from dpcl.signal.level import active_level_db
from dpcl.signal.stft import STFT

SAMPLE_RATE = 8000  # Hz
# All values below were chosen on lists/valid2.csv.
STATES = 32  # states of one talker
FLOOR = 0.01  # magnitude, 60 dB below the root mean square of speech at an active level of 0 dB
EM_STEPS = 5  # steps of EM
RENEWAL = 0.7  # probability that a state is independent of the last; 0.4 to 1 differ by 0.1 dB
FRAMES_A_STATE = 8  # least number of frames per state: little speech gives fewer states
SMOOTHING = 10.0  # frames of the talker's average variance, added to the frames of a state
LEAST_VARIANCE = 0.05  # nepers squared: 2 dB

stft = STFT()


@dataclass(frozen=True)
class TalkerHMM:
    """HMM of one talker, with Gaussian states of log magnitude spectra (natural log) at 0 dB."""

    means: Tensor  # (K, F)
    deviations: Tensor  # (K, F)
    prior: Tensor  # (K,), how often a state occurs
    transitions: Tensor  # (K, K), from the row's state to the column's; rows add up to one


def log_spectrum(samples: Tensor) -> Tensor:
    """Compute the log magnitude spectrum of samples, brought to an active level of 0 dB (P.56).

    Args:
        samples: (T,) at 8 kHz, any level.

    Returns:
        Log magnitudes (L, F), natural log.
    """
    level_db = active_level_db(samples.numpy(), SAMPLE_RATE)
    scale = 0.0 if level_db == float("-inf") else 10 ** (-level_db / 20)
    return stft(samples * scale).abs().clamp_min(FLOOR).log()


def learn_talker(recordings: Sequence[Tensor], states: int = STATES) -> TalkerHMM:
    """Learn the model of a talker.

    A Gaussian mixture with diagonal covariances is fitted by k-means and a few steps of EM. Its
    components are the states. Transitions are counted by the posteriors of neighbouring frames and
    mixed with the prior, because seconds of speech hold too few pairs of states.

    Args:
        recordings: samples (T,) of the talker at 8 kHz, each brought to an active level of 0 dB.
        states: largest number of states.

    Returns:
        The model.

    Raises:
        InputError: All recordings are silent.

    Source: Dempster et al. 1977.
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
    counts = prior.expand(states, -1).clone()  # one added transition from each state
    for part in torch.split(responsibilities, [len(spectrum) for spectrum in spectra]):
        counts += part[:-1].T @ part[1:]
    counts /= counts.sum(dim=-1, keepdim=True)
    transitions = (1 - RENEWAL) * counts + RENEWAL * prior
    return TalkerHMM(means, deviations, prior, transitions)


def _maximise(frames: Tensor, responsibilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return means, deviations (K, F), prior (K,) of frames (N, F), responsibilities (N, K)."""
    counts = responsibilities.sum(dim=0).clamp_min(1e-6).unsqueeze(-1)  # (K, 1)
    means = responsibilities.T @ frames / counts
    # Squares are taken around the average frame; else their differences would be rounding errors.
    centre = frames.mean(dim=0)
    squares = responsibilities.T @ (frames - centre).square() / counts
    variances = (squares - (means - centre).square()).clamp_min(0)
    average = (counts * variances).sum(dim=0) / counts.sum()  # (F,)
    variances = (counts * variances + SMOOTHING * average) / (counts + SMOOTHING)
    prior = counts[:, 0] / counts.sum()
    return means, variances.clamp_min(LEAST_VARIANCE).sqrt(), prior


def _log_densities(frames: Tensor, means: Tensor, deviations: Tensor, prior: Tensor) -> Tensor:
    """Return the log of prior times density (N, K), up to a constant."""
    precisions = deviations.square().reciprocal()  # (K, F)
    centre = frames.mean(dim=0)
    frames, means = frames - centre, means - centre
    distances = frames.square() @ precisions.T - 2 * frames @ (means * precisions).T
    distances = distances + (means.square() * precisions).sum(dim=-1)
    return prior.log() - 0.5 * distances - deviations.log().sum(dim=-1)


BEAM = 1024  # joint states kept in a frame: all of them for two talkers, the likeliest for more
# Exponent of the likelihood of a frame: neighbouring bins and frames overlap, so the product of its
# bins overstates it. Chosen on lists/valid2.csv.
DEPENDENCE = 0.1
EXPLAINING = 100  # likeliest joint states of a frame that make its masks

Step = Callable[[int, Tensor], Tensor]


class FactorialHMM(WindowSeparator):
    """Separator with one HMM per talker (speaker-dependent baseline), log-max observation model.

    Args:
        talkers: models of the talkers, in the order of the sources.
        beam: number of joint states kept in each frame; inference is exact if this is all of them.
    """

    sample_rate = SAMPLE_RATE
    stft = stft

    def __init__(self, talkers: Sequence[TalkerHMM], beam: int = BEAM) -> None:
        """Keep the models; `beam` is the number of joint states kept in each frame."""
        self.talkers = list(talkers)
        self.default_sources = len(self.talkers)
        self.beam = beam

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Estimate the masks of one window, in the order of the models.

        All talkers are assumed to be equally loud. The mask of a talker is the posterior
        probability that they are the loudest in a bin.
        """
        need_number("fhmm", len(self.talkers), num_sources)
        samples = stft.inverse(spectrum, max(1, (len(spectrum) - 1) * stft.hop))
        return self.posterior_masks(log_spectrum(samples))

    def posterior_masks(self, frames: Tensor) -> Tensor:
        """Estimate masks from log magnitudes.

        Args:
            frames: log magnitudes (L, F) at an active level of 0 dB.

        Returns:
            Masks (C, L, F), summing to one.
        """
        gain = -0.5 * math.log(len(self.talkers))  # nepers: equal shares of the power
        terms = [log_max_terms(frames, talker, gain) for talker in self.talkers]
        priors = [talker.prior.to(frames) for talker in self.talkers]
        states, scores = joint_states(terms, priors, self.beam)
        weights = posteriors(states, DEPENDENCE * scores, self.talkers)  # (L, B)
        weights, chosen = weights.topk(min(EXPLAINING, weights.shape[-1]))
        row = torch.arange(len(frames)).unsqueeze(-1)
        shares = torch.stack(
            [ratios[row, states[row, chosen, c]] for c, (ratios, _) in enumerate(terms)]
        )  # (C, L, B', F)
        shares = shares / shares.sum(dim=0) * weights.to(shares).unsqueeze(-1)
        masks = shares.sum(dim=-2)
        return masks / masks.sum(dim=0)


def log_max_terms(frames: Tensor, talker: TalkerHMM, gain: float = 0.0) -> tuple[Tensor, Tensor]:
    """Compute the terms of the log-max model: r = N / P and log P of each state in each bin.

    N is the density of the state at the frame, P its cumulative probability.

    Args:
        frames: log magnitudes (L, F).
        talker: model of the talker.
        gain: gain of the talker in nepers.

    Returns:
        r and log P, both (L, K, F).
    """
    deviations = talker.deviations.to(frames)
    z = (frames.unsqueeze(-2) - (talker.means.to(frames) + gain)) / deviations  # (L, K, F)
    log_cumulative = torch.special.log_ndtr(z)
    log_density = -0.5 * z.square() - deviations.log() - 0.5 * math.log(2 * math.pi)
    limit = -math.log(1000 * torch.finfo(z.dtype).tiny)  # within it sums of r stay finite
    return (log_density - log_cumulative).clamp_(-limit, limit).exp_(), log_cumulative


def joint_states(
    terms: Sequence[tuple[Tensor, Tensor]], priors: Sequence[Tensor], beam: int
) -> tuple[Tensor, Tensor]:
    """Choose joint states of all talkers in each frame.

    If there are at most `beam` joint states, all of them are kept, with the last talker's state
    changing fastest. Else talkers are added one by one, and after each the `beam` likeliest states
    are kept. Talkers not yet added count by the mixture of all their states, bin by bin, whose
    likelihood has the same form.

    Args:
        terms: r and log P of each talker, from `log_max_terms`.
        priors: prior (K,) of each talker.
        beam: largest number of joint states B.

    Returns:
        Joint states (L, B, C) and their log-likelihoods (L, B).
    """
    rests = [_any_state(*term, prior) for term, prior in zip(terms, priors, strict=True)]
    totals = [log_cumulative.sum(dim=-1) for _, log_cumulative in terms]  # (L, K) each
    states, scores = [], []
    for frame in range(len(rests[0])):
        ratios = rests[0].new_zeros(1, rests[0].shape[-1])  # (B, F), sum over talkers so far
        total = ratios.new_zeros(1)  # (B,), sum of log P over talkers and bins
        chosen = torch.zeros(1, 0, dtype=torch.int64)  # (B, talkers so far)
        for c, (more, _) in enumerate(terms):
            count = more.shape[1]
            ratios = (ratios.unsqueeze(1) + more[frame]).flatten(0, 1)
            total = (total.unsqueeze(1) + totals[c][frame]).flatten()
            added = torch.arange(count).repeat(len(chosen)).unsqueeze(-1)
            chosen = torch.cat([chosen.repeat_interleave(count, 0), added], dim=-1)
            if len(chosen) > beam:
                to_come = sum((rest[frame] for rest in rests[c + 1 :]), torch.zeros(()))
                kept = ((ratios + to_come).log_().sum(dim=-1) + total).topk(beam).indices
                ratios, total, chosen = ratios[kept], total[kept], chosen[kept]
        states.append(chosen)
        scores.append(ratios.log_().sum(dim=-1) + total)
    return torch.stack(states), torch.stack(scores)


def posteriors(states: Tensor, scores: Tensor, talkers: Sequence[TalkerHMM]) -> Tensor:
    """Compute the probability of each joint state given all frames, by forward-backward recursions.

    If all joint states are kept, the transitions of one talker are applied after those of another.
    This needs K^(C+1) products a frame instead of K^(2C). Else transitions run between kept states.

    Args:
        states: (L, B, C), from `joint_states`.
        scores: log-likelihoods (L, B).
        talkers: models of the talkers.

    Returns:
        Probabilities (L, B).

    Source: Ghahramani and Jordan 1997.
    """
    priors = [talker.prior.double() for talker in talkers]
    transitions = [talker.transitions.double() for talker in talkers]
    sizes = [len(prior) for prior in priors]
    exact = math.prod(sizes) == states.shape[1]

    def between(frame: int) -> Tensor:  # (B, B), from kept states of a frame to those of the next
        moves = torch.ones((), dtype=torch.float64)
        for c, matrix in enumerate(transitions):
            moves = moves * matrix[states[frame, :, c]][:, states[frame + 1, :, c]]
        return moves

    def in_turn(joint: Tensor, axis: int) -> Tensor:
        joint = joint.view(sizes)
        for matrix in transitions:  # each product moves the first dimension to the end
            joint = torch.tensordot(joint, matrix, dims=([0], [axis]))
        return joint.flatten()

    def forward(frame: int, joint: Tensor) -> Tensor:
        return in_turn(joint, 0) if exact else joint @ between(frame)

    def backward(frame: int, joint: Tensor) -> Tensor:
        return in_turn(joint, 1) if exact else between(frame) @ joint

    start = torch.ones((), dtype=torch.float64)
    for c, prior in enumerate(priors):
        start = start * prior[states[0, :, c]]
    return _forward_backward(scores.double().softmax(dim=-1), start, forward, backward)


def _forward_backward(likelihoods: Tensor, start: Tensor, forward: Step, backward: Step) -> Tensor:
    """Return posteriors (L, B) from likelihoods (L, B), up to a factor, and start (B,)."""
    posterior = torch.empty_like(likelihoods)
    joint = start
    for frame, likelihood in enumerate(likelihoods):
        joint = joint * likelihood if frame == 0 else forward(frame - 1, joint) * likelihood
        joint = joint / joint.sum()
        posterior[frame] = joint
    future = torch.ones_like(start)
    for frame in range(len(likelihoods) - 2, -1, -1):
        future = backward(frame, future * likelihoods[frame + 1])
        future = future / future.sum()
        posterior[frame] *= future
    return posterior / posterior.sum(dim=-1, keepdim=True)


def _any_state(ratios: Tensor, log_cumulative: Tensor, prior: Tensor) -> Tensor:
    """Return r (L, F) of the mixture of a talker's states, from (L, K, F) and prior (K,)."""
    weights = (prior.log().unsqueeze(-1) + log_cumulative).softmax(dim=-2)
    return (weights * ratios).sum(dim=-2)
