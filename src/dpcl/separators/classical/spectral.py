"""Spectral clustering of auditory units with learned kernels over grouping cues."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.kmeans import kmeans
from dpcl.separators.classical.auditory import (
    FILTERS,
    HOP,
    SAMPLE_RATE,
    AuditorySeparator,
    Scene,
    erb_rate,
)
from dpcl.separators.classical.casa import level_changes
from dpcl.separators.classical.voices import follow_voices, harmonicity

# Least eigenvalue, relative to the largest: landmarks that nearly repeat each other add nothing.
RIDGE = 1e-6


@dataclass(frozen=True)
class SpectralEmbedding:
    """Largest eigenpairs of the normalised affinity D^-½ W D^-½, with the row sums D."""

    values: Tensor  # (K,) eigenvalues, largest first; at most 1
    vectors: Tensor  # (N, K) eigenvectors of unit length


def dense_embedding(affinity: Tensor, dimensions: int) -> SpectralEmbedding:
    """Compute the largest eigenpairs of a normalised affinity.

    All eigenpairs are computed: N² memory, N³ time. A point without affinity to any point, itself
    included, has a row of zeros.

    Args:
        affinity: W (N, N), symmetric, at least zero.
        dimensions: number of eigenpairs K.

    Returns:
        Eigenvalues (K,) and eigenvectors (N, K).

    Raises:
        ValueError: The matrix is not square, or has fewer dimensions.

    Source: Ng, Jordan and Weiss 2001, steps 2 and 3.
    """
    if affinity.ndim != 2 or affinity.shape[0] != affinity.shape[1]:
        raise ValueError(f"affinity must be (N, N); got {tuple(affinity.shape)}")
    _check_dimensions(dimensions, len(affinity))
    scale = _inverse_root(affinity.sum(1))
    values, vectors = torch.linalg.eigh(scale[:, None] * affinity * scale)
    return SpectralEmbedding(values.flip(0)[:dimensions], vectors.flip(1)[:, :dimensions])


def low_rank_embedding(factor: Tensor, dimensions: int) -> SpectralEmbedding:
    """Compute the largest eigenpairs of an affinity W = Z Zᵀ from its factor: NK memory, NK² time.

    The nonzero eigenvalues are those of (D^-½ Z)ᵀ (D^-½ Z), of K x K. So deep clustering's affinity
    V Vᵀ needs no N x N matrix. An approximate or signed affinity can have row sums that are not
    positive; their points get a row of zeros.

    Args:
        factor: Z (N, K).
        dimensions: number of eigenpairs.

    Returns:
        Eigenvalues (dimensions,) and eigenvectors (N, dimensions).

    Raises:
        ValueError: The factor is not a matrix, or has fewer columns.
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
    """Compute the factor Z of the Nystrom approximation Z Zᵀ of an affinity.

    Z Zᵀ = B A⁻¹ Bᵀ, where B is `to_landmarks` and A holds its rows that are landmarks. Directions
    in which A is nearly zero, or negative, are omitted. With all points as landmarks Z Zᵀ is the
    affinity itself, if it is positive semidefinite.

    Args:
        to_landmarks: (N, M), affinities of all points to M of them.
        landmarks: (M,), indices of these points.

    Returns:
        Factor (N, M).

    Raises:
        ValueError: The shapes do not match.

    Sources: Williams and Seeger 2001; Fowlkes et al. 2004.
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
    """Cluster the rows of the first C eigenvectors, each scaled to unit length, by k-means.

    Args:
        embedding: largest eigenpairs.
        num_clusters: number of clusters C.
        seed: seed of k-means.

    Returns:
        Cosines (N, C) of points and clusters, in [-1, 1]; the argmax is the label.

    Source: Ng, Jordan and Weiss 2001, steps 4 to 6.
    """
    rows = functional.normalize(embedding.vectors[:, :num_clusters], dim=1)
    centroids = kmeans(rows, num_clusters, seed=seed, metric="cosine").centroids
    return rows @ centroids.to(rows.dtype).T


def _inverse_root(values: Tensor) -> Tensor:
    """Return 1 / √value, and 0 for values that are not positive."""
    positive = values > torch.finfo(values.dtype).tiny
    return torch.where(positive, values.where(positive, 1).rsqrt(), 0)


def _check_dimensions(dimensions: int, available: int) -> None:
    """Raise ValueError unless the number of eigenvectors is available."""
    if not 1 <= dimensions <= available:
        raise ValueError(f"dimensions {dimensions}: not available; take 1 to {available}")


CUES = ("time", "frequency", "onset", "modulation", "harmonicity")
ONSET_FRAMES = 3  # frames of the onset cue
MODULATION_FRAMES = 9  # frames of the modulation cue: 144 ms, as syllables rise and fall at 4 Hz
# Size of the unit of each cue, in s, ERB, dB a frame, dB and periodicity.
UNITS = {"time": 0.1, "frequency": 2.0, "onset": 5.0, "modulation": 5.0, "harmonicity": 0.3}


@dataclass(frozen=True)
class KernelWeights:
    """Weights of two products of kernels, learned on `valid2` (docs/decisions.md)."""

    exponents: tuple[tuple[float, ...], ...]  # (2, cues), at least zero
    shares: tuple[float, ...]  # (2,), summing to one


def cue_features(scene: Scene, tracks: Tensor) -> dict[str, Tensor]:
    """Compute the features that each cue compares.

        - time: s
        - frequency: ERB rate
        - onset: rise of the level over three frames, dB a frame
        - modulation: course of the level over 144 ms, without its mean, dB
        - harmonicity: how much better the unit fits the first pitch than the second
          (`follow_voices`)

    Args:
        scene: scene of the mixture.
        tracks: (L, 2), from `follow_voices`.

    Returns:
        Features (N, D) of each cue for the N audible units, divided by UNITS, frame by frame.
    """
    channels, frames = scene.power.shape
    audible = scene.audible.T  # (L, channels): frame by frame
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
    return {cue: values[cue][audible] / UNITS[cue] for cue in CUES}


def cue_distances(features: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
    """Return squared distances (cues, N, M) of N units to M others by each cue."""
    return torch.stack([torch.cdist(features[cue], others[cue]).square() for cue in CUES])


def combined(distances: Tensor, exponents: Tensor, shares: Tensor) -> Tensor:
    """Combine distances into an affinity sum_p share_p prod_k exp(-exponent_pk d_k).

    A sum of products of powers of Gaussian kernels is positive semidefinite like each of them.

    Args:
        distances: (cues, N, M).
        exponents: (products, cues).
        shares: (products,).

    Returns:
        Affinity (N, M) in [0, 1].

    Source: Bach and Jordan 2006.
    """
    products = torch.exp(-torch.einsum("pk,knm->pnm", exponents, distances))
    return torch.einsum("p,pnm->nm", shares, products)


def _around(values: Tensor, frames: int) -> Tensor:
    """Return the values (L, channels, frames) around each frame of values (channels, L)."""
    padded = functional.pad(values[:, None], (frames // 2, frames // 2), mode="replicate")
    return padded[:, 0].unfold(-1, frames, 1).transpose(0, 1)


# Weights learned by benchmarks/learn_kernels.py, in the order of CUES: time, frequency, onset,
# modulation, harmonicity.
LEARNED = KernelWeights(
    exponents=((0.194, 0.018, 0.353, 0.019, 0.134), (0.001, 0.017, 0.03, 0.02, 2.301)),
    shares=(0.627, 0.373),
)
LANDMARKS = 300  # number of landmarks
MOST_DENSE = 1000  # largest number of units for the dense affinity: eigenvectors take a second
SEGMENT = 20 * SAMPLE_RATE // HOP  # frames that are clustered at once
OVERLAP = SEGMENT // 10  # frames in which a segment is linked to the previous ones
SHARPNESS = 2.0  # sharpness of the masks, by cosine


class Spectral(AuditorySeparator):
    """Separator that cuts an affinity of pairs of auditory units.

    Segments of up to 20 s are clustered at once: by the dense affinity up to 1000 units, by
    Nystrom's with 300 landmarks for more. Clusters of overlapping segments are linked by the
    assignment that agrees best (Kuhn 1955).

    Source: Bach and Jordan 2006, with the cues of this package.
    """

    def unit_masks(self, scene: Scene, talkers: int) -> Tensor:
        """Estimate the masks (C, channels, L); inaudible units get equal shares."""
        features = cue_features(scene, follow_voices(scene))
        frame_of, channel_of = scene.audible.T.nonzero().T  # (N,), in the order of the features
        masks = scene.power.new_full((scene.power.shape[1], len(scene.power), talkers), 1 / talkers)
        for start in range(0, max(len(masks) - OVERLAP, 1), SEGMENT - OVERLAP):
            inside = (frame_of >= start) & (frame_of < start + SEGMENT)
            if int(inside.sum()) < talkers:
                continue
            part = {cue: features[cue][inside] for cue in CUES}
            cosines = spectral_clusters(_embedding(part, talkers), talkers)
            shares = (SHARPNESS * cosines).softmax(1)  # (N', C)
            places = (frame_of[inside], channel_of[inside])
            shared = places[0] < start + OVERLAP  # units that the previous segment holds too
            agreement = masks[places][shared].T @ shares[shared]  # (C, C)
            order = linear_sum_assignment(-agreement.numpy())[1]
            masks[places] = shares[:, torch.from_numpy(order)]
        return masks.permute(2, 1, 0)


def _embedding(features: dict[str, Tensor], dimensions: int) -> SpectralEmbedding:
    """Compute the largest eigenpairs of the learned affinity of N units."""
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
