"""Choose float32, bfloat16 or int8 for inference by timing a matrix product on this CPU."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import cache
from time import perf_counter
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional


@cache
def expect_forks() -> None:
    """Let processes that are forked from now on use one thread of torch.

    They have no copy of the threads that torch has begun, and would wait for them for ever. A
    process that has not begun any, such as Python's fork server, does not call this function.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@contextmanager
def single_thread() -> Iterator[int]:
    """Run the torch operations of this thread without helper threads; yield the number before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


Module = TypeVar("Module", bound=nn.Module)
Precision = Literal["float32", "bfloat16", "int8"]
# Ratio of times by which another precision must win. Between similar times the more exact one runs.
MARGIN = 1.2
# Input sizes of a bfloat16 LSTM are padded to a multiple of this. Where the processor multiplies
# bfloat16 in tiles, torch took 26 us a frame for 257 values and 6 us for 264.
MULTIPLE = 8
PRODUCT = 256, 512, 1024  # rows, inner size and columns of the timed product, as in the networks


@cache
def fastest(integers: bool = True) -> Precision:
    """Return the precision in which matrix products of the networks' size take the least time.

    It is measured, because flags do not show it: processors with only AVX-512 bfloat16 took from
    half to twice the time of float32. Takes some milliseconds, once per process.

    Args:
        integers: int8 is among the choices.
    """
    best: Precision = "float32"
    with single_thread():
        seconds = _seconds(best)
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            best, seconds = _quicker("bfloat16", best, seconds)
        with suppress(ImportError, AttributeError, RuntimeError):  # a later torch may drop it
            if integers and torch.backends.quantized.engine in ("x86", "fbgemm", "onednn"):
                best, seconds = _quicker("int8", best, seconds)
    return best


def _quicker(other: Precision, best: Precision, seconds: float) -> tuple[Precision, float]:
    """Return the other precision if it wins by MARGIN, else the best one; and its time in s."""
    time = _seconds(other)
    return (other, time) if MARGIN * time < seconds else (best, seconds)


def _seconds(precision: Precision) -> float:
    """Return the least time of five products, in s."""
    product = _product(precision)
    times = []
    for _ in range(5):
        started = perf_counter()
        product()
        times.append(perf_counter() - started)
    return min(times)


def _product(precision: Precision) -> Callable[[], Tensor]:
    """Build a product of size PRODUCT in this precision, ready to call."""
    rows, inner, columns = PRODUCT
    left = torch.ones(rows, inner)
    if precision == "int8":
        layer = in_int8(nn.Sequential(nn.Linear(inner, columns)))
        return lambda: layer(left)
    dtype = getattr(torch, precision)
    halves = left.to(dtype), torch.ones(inner, columns, dtype=dtype)
    return lambda: torch.matmul(*halves)


def in_int8(module: Module) -> Module:
    """Return a copy whose LSTMs and linear layers multiply 8-bit integers; for inference only.

    Weights and, in every call, activations are scaled to the range of 8 bits. Layers of other kinds
    stay unchanged.
    """
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():  # torch warns that it may drop quantisation: see fastest
        warnings.simplefilter("ignore")
        copy = deepcopy(module).eval()
        quantize_dynamic(copy, {nn.LSTM, nn.Linear}, inplace=True)  # type: ignore[no-untyped-call]
    return copy


def in_bfloat16(module: Module) -> Module:
    """Return a copy with weights in bfloat16, for inference only.

    For processors that multiply bfloat16 faster. The inputs of LSTMs are padded with zeros to a
    multiple of MULTIPLE values: see `lstm_input`.
    """
    copy = deepcopy(module).bfloat16().eval()
    for lstm in copy.modules():
        if isinstance(lstm, nn.LSTM) and lstm.input_size % MULTIPLE:
            missing = -lstm.input_size % MULTIPLE
            for name, weight in lstm.named_parameters():
                if name.startswith("weight_ih_l0"):
                    weight.data = functional.pad(weight.data, (0, missing))
            lstm.input_size += missing
    return copy
