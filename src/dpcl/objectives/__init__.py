"""Objectives of training: pure functions on tensors, one value per item."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dpcl.objectives.affinity import affinity_loss as affinity_loss
from dpcl.objectives.affinity import normalised_affinity_loss as normalised_affinity_loss
from dpcl.objectives.attractor import anchored_attractor_loss as anchored_attractor_loss
from dpcl.objectives.attractor import deep_attractor_loss as deep_attractor_loss
from dpcl.objectives.masks import mask_inference_loss as mask_inference_loss
from dpcl.objectives.masks import waveform_approximation_loss as waveform_approximation_loss
from dpcl.objectives.masks import waveform_loss as waveform_loss
from dpcl.objectives.spectral import deep_lda_loss as deep_lda_loss
from dpcl.objectives.spectral import graph_laplacian_loss as graph_laplacian_loss
from dpcl.objectives.spectral import projector_loss as projector_loss
from dpcl.objectives.spectral import spectral_loss as spectral_loss
from dpcl.objectives.spectral import whitened_kmeans_loss as whitened_kmeans_loss

# Objectives by their name in a recipe. Arguments: embeddings (B, N, K), assignments (B, N, C) and
# weights (B, N); result: (B,).
OBJECTIVES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "affinity": affinity_loss,
    "whitened_kmeans": whitened_kmeans_loss,
    "spectral": spectral_loss,
}
