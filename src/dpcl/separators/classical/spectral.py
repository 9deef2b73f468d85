"""Spectral clustering of auditory units with learned kernels over grouping cues."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.kmeans import kmeans
from dpcl.separators.base import WindowSeparator
from dpcl.separators.classical.auditory import (
    FILTERS,
    HOP,
    SAMPLE_RATE,
    STFT_8K,
    Scene,
    erb_rate,
    masks_by_units,
)
from dpcl.separators.classical.casa import level_changes
from dpcl.separators.classical.voices import follow_voices, harmonicity

RIDGE = 1e-6  # of the largest eigenvalue: landmarks that all but repeat each other say nothing new


@dataclass(frozen=True)
class SpectralEmbedding:
    """The top of the normalised affinity D^-½ W D^-½, D its row sums."""

    values: Tensor  # (K,) eigenvalues, largest first; at most 1
    vectors: Tensor  # (N, K) eigenvectors of unit length


def dense_embedding(affinity: Tensor, dimensions: int) -> SpectralEmbedding:
    """affinity W (N, N), symmetric, at least zero -> its top `dimensions` eigenpairs.

    All of them are computed and the top kept: N² memory, N³ time. A point without affinity to any,
    itself included, has a row of zeros. Source: Ng, Jordan and Weiss 2001, steps 2 and 3. Raises
    ValueError for a matrix that is not square and for more dimensions than it has.
    """
    if affinity.ndim != 2 or affinity.shape[0] != affinity.shape[1]:
        raise ValueError(f"affinity must be (N, N); got {tuple(affinity.shape)}")
    _check_dimensions(dimensions, len(affinity))
    scale = _inverse_root(affinity.sum(1))
    values, vectors = torch.linalg.eigh(scale[:, None] * affinity * scale)
    return SpectralEmbedding(values.flip(0)[:dimensions], vectors.flip(1)[:, :dimensions])


def low_rank_embedding(factor: Tensor, dimensions: int) -> SpectralEmbedding:
    """The same for an affinity W = Z Zᵀ given by its factor Z (N, K): NK memory, NK² time.

    Its nonzero eigenvalues are those of (D^-½ Z)ᵀ (D^-½ Z), of K x K. This is what lets deep
    clustering's affinity V Vᵀ do without an N x N matrix. Row sums that are not positive, which an
    approximate or signed affinity can have, leave their point out (a row of zeros).
    """
    if factor.ndim != 2:
        raise ValueError(f"factor must be (N, K); got {tuple(factor.shape)}")
    _check_dimensions(dimensions, factor.shape[1])
    scale = _inverse_root(factor @ factor.sum(0))
    scaled = scale[:, None] * factor
    values, vectors = torch.linalg.eigh(scaled.T @ scaled)
    values, vectors = values.flip(0)[:dimensions], vectors.flip(1)[:, :dimensions]
    return SpectralEmbedding(values, scaled @ vectors * _inverse_root(values))


def nystrom_factor(to_landmarks: Tensor, landmarks: Tensor) -> Tensor:
    """The factor Z (N, M) of the Nystrom approximation Z Zᵀ of an affinity.

    to_landmarks: (N, M), affinities of all points to M of them; landmarks: (M,), which these are.
    Z Zᵀ = B A⁻¹ Bᵀ with A the rows of B = to_landmarks that are landmarks; directions in which A
    has next to nothing (or less than nothing) are left out. With all points as landmarks Z Zᵀ is
    the affinity itself, if it is positive semidefinite. Sources: Williams and Seeger 2001; Fowlkes
    et al. 2004. Raises ValueError for shapes that do not belong together.
    """
    if to_landmarks.ndim != 2 or landmarks.shape != to_landmarks.shape[1:]:
        raise ValueError(
            "to_landmarks (N, M) and landmarks (M,) must share M; "
            f"got {tuple(to_landmarks.shape)} and {tuple(landmarks.shape)}"
        )
    within = to_landmarks[landmarks]
    values, vectors = torch.linalg.eigh((within + within.T) / 2)
    kept = values > RIDGE * values[-1]
    inverse = torch.where(kept, values.where(kept, 1).rsqrt(), 0)
    factor: Tensor = to_landmarks @ (vectors * inverse)
    return factor


def spectral_clusters(embedding: SpectralEmbedding, num_clusters: int, seed: int = 0) -> Tensor:
    """How near each point is to each cluster: cosines (N, C) in [-1, 1]; the argmax is its label.

    k-means of the rows of the first C eigenvectors, each row scaled to unit length.
    Source: Ng, Jordan and Weiss 2001, steps 4 to 6.
    """
    rows = functional.normalize(embedding.vectors[:, :num_clusters], dim=1)
    centroids = kmeans(rows, num_clusters, seed=seed, metric="cosine").centroids
    return rows @ centroids.to(rows.dtype).T


def _inverse_root(values: Tensor) -> Tensor:
    """1 / √value, 0 where there is none."""
    positive = values > torch.finfo(values.dtype).tiny
    return torch.where(positive, values.where(positive, 1).rsqrt(), 0)


def _check_dimensions(dimensions: int, available: int) -> None:
    if not 1 <= dimensions <= available:
        raise ValueError(f"{dimensions} eigenvectors of {available}; take 1 to {available}")


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


# By benchmarks/learn_kernels.py, in the order of CUES: time, frequency, onset, modulation,
# harmonicity.
LEARNED = KernelWeights(
    exponents=((0.194, 0.018, 0.353, 0.019, 0.134), (0.001, 0.017, 0.03, 0.02, 2.301)),
    shares=(0.627, 0.373),
)
LANDMARKS = 300
MOST_DENSE = 1000  # units: a second of eigenvectors
SEGMENT = 20 * SAMPLE_RATE // HOP  # frames that are clustered at once
OVERLAP = SEGMENT // 10  # frames in which the next segment is linked to the ones before
SHARPNESS = 2.0  # of the masks, by cosine


class Spectral(WindowSeparator):
    """Bach and Jordan 2006 with the cues of this package: an affinity of pairs of units, cut.

    Segments of up to 20 s are clustered at once, by the dense affinity where they have at most
    1000 units and by Nystrom's with 300 landmarks where they have more. Their clusters are linked
    by the assignment that agrees best where segments overlap (Kuhn 1955).
    """

    sample_rate = SAMPLE_RATE
    stft = STFT_8K

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Estimate the masks of one window from the units of its auditory scene."""
        return masks_by_units(spectrum, num_sources, unit_masks)


def unit_masks(scene: Scene, talkers: int) -> Tensor:
    """Masks of the units of a scene, (C, channels, L), adding up to one; shared if not heard."""
    features = cue_features(scene, follow_voices(scene))
    frame_of, channel_of = scene.heard.T.nonzero().T  # (N,), in the order of the features
    masks = scene.power.new_full((scene.power.shape[1], len(scene.power), talkers), 1 / talkers)
    for start in range(0, max(len(masks) - OVERLAP, 1), SEGMENT - OVERLAP):
        inside = (frame_of >= start) & (frame_of < start + SEGMENT)
        if int(inside.sum()) < talkers:
            continue
        part = {cue: features[cue][inside] for cue in CUES}
        cosines = spectral_clusters(_embedding(part, talkers), talkers)
        shares = (SHARPNESS * cosines).softmax(1)  # (N', C)
        places = (frame_of[inside], channel_of[inside])
        known = places[0] < start + OVERLAP  # linked where the segment before has been
        agreement = masks[places][known].T @ shares[known]  # (C, C)
        order = linear_sum_assignment(-agreement.numpy())[1]
        masks[places] = shares[:, torch.from_numpy(order)]
    return masks.permute(2, 1, 0)


def _embedding(features: dict[str, Tensor], dimensions: int) -> SpectralEmbedding:
    """The top eigenvectors of the learned affinity of N units."""
    exponents, shares = torch.tensor(LEARNED.exponents), torch.tensor(LEARNED.shares)
    count = len(features["time"])
    if count <= MOST_DENSE:
        affinity = combined(cue_distances(features, features), exponents, shares)
        return dense_embedding(affinity, dimensions)
    random = torch.Generator().manual_seed(0)
    landmarks = torch.randperm(count, generator=random)[:LANDMARKS].sort().values
    marks = {cue: values[landmarks] for cue, values in features.items()}
    affinity = combined(cue_distances(features, marks), exponents, shares)
    return low_rank_embedding(nystrom_factor(affinity, landmarks), dimensions)
