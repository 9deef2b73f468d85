"""Segments end at onsets and where neighbours differ."""

from __future__ import annotations

import torch

from dpcl.separators.classical.casa import level_changes, segments


def test_an_onset_and_an_unlike_neighbour_divide() -> None:
    heard = torch.ones(4, 20, dtype=torch.bool)
    heard[:, 15] = False
    changes = torch.zeros(4, 20)
    changes[:, 8] = 10  # dB a frame
    alike = torch.ones(4, 20)
    alike[1] = 0.5  # between channels 1 and 2
    parts = segments(heard, changes, alike)
    assert torch.all(parts[:, 15] == -1)
    for frames in (slice(0, 8), slice(8, 15), slice(16, 20)):
        assert len(parts[:2, frames].unique()) == 1
        assert len(parts[2:, frames].unique()) == 1
    assert len(parts[heard].unique()) == 6
    assert set(parts[heard].unique().tolist()) == set(range(6))


def test_nothing_heard_is_no_segment() -> None:
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    assert torch.all(segments(nothing, torch.zeros(3, 5), torch.zeros(3, 5)) == -1)


def test_changes_are_in_db_a_frame_at_any_level() -> None:
    power = torch.full((2, 10), 1e-3)
    power[:, 5:] = 1e-1
    changes = level_changes(power)
    assert float(changes.sum(1)[0]) == torch.tensor(20.0)
    assert int(changes[0].argmax()) in (4, 5)
    assert level_changes(torch.zeros(2, 1)).shape == (2, 1)
