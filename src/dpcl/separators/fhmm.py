"""Factorial hidden Markov model: each talker walks through his states, and the loudest is heard.

In every bin the mixture's log magnitude is taken to be that of its loudest source (log-max). With
the density N_c and the cumulative distribution P_c of each source's Gaussian at what is observed,
a bin has the likelihood sum_c N_c prod_(j != c) P_j, that is prod_j P_j times sum_c r_c with
r_c = N_c / P_c, and source c is the loudest one with probability r_c / sum_j r_j.

Sources: Roweis 2001, "One microphone source separation", and 2003, "Factorial models and
refiltering"; Varga and Moore 1990 (the two-sided likelihood); Hershey, Rennie, Olsen, Kristjansson
2010, "Super-human multi-talker speech recognition", section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.separators.limits import check_mixture
from dpcl.separators.separation import Separation
from dpcl.separators.talker_hmm import SAMPLE_RATE, TalkerHMM, log_spectrum, stft

BEAM = 1024  # joint states of a frame: all of two talkers', the likely ones of more
# Neighbouring bins and frames overlap, so a frame says less than the product of its bins does.
# Chosen on lists/valid2.csv.
DEPENDENCE = 0.1
EXPLAINING = 100  # most likely joint states of a frame, of which the masks are made
LIMIT = 40.0  # nepers; more than any ratio that decides something

Step = Callable[[int, Tensor], Tensor]


class FactorialHMM:
    """A separator that knows who speaks: it has the models of these talkers, in order."""

    sample_rate = SAMPLE_RATE
    stft = stft

    def __init__(self, talkers: Sequence[TalkerHMM], beam: int = BEAM) -> None:
        """beam: joint states that are kept in each frame; inference is exact if that is all."""
        self.talkers = list(talkers)
        self.beam = beam

    def __call__(self, mixture: Tensor, num_sources: int | None = None) -> Separation:
        """mixture (..., T) -> one source for each talker, in the order of the models.

        All are taken to be equally loud. The mask of a source is the posterior probability that
        it is the loudest in a bin. Raises InputError for samples that are none or not finite, and
        where num_sources is not the number of talkers.
        """
        check_mixture(mixture)
        if num_sources not in (None, len(self.talkers)):
            raise InputError(
                f"models of {len(self.talkers)} talkers cannot separate {num_sources} sources;"
                " give one for each"
            )
        spectrum = stft(mixture)  # (..., L, F)
        items = [self.masks(log_spectrum(item)) for item in mixture.reshape(-1, mixture.shape[-1])]
        masks = torch.stack(items).view(*mixture.shape[:-1], *items[0].shape)  # (..., C, L, F)
        sources = stft.inverse(masks * spectrum.unsqueeze(-3), mixture.shape[-1])
        return Separation(sources, masks)

    def masks(self, frames: Tensor) -> Tensor:
        """Log magnitudes (L, F) at an active level of 0 dB -> masks (C, L, F)."""
        gain = -0.5 * math.log(len(self.talkers))  # nepers: of each talker's power, its share
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
    """r = N / P and log P of each state in each bin, both (L, K, F); gain in nepers."""
    deviations = talker.deviations.to(frames)
    z = (frames.unsqueeze(-2) - (talker.means.to(frames) + gain)) / deviations  # (L, K, F)
    log_cumulative = torch.special.log_ndtr(z)
    log_density = -0.5 * z.square() - deviations.log() - 0.5 * math.log(2 * math.pi)
    return (log_density - log_cumulative).clamp_(-LIMIT, LIMIT).exp_(), log_cumulative


def joint_states(
    terms: Sequence[tuple[Tensor, Tensor]], priors: Sequence[Tensor], beam: int
) -> tuple[Tensor, Tensor]:
    """Joint states (L, B, C) of each frame and their log-likelihoods (L, B).

    terms: of each talker, as log_max_terms gives them; priors (K,). Where there are no more joint
    states than `beam`, all of them, the last talker's state changing fastest. Else talkers are
    added one by one, and after each the `beam` likeliest are kept: talkers still to come count with
    the mixture of all their states, bin by bin, whose likelihood has the same form.
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
    """Probability (L, B) of each joint state, given all frames: forward and backward recursions.

    states (L, B, C), scores (L, B) log-likelihoods, as joint_states gives them. Where these are
    all joint states, the transitions of one talker are taken after those of the other, which needs
    K^(C+1) products a frame instead of K^(2C) (Ghahramani and Jordan 1997); else those from kept
    states to kept states.
    """
    priors = [talker.prior.double() for talker in talkers]
    transitions = [talker.transitions.double() for talker in talkers]
    sizes = [len(prior) for prior in priors]
    exact = math.prod(sizes) == states.shape[1]

    def between(frame: int) -> Tensor:  # (B, B), from the kept states of a frame to the next one's
        moves = torch.ones((), dtype=torch.float64)
        for c, matrix in enumerate(transitions):
            moves = moves * matrix[states[frame, :, c]][:, states[frame + 1, :, c]]
        return moves

    def in_turn(joint: Tensor, axis: int) -> Tensor:
        joint = joint.view(sizes)
        for matrix in transitions:  # each takes the first dimension away and puts one at the end
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
    """likelihoods (L, B) up to a factor for each frame, start (B,) -> posteriors (L, B)."""
    seen = torch.empty_like(likelihoods)
    joint = start
    for frame, likelihood in enumerate(likelihoods):
        joint = joint * likelihood if frame == 0 else forward(frame - 1, joint) * likelihood
        joint = joint / joint.sum()
        seen[frame] = joint
    coming = torch.ones_like(start)
    for frame in range(len(likelihoods) - 2, -1, -1):
        coming = backward(frame, coming * likelihoods[frame + 1])
        coming = coming / coming.sum()
        seen[frame] *= coming
    return seen / seen.sum(dim=-1, keepdim=True)


def _any_state(ratios: Tensor, log_cumulative: Tensor, prior: Tensor) -> Tensor:
    """r (L, F) of the mixture of a talker's states, from (L, K, F) and (K,)."""
    weights = (prior.log().unsqueeze(-1) + log_cumulative).softmax(dim=-2)
    return (weights * ratios).sum(dim=-2)
