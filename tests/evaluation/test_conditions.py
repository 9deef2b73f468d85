from __future__ import annotations

import math

import pytest

from dpcl.evaluation.conditions import interval


def test_an_interval_holds_the_mean_and_leaves_out_what_is_no_number() -> None:
    found = interval([1.0, 2.0, 3.0, math.nan])
    assert found is not None and found.mean == 2.0
    assert 1.0 <= found.low < 2.0 < found.high <= 3.0
    assert found == interval([1.0, 2.0, 3.0])
    assert interval([math.nan]) is None and interval([]) is None
    one = interval([4.0])
    assert one is not None and (one.low, one.high) == (4.0, 4.0)
    constant = interval([-1.5] * 9)
    assert constant is not None and constant.mean == pytest.approx(constant.high)
