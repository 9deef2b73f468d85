from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dpcl.errors import InputError
from dpcl.mixtures.corpus import PackedCorpus, pack_corpus
from dpcl.mixtures.stream import TrainingMixtures
from dpcl.signal.level import active_level_db

# Rows 0 to 2 of the corpus, whose pitches tell them apart, are Ann's, and so on.
SPEAKERS = [
    ("x", "ann", "f", [("a", 2.0), ("b", 2.0), ("c", 2.0)]),
    ("x", "bob", "m", [("a", 2.0), ("d", 2.0)]),
    ("y", "ann", "f", [("b", 2.0), ("e", 2.0)]),  # another Ann
    ("y", "eve", "f", [("a", 2.0)]),
]
SPEAKER_OF = [0, 0, 0, 1, 1, 2, 2, 3]
TEXT_OF = "abcadbea"


@pytest.fixture
def pack(make_corpus: Any, tmp_path: Path) -> Callable[[Any], PackedCorpus]:
    return lambda speakers: pack_corpus(make_corpus(speakers), 8000, tmp_path / "cache")


def heard(source: torch.Tensor) -> set[int]:
    """The rows of the corpus whose tones are in a source."""
    spectrum = torch.fft.rfft(source * torch.hann_window(len(source))).abs()
    hertz = torch.fft.rfftfreq(len(source), 1 / 8000)
    return {
        row
        for row in range(40)
        if spectrum[(hertz - 300 - 50 * row).abs() < 10].max() > 0.05 * spectrum.max()
    }


def test_items_do_not_depend_on_order_or_number_of_workers(pack: Any) -> None:
    packed = pack(SPEAKERS)
    data = TrainingMixtures(packed, 2, 4000, items=12, seed=3, speed=0.1)
    backwards = torch.stack([data[i] for i in reversed(range(12))]).flip(0)
    again = TrainingMixtures(packed, 2, 4000, items=12, seed=3, speed=0.1)
    loaded = torch.cat(list(DataLoader(again, batch_size=4, num_workers=2)))
    assert torch.equal(backwards, loaded)
    assert loaded.shape == (12, 2, 4000) and loaded.dtype == torch.float32


def test_epochs_seeds_and_items_differ(pack: Any) -> None:
    packed = pack(SPEAKERS)
    data = TrainingMixtures(packed, 2, 4000, items=3)
    drawn = [data[0], data[1]]
    data.set_epoch(1)
    drawn += [data[0], data[1], TrainingMixtures(packed, 2, 4000, items=3, seed=1)[0]]
    for i in range(5):
        for j in range(i):
            assert not torch.equal(drawn[i], drawn[j])
    data.set_epoch(0)
    assert torch.equal(data[0], drawn[0])


def test_a_new_epoch_reaches_workers_that_are_already_running(pack: Any) -> None:
    data = TrainingMixtures(pack(SPEAKERS), 2, 1000, items=2)
    loader = DataLoader(data, num_workers=1, persistent_workers=True)
    first = torch.cat(list(loader))
    data.set_epoch(1)
    second = torch.cat(list(loader))
    assert not torch.equal(first, second)
    assert torch.equal(second, torch.stack([data[0], data[1]]))


@pytest.mark.parametrize("num_sources", [2, 3])
def test_talkers_of_a_mixture_are_different_people_with_different_texts(
    pack: Any, num_sources: int
) -> None:
    data = TrainingMixtures(pack(SPEAKERS), num_sources, 8000, items=60)
    for sources in data:
        rows = [heard(source) for source in sources]
        assert all(len({SPEAKER_OF[row] for row in talker}) == 1 for talker in rows)
        assert len({SPEAKER_OF[next(iter(talker))] for talker in rows}) == num_sources
        texts = [{TEXT_OF[row] for row in talker} for talker in rows]
        assert sum(map(len, texts)) == len(set.union(*texts))


@pytest.mark.parametrize(("within", "expected"), [(0.0, 0), (1.0, 80), (0.5, 40)])
def test_talkers_come_from_one_corpus_as_often_as_asked(
    pack: Any, within: float, expected: int
) -> None:
    data = TrainingMixtures(pack(SPEAKERS), 2, 4000, items=80, within=within)
    corpora = [{SPEAKER_OF[next(iter(heard(source)))] // 2 for source in s} for s in data]
    together = sum(len(corpus) == 1 for corpus in corpora)
    assert together == expected if within in (0.0, 1.0) else 25 < together < 55


def test_short_utterances_of_one_speaker_are_joined_and_then_repeated(pack: Any) -> None:
    speakers = [
        ("x", "ann", "f", [("a", 0.5), ("b", 0.5), ("c", 0.5)]),
        ("x", "bob", "m", [("d", 0.4)]),
    ]
    data = TrainingMixtures(pack(speakers), 2, 10_000, items=20)
    for sources in data:
        rows = sorted((heard(source) for source in sources), key=len)
        assert rows == [{3}, {0, 1, 2}]
        # No part is left silent, and pieces recorded at different levels are levelled.
        loudness = sources.reshape(2, 20, 500).square().mean(-1).sqrt()
        assert (loudness.amin(-1) > 0.6 * loudness.amax(-1)).all()


def test_segments_start_anywhere_in_a_long_utterance(pack: Any) -> None:
    packed = pack([("x", "ann", "f", [("a", 3.0)]), ("x", "bob", "m", [("b", 3.0)])])
    ramp = np.linspace(0.0, 29_000.0, 24_000).astype(np.int16)
    packed.__dict__["samples"] = np.concatenate([ramp, -ramp])
    data = TrainingMixtures(packed, 2, 8000, items=100)
    # On a ramp the first sample over the last tells where the segment begins.
    starts = [float(s[0, 0] / s[0, -1]) for s in data]
    assert min(starts) < 0.2 and max(starts) > 0.62


def test_levels_differ_by_at_most_the_relative_level_and_nothing_clips(pack: Any) -> None:
    data = TrainingMixtures(pack(SPEAKERS), 2, 8000, items=60, relative_level_db=6.0)
    relative = []
    for sources in data:
        first, second = (active_level_db(source.numpy(), 8000) for source in sources)
        relative.append(first - second)
        peak = max(sources.abs().max(), sources.sum(0).abs().max())
        assert float(peak) == pytest.approx(0.9, abs=1e-5)
    assert -6.1 < min(relative) < -4.5 and 4.5 < max(relative) < 6.1


def test_speed_changes_the_pitch_within_its_bounds_and_never_the_length(pack: Any) -> None:
    packed = pack([("x", "ann", "f", [("a", 2.0)]), ("x", "bob", "m", [("b", 2.0)])])
    data = TrainingMixtures(packed, 2, 8000, items=40, speed=0.1)
    pitches = []
    for sources in data:
        assert sources.shape == (2, 8000)
        pitches += [float(torch.fft.rfft(source).abs().argmax()) for source in sources]
    factors = [p / min((300, 350), key=lambda f: abs(p - f)) for p in pitches]
    ann = [f for p, f in zip(pitches, factors, strict=True) if p < 315]  # Bob's are 315 to 385
    assert 0.89 <= min(ann) < 0.94 and max(ann) > 1.03
    assert max(pitches) > 370 and max(pitches) <= 386


def test_a_speaker_with_one_short_utterance_does_not_dominate(pack: Any) -> None:
    speakers = [("x", f"s{k}", "f", [(f"t{k}", 0.5)]) for k in range(6)]
    speakers += [("x", name, "m", [(name, 12.0)]) for name in ("ann", "bob")]
    data = TrainingMixtures(pack(speakers), 2, 2000, items=150)
    counts = Counter(min(heard(source)) for s in data for source in s)
    assert counts[6] + counts[7] > 0.8 * sum(counts.values())
    assert set(counts) == set(range(8))


def test_one_corpus_is_enough_and_a_corpus_of_one_speaker_can_still_be_paired(pack: Any) -> None:
    alone = [("x", "ann", "f", [("a", 2.0)]), ("y", "bob", "m", [("b", 2.0)])]
    for within in (0.0, 1.0):
        sources = TrainingMixtures(pack(alone), 2, 4000, items=1, within=within)[0]
        assert {min(heard(source)) for source in sources} == {0, 1}


def test_too_few_speakers_or_texts_are_told(pack: Any) -> None:
    with pytest.raises(InputError, match="4 speakers, too few for mixtures of 5"):
        TrainingMixtures(pack(SPEAKERS), 5, 4000, items=1)
    same = [("x", "ann", "f", [("a", 2.0)]), ("x", "bob", "m", [("a", 2.0)])]
    with pytest.raises(InputError, match="different texts"):
        TrainingMixtures(pack(same), 2, 4000, items=1)[0]


def test_an_epoch_ends(pack: Any) -> None:
    data = TrainingMixtures(pack(SPEAKERS), 1, 100, items=5)
    assert len(data) == len(list(data)) == 5
    with pytest.raises(IndexError):
        data[-1]


def test_one_speaker_is_mixed_with_himself_in_other_words(pack: Any) -> None:
    data = TrainingMixtures(pack(SPEAKERS), 2, 20000, items=40, same_speaker=True)
    speakers: Counter[int] = Counter()
    for item in range(len(data)):
        first, second = map(heard, data[item])
        assert not {TEXT_OF[row] for row in first} & {TEXT_OF[row] for row in second}
        (speaker,) = {SPEAKER_OF[row] for row in first | second}
        speakers[speaker] += 1
    assert set(speakers) == {0, 1, 2}  # Eve has one recording


def test_nobody_to_be_mixed_with_himself_is_told(pack: Any) -> None:
    packed = pack([("x", "ann", "f", [("a", 2.0), ("a", 2.0)]), ("x", "bob", "m", [("b", 2.0)])])
    with pytest.raises(InputError, match="no speaker of the corpus has 2 recordings"):
        TrainingMixtures(packed, 2, 4000, items=1, same_speaker=True)
