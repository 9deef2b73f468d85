"""Choose float32, bfloat16 or int8 for inference by timing a matrix product on this CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import cache
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


@contextmanager
def single_thread() -> Iterator[int]:
    """This thread's own operations of torch without helpers; gives how many it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


Precision = Literal["float32", "bfloat16", "int8"]
# By how much another one must win: where two are about as fast, the more exact one runs.
MARGIN = 1.2
# Values of which a bfloat16 LSTM's inputs are to be a multiple: where the processor multiplies
# bfloat16 in tiles, torch took 26 us a frame for 257 values and 6 for 264.
MULTIPLE = 8
PRODUCT = 256, 512, 1024  # rows, inner and columns, of the size of the networks'


@cache
def fastest() -> Precision:
    """The precision in which products of the size of the networks' take the least time.

    Processors with AVX-512 bfloat16 alone took from half to twice the time of float32. Takes some
    milliseconds, once a process.
    """
    best: Precision = "float32"
    with single_thread():
        seconds = _seconds(best)
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            best, seconds = _quicker("bfloat16", best, seconds)
        with suppress(ImportError, AttributeError, RuntimeError):  # torch means to drop it one day
            if torch.backends.quantized.engine in ("x86", "fbgemm", "onednn"):
                best, seconds = _quicker("int8", best, seconds)
    return best


def _quicker(other: Precision, best: Precision, seconds: float) -> tuple[Precision, float]:
    """The other precision if it wins clearly, else the best one; and its time."""
    time = _seconds(other)
    return (other, time) if MARGIN * time < seconds else (best, seconds)


def _seconds(precision: Precision) -> float:
    """The quickest of some products."""
    product = _product(precision)
    times = []
    for _ in range(5):
        started = perf_counter()
        product()
        times.append(perf_counter() - started)
    return min(times)


def _product(precision: Precision) -> Callable[[], Tensor]:
    rows, inner, columns = PRODUCT
    left = torch.ones(rows, inner)
    if precision == "int8":
        layer = in_int8(nn.Sequential(nn.Linear(inner, columns)))
        return lambda: layer(left)
    dtype = getattr(torch, precision)
    halves = left.to(dtype), torch.ones(inner, columns, dtype=dtype)
    return lambda: torch.matmul(*halves)


def in_int8(module: nn.Module) -> nn.Module:
    """A copy whose LSTMs and linear layers multiply 8-bit integers; for use, not for training.

    Weights and, in every call, activations are scaled to what 8 bits hold. Layers of other kinds
    stay as they are.
    """
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():  # that a later torch may not have it: see fastest
        warnings.simplefilter("ignore")
        copy = deepcopy(module).eval()
        quantize_dynamic(copy, {nn.LSTM, nn.Linear}, inplace=True)  # type: ignore[no-untyped-call]
    return copy


def in_bfloat16(module: nn.Module) -> nn.Module:
    """A copy with weights in bfloat16, for processors that multiply them faster; not for training.

    LSTMs take inputs of a multiple of MULTIPLE values there, the last ones zero: see lstm_input.
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


def lstm_input(inputs: Tensor, lstm: nn.LSTM) -> Tensor:
    """inputs (..., I) -> as `lstm` takes them, which may be one of in_bfloat16 or in_int8."""
    inputs = inputs.to(input_dtype(lstm))
    missing = lstm.input_size - inputs.shape[-1]
    return functional.pad(inputs, (0, missing)) if missing else inputs


def input_dtype(layer: nn.Module) -> torch.dtype:
    """What a layer takes: its weights' numbers, or float32 where these are integers."""
    weight = next(layer.parameters(), None)  # layers in int8 have none
    return torch.float32 if weight is None else weight.dtype
