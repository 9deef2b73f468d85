"""Windows cover a recording once, and joined again they are what they were cut from."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpcl.signal.stft import Windows

windows = st.builds(
    lambda frames, longest, share: Windows(frames, longest, int(share * (longest - 1))),
    st.integers(1, 300),
    st.integers(2, 60),
    st.floats(0, 0.6),
)


@given(windows)
@settings(deadline=None)
def test_windows_are_equal_and_overlap_from_the_first_frame_to_the_last(windows: Windows) -> None:
    starts = windows.starts
    assert starts[0] == 0
    assert starts[-1] + windows.length == windows.frames
    assert windows.length <= windows.longest
    assert all(a + windows.length - b >= windows.overlap for a, b in pairwise(starts))
    assert windows.count == 1 or windows.frames > windows.longest


@given(windows, st.lists(st.integers(0, 90), max_size=8), st.integers(1, 5))
@settings(deadline=None)
def test_cut_and_joined_again(windows: Windows, blocks: list[int], batch: int) -> None:
    frames = torch.randn(windows.frames, 3, generator=torch.Generator().manual_seed(0))
    edges = sorted({0, windows.frames, *(b for b in blocks if b < windows.frames)})
    pieces = iter([frames[a:b] for a, b in pairwise(edges)])
    gathered = list(windows.gather(pieces, batch))
    assert max(map(len, gathered)) <= batch
    cut = torch.cat(gathered)  # (windows, length, 3)
    for start, window in zip(windows.starts, cut, strict=True):
        assert torch.equal(window, frames[start : start + windows.length])
    joined = torch.cat(list(windows.join(iter(cut[:, None]))), dim=1)
    torch.testing.assert_close(joined, frames[None])


def test_cross_fades_have_no_step() -> None:
    """Two windows that disagree: the joined value goes from one to the other in small steps."""
    windows = Windows(18, 10, 2)
    assert windows.starts == [0, 8]
    low, high = torch.zeros(1, 10, 1), torch.ones(1, 10, 1)
    joined = torch.cat(list(windows.join(iter([low, high]))), dim=1).flatten()
    assert joined[:8].tolist() == [0] * 8
    assert joined[8:10].tolist() == [float(torch.tensor(1 / 3)), float(torch.tensor(2 / 3))]
    assert joined[10:].tolist() == [1] * 8
