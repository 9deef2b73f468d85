"""Hand-made affinities of auditory units: proximity, common onset and modulation, harmonicity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.separators.auditory import FILTERS, HOP, SAMPLE_RATE, Scene
from dpcl.separators.voices import harmonicity
from dpcl.signal.gammatone import erb_rate
from dpcl.signal.segments import level_changes

CUES = ("time", "frequency", "onset", "modulation", "harmonicity")
ONSET_FRAMES = 3
MODULATION_FRAMES = 9  # 144 ms: syllables rise and fall at 4 Hz
UNITS = {"time": 0.1, "frequency": 2.0, "onset": 5.0, "modulation": 5.0, "harmonicity": 0.3}


@dataclass(frozen=True)
class KernelWeights:
    """Two products of kernels and their shares, as `benchmarks/learn_kernels.py` learns them."""

    exponents: tuple[tuple[float, ...], ...]  # (2, cues), at least zero
    shares: tuple[float, ...]  # (2,), adding up to one


def cue_features(scene: Scene, tracks: Tensor) -> dict[str, Tensor]:
    """What each cue compares: (N, D) for the N units heard, in units of UNITS, frame by frame.

    time: s; frequency: ERB rate; onset: rise of the level over three frames, dB a frame;
    modulation: the level's course over 144 ms, its mean taken away, dB; harmonicity: how much
    better the unit fits the first pitch than the second (`follow_voices`).
    """
    channels, frames = scene.power.shape
    heard = scene.heard.T  # (L, channels): frame by frame
    seconds = torch.arange(frames)[:, None] * (HOP / SAMPLE_RATE)
    rates = erb_rate(FILTERS.centres).float()
    first, second = harmonicity(scene, tracks)
    levels = 10 * scene.power.clamp_min(1e-6).log10()
    courses = _around(levels, MODULATION_FRAMES)
    courses = courses - courses.mean(-1, keepdim=True)
    values = {
        "time": seconds.expand(frames, channels)[..., None],
        "frequency": rates.expand(frames, channels)[..., None],
        "onset": _around(level_changes(scene.power), ONSET_FRAMES) / ONSET_FRAMES**0.5,
        "modulation": courses / MODULATION_FRAMES**0.5,
        "harmonicity": (first - second).T[..., None],
    }
    return {cue: values[cue][heard] / UNITS[cue] for cue in CUES}


def cue_distances(features: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
    """Squared distances of N units to M others by each cue, (cues, N, M)."""
    return torch.stack([torch.cdist(features[cue], others[cue]).square() for cue in CUES])


def combined(distances: Tensor, exponents: Tensor, shares: Tensor) -> Tensor:
    """The affinity sum_p share_p prod_k exp(-exponent_pk d_k): (cues, N, M) -> (N, M) in [0, 1].

    A sum of products of powers of Gaussian kernels, positive semidefinite like each of them.
    Source: Bach and Jordan 2006.
    """
    products = torch.exp(-torch.einsum("pk,knm->pnm", exponents, distances))
    return torch.einsum("p,pnm->nm", shares, products)


def _around(values: Tensor, frames: int) -> Tensor:
    """Values (channels, L) of the frames around each -> (L, channels, frames)."""
    padded = functional.pad(values[:, None], (frames // 2, frames // 2), mode="replicate")
    return padded[:, 0].unfold(-1, frames, 1).transpose(0, 1)
