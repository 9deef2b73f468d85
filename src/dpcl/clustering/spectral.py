"""Spectral clustering: of an affinity matrix, of its low-rank factor, and by the Nystrom method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpcl.clustering.kmeans import kmeans

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


def eigengap_count(values: Tensor, most: int) -> int:
    """How many clusters, 1 to `most`: where the falling eigenvalues (K,), K > most, drop furthest.

    Source: von Luxburg 2007, section 8.3.
    """
    if len(values) <= most or most < 1:
        raise ValueError(f"counting up to {most} clusters takes one more eigenvalue")
    return int((values[:most] - values[1 : most + 1]).argmax()) + 1


def _inverse_root(values: Tensor) -> Tensor:
    """1 / √value, 0 where there is none."""
    positive = values > torch.finfo(values.dtype).tiny
    return torch.where(positive, values.where(positive, 1).rsqrt(), 0)


def _check_dimensions(dimensions: int, available: int) -> None:
    if not 1 <= dimensions <= available:
        raise ValueError(f"{dimensions} eigenvectors of {available}; take 1 to {available}")
