"""SI-SDR improvement as a metric of torchmetrics, for training loops of others."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from dpcl.errors import InputError
from dpcl.evaluation.metrics import best_permutation, si_sdr


class SISDRImprovement(Metric):
    """Mean improvement of the SI-SDR over the mixture in dB, in the best order of the estimates.

    Silent references are not averaged. With fewer estimates than references, a reference without an
    estimate is not averaged either.

    Example:
        >>> from dpcl import SISDRImprovement
        >>> references = torch.randn(4, 2, 8000, generator=torch.Generator().manual_seed(0))
        >>> mixture = references.sum(1)
        >>> metric = SISDRImprovement()
        >>> metric.update(mixture[:, None].expand(-1, 2, -1), references, mixture)
        >>> round(metric.compute().item(), 3)
        0.0

    Source: Le Roux et al. 2019, eq. 3; assignment of Kuhn 1955.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, estimates: Tensor, references: Tensor, mixture: Tensor) -> None:
        """Add a batch.

        Args:
            estimates: (B, E, T), in any order.
            references: (B, C, T).
            mixture: (B, T).

        Raises:
            InputError: The shapes do not agree.
        """
        batch, length = mixture.shape[0], mixture.shape[-1]
        shapes = estimates.shape, references.shape
        if mixture.ndim != 2 or any(
            len(shape) != 3 or shape[0] != batch or shape[-1] != length for shape in shapes
        ):
            raise InputError(
                f"estimates {tuple(shapes[0])}, references {tuple(shapes[1])} and mixture"
                f" {tuple(mixture.shape)} do not agree; give (B, E, T), (B, C, T) and (B, T)"
            )
        order = best_permutation(estimates, references)  # (B, C), -1 for none
        index = order.clamp_min(0)[..., None].expand(-1, -1, length)
        improvement = si_sdr(estimates.gather(1, index), references)
        improvement = improvement - si_sdr(mixture[:, None], references)  # (B, C)
        scored = (order >= 0) & ~improvement.isnan()
        self.total += improvement[scored].sum()
        self.count += scored.sum()

    def compute(self) -> Tensor:
        """Return the mean in dB; NaN before the first reference."""
        return (self.total / self.count).float()
