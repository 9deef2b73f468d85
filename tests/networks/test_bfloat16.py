"""The choice of bfloat16 by measurement."""

from __future__ import annotations

import pytest
import torch

from dpcl.networks import bfloat16
from dpcl.networks.bfloat16 import bfloat16_pays


@pytest.mark.parametrize(("half", "single", "pays"), [(1.0, 2.0, True), (1.0, 1.1, False)])
def test_it_has_to_win_clearly(
    monkeypatch: pytest.MonkeyPatch, half: float, single: float, pays: bool
) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16")
    times = {torch.bfloat16: half, torch.float32: single}
    monkeypatch.setattr(bfloat16, "_seconds", times.__getitem__)
    bfloat16_pays.cache_clear()
    try:
        assert bfloat16_pays() is pays
    finally:
        bfloat16_pays.cache_clear()


def test_products_take_time() -> None:
    assert 0 < bfloat16._seconds(torch.float32) < 1
