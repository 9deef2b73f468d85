"""Sample rate conversion without drift: the length that comes out is always the one to expect."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray


def resample(
    x: NDArray[np.float32], rate_in: int, rate_out: int, length: int | None = None
) -> NDArray[np.float32]:
    """Convert x (..., T) from `rate_in` to `rate_out` Hz with soxr's high quality, phase-linear.

    Returns float32 (..., length); without `length` that is round(T * rate_out / rate_in), so the
    way back with the first length gives as many samples as there were. Equal rates change nothing.
    """
    x = np.asarray(x, dtype=np.float32)
    if length is None:
        length = round(x.shape[-1] * rate_out / rate_in)
    if rate_in != rate_out and x.size:
        flat = x.reshape(-1, x.shape[-1])  # (N, T)
        converted = [soxr.resample(row, rate_in, rate_out, quality="HQ") for row in flat]
        x = np.stack(converted).reshape(*x.shape[:-1], -1)
    missing = length - x.shape[-1]
    if missing > 0:
        return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return x[..., :length]
