"""Local clustering: short segments by themselves, in the order of the references."""

from __future__ import annotations

import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.model import Model
from dpcl.separators.base import Context, WindowSeparator, need_number
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.masks import masks_from_centroids

SEGMENT = 100  # usual number of frames of a segment


class LocalClustering(WindowSeparator):
    """Deep clustering of short segments, joined by an oracle.

    The references decide which cluster of a segment is which source. So the score is the one of a
    network that need not know the voices for longer than a segment.

    Args:
        name: name of the separator, for error messages.
        model: model whose network has an embedding head.
        context: context of the mixture, with references.
        segment: approximate number of frames of a segment.

    Raises:
        InputError: The context has no references.

    Source: Hershey et al. 2016, section 4 ("local" clustering).
    """

    def __init__(self, name: str, model: Model, context: Context, segment: int = SEGMENT) -> None:
        """Raise InputError for a context without references."""
        if context.references is None:
            raise InputError(
                f"{name}: needs the references of the mixture; use it with `dpcl evaluate`"
            )
        separator = DeepClustering(model)
        self.name, self.separator, self.segment = name, separator, segment
        self.sample_rate, self.stft = separator.sample_rate, separator.stft
        self.references = separator.stft(context.references)  # (C, L, F)
        self.default_sources = len(context.references)

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        """Cluster the segments of one window, each in the order of the references."""
        need_number(self.name, len(self.references), num_sources)
        encoded, magnitude = self.separator.analyse(spectrum[None, None])
        frames, bins = spectrum.shape
        vectors = self.separator.embed(encoded).view(frames, bins, -1)
        weights = self.separator.weights(magnitude).view(frames, bins)
        ideal = self.references[:, start : start + frames]
        segments = max(1, round(frames / self.segment))
        parts = zip(
            vectors.tensor_split(segments),
            weights.tensor_split(segments),
            spectrum.tensor_split(segments),
            ideal.tensor_split(segments, dim=1),
            strict=True,
        )
        return torch.cat([_in_order(self._masks(v, w), x, s) for v, w, x, s in parts], dim=1)

    def _masks(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """Cluster vectors (L, F, K) with weights (L, F) into masks (C, L, F), in no set order."""
        points = vectors.flatten(0, 1)[None]  # (1, L*F, K)
        count = len(self.references)
        centroids = self.separator.centroids(points, count, weights.reshape(1, -1))
        masks = masks_from_centroids(points, centroids, self.separator.model.settings.masks)
        return masks[0].view(count, *weights.shape)


def _in_order(masks: Tensor, spectrum: Tensor, sources: Tensor) -> Tensor:
    """Return masks (C, L, F) in the order in which the masked mixture is nearest to the sources.

    The order has the least squared error of all orders. Energies do not depend on the order, so the
    correlations of sources (C, L, F) and masked spectrum (L, F) decide.
    """
    from scipy.optimize import linear_sum_assignment

    masked = masks * spectrum
    agreement = torch.einsum("clf,dlf->cd", sources.conj(), masked).real  # (C, C)
    return masks[linear_sum_assignment(agreement.cpu().numpy(), maximize=True)[1].tolist()]
