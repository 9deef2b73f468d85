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


class BlockResampler:
    """`resample` block by block: however a signal is cut, the same samples come out.

    Call it with the blocks in turn, (T,) or (channels, T), and the last one with `last=True`; each
    call returns what is ready, so the sum of the lengths lags behind until the last.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        self.rate_in = rate_in
        self.rate_out = rate_out
        self._stream: soxr.ResampleStream | None = None
        self._came = 0
        self._went = 0

    def __call__(self, block: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        x = np.asarray(block, dtype=np.float32)
        self._came += x.shape[-1]
        if self.rate_in != self.rate_out:
            x = self._converted(x, last)
        if last:  # soxr rounds halves up, `resample` to even
            length = round(self._came * self.rate_out / self.rate_in) - self._went
            missing = max(0, length - x.shape[-1])
            x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])[..., :length]
        self._went += x.shape[-1]
        return x

    def _converted(self, x: NDArray[np.float32], last: bool) -> NDArray[np.float32]:
        frames = np.ascontiguousarray(np.atleast_2d(x).T)  # (T, channels)
        if self._stream is None:
            self._stream = soxr.ResampleStream(
                self.rate_in, self.rate_out, frames.shape[1], dtype="float32", quality="HQ"
            )
        y: NDArray[np.float32] = self._stream.resample_chunk(frames, last=last).T
        return y[0] if x.ndim == 1 else y
