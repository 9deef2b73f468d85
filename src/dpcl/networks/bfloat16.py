"""Whether this processor multiplies faster in bfloat16: measured, as its flags do not say."""

from __future__ import annotations

from functools import cache
from time import perf_counter

import torch

# By how much it must win: where both are about as fast, float32 is exact.
MARGIN = 1.2


@cache
def bfloat16_pays() -> bool:
    """True where products of the size of the networks' take less time in bfloat16.

    Processors with AVX-512 bfloat16 alone took from half to twice the time of float32. Takes some
    milliseconds, once a process.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return MARGIN * _seconds(torch.bfloat16) < _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    """The quickest of some products."""
    left, right = torch.ones(256, 512, dtype=dtype), torch.ones(512, 1024, dtype=dtype)
    times = []
    for _ in range(5):
        started = perf_counter()
        left @ right
        times.append(perf_counter() - started)
    return min(times)
