"""Local clustering: every stretch of 100 frames on its own, put in order by the references."""

from __future__ import annotations

import torch
from torch import Tensor

from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.limits import check_mixture
from dpcl.separators.masks import nearest_masks
from dpcl.separators.separation import Separation

SEGMENT = 100  # frames


class LocalClustering:
    """Deep clustering whose k-means sees about 100 frames at a time; an oracle joins the parts.

    What talkers' embeddings do over a whole mixture is left out of the score: it says how well the
    network separates where it need not remember who is who. Which cluster of a segment is which
    source the references say. Source: Hershey et al. 2016, section 4 ("local" clustering).
    """

    def __init__(self, separator: DeepClustering) -> None:
        self.separator = separator
        self.sample_rate = separator.sample_rate

    def __call__(self, mixture: Tensor, references: Tensor) -> Separation:
        """mixture (T,) at self.sample_rate and references (C, T) -> the sources in their order.

        Raises InputError where there are no samples or not all of them are finite.
        """
        check_mixture(mixture)
        separator = self.separator
        spectrum = separator.stft(mixture[None])  # (1, L, F)
        embeddings = separator.embed(spectrum)  # (1, L*F, K)
        frames, bins = spectrum.shape[1:]
        vectors = embeddings.view(frames, bins, -1)
        weights = separator.weights(spectrum).view(frames, bins)
        ideal = separator.stft(references)  # (C, L, F)
        segments = max(1, round(frames / SEGMENT))
        masks = torch.cat(
            [
                _in_order(self._masks(v, w, len(references)), x, s)
                for v, w, x, s in zip(
                    vectors.tensor_split(segments),
                    weights.tensor_split(segments),
                    spectrum[0].tensor_split(segments),
                    ideal.tensor_split(segments, dim=1),
                    strict=True,
                )
            ],
            dim=1,
        )
        sources = separator.stft.inverse(masks * spectrum, mixture.shape[-1])
        return Separation(sources, masks, vectors)

    def _masks(self, vectors: Tensor, weights: Tensor, num_sources: int) -> Tensor:
        """vectors (L, F, K), weights (L, F) -> masks (C, L, F) in no particular order."""
        points = vectors.flatten(0, 1)[None]  # (1, L*F, K)
        centroids = self.separator.centroids(points, num_sources, weights.reshape(1, -1))
        masks = nearest_masks(points, centroids, self.separator.model.settings.masks)
        return masks[0].view(num_sources, *weights.shape)


def _in_order(masks: Tensor, spectrum: Tensor, sources: Tensor) -> Tensor:
    """Masks (C, L, F) in the order in which what they let through is nearest to the sources.

    spectrum (L, F), sources (C, L, F). The least squared error over all orders: the energies do
    not depend on the order, so the correlations decide.
    """
    from scipy.optimize import linear_sum_assignment

    through = masks * spectrum
    agreement = torch.einsum("clf,dlf->cd", sources.conj(), through).real  # (C, C)
    return masks[linear_sum_assignment(agreement.cpu().numpy(), maximize=True)[1].tolist()]
