"""Spectral clustering of auditory units on hand-made affinities, their weights learned."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dpcl.clustering.spectral import (
    SpectralEmbedding,
    dense_embedding,
    low_rank_embedding,
    nystrom_factor,
    spectral_clusters,
)
from dpcl.separators.auditory import HOP, SAMPLE_RATE, STFT_8K, Scene, separate_by_units
from dpcl.separators.kernels import CUES, KernelWeights, combined, cue_distances, cue_features
from dpcl.separators.separation import Separation
from dpcl.separators.voices import follow_voices

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


class Spectral:
    """Bach and Jordan 2006 with the cues of this package: an affinity of pairs of units, cut.

    Segments of up to 20 s are clustered at once, by the dense affinity where they have at most
    1000 units and by Nystrom's with 300 landmarks where they have more. Their clusters are linked
    by the assignment that agrees best where segments overlap (Kuhn 1955).
    """

    sample_rate = SAMPLE_RATE
    stft = STFT_8K

    def __call__(self, mixture: Tensor, num_sources: int | None = None) -> Separation:
        """mixture (..., T) at 8 kHz -> its sources; two if it is left to us."""
        count = 2 if num_sources is None else num_sources
        return separate_by_units(mixture, count, unit_masks)


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
