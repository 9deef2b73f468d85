"""Kinds of mixtures: what may be asked, and what is then drawn for lists and for training."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError

from dpcl.errors import InputError
from dpcl.mixtures.corpus import PackedCorpus, pack_corpus, read_corpus
from dpcl.mixtures.drawing import Kinds, draw_list
from dpcl.mixtures.lists import read_list, write_list
from dpcl.mixtures.render import render_mixture
from dpcl.mixtures.rows import MixtureRow, NoiseRow, SourceRow
from dpcl.mixtures.stream import TrainingMixtures

REPOSITORY = Path(__file__).resolve().parents[2]

# Row by row of the corpus: 0 to 3 speech, 4 to 7 noises, 8 and 9 a class that is in no group.
SPEAKERS = [
    ("talk", "ann", "f", [("a", 3.0), ("b", 3.0)]),
    ("talk", "bob", "m", [("c", 3.0), ("d", 3.0)]),
    ("noise", "rain", "", [("e", 3.0), ("f", 3.0)]),
    ("noise", "bell", "", [("g", 0.3)]),
    ("noise", "horn", "", [("h", 3.0)]),
    ("noise", "kept", "", [("i", 3.0), ("j", 3.0)]),
]
CLASS_OF = ["ann", "ann", "bob", "bob", "rain", "rain", "bell", "horn", "kept", "kept"]
KINDS = Kinds.model_validate(
    {
        "groups": {"speech": ["talk"], "sound": ["!noise/kept", "noise/rain", "noise/[bhk]*"]},
        "mixtures": [
            {"of": ["speech", "sound"], "share": 2},
            {"of": ["sound", "sound"], "share": 1},
            {"of": ["sound", "sound"], "share": 1, "same": True},
        ],
    }
)


@pytest.fixture
def packed(make_corpus: Any, tmp_path: Path) -> PackedCorpus:
    return pack_corpus(make_corpus(SPEAKERS), 8000, tmp_path / "cache")


def heard(source: torch.Tensor) -> list[str]:
    """The class of every recording in a source, by its pitch (see make_corpus)."""
    spectrum = torch.fft.rfft(source * torch.hann_window(len(source))).abs()
    hertz = torch.fft.rfftfreq(len(source), 1 / 8000)
    level = [float(spectrum[(hertz - 300 - 50 * row).abs() < 10].max()) for row in range(10)]
    return [CLASS_OF[row] for row in range(10) if level[row] > 0.05 * max(level)]


def test_the_training_stream_draws_kinds_by_their_shares(packed: PackedCorpus) -> None:
    data = TrainingMixtures(packed, 2, 8000, items=200, kinds=KINDS)
    drawn: Counter[str] = Counter()
    for sources in data:
        first, second = ({*heard(source)} for source in sources)
        assert len(first) == len(second) == 1
        (one,), (other,) = first, second
        assert "kept" not in (one, other)
        assert other in ("rain", "bell", "horn")
        drawn["speech" if one in ("ann", "bob") else "same" if one == other else "sounds"] += 1
    assert 80 < drawn["speech"] < 120 and 30 < drawn["same"] < 70 and 30 < drawn["sounds"] < 70


def test_two_of_one_class_share_no_recording(packed: PackedCorpus) -> None:
    same = KINDS.model_copy(update={"mixtures": KINDS.mixtures[2:]})
    for sources in TrainingMixtures(packed, 2, 30_000, items=10, kinds=same):
        spectra = torch.fft.rfft(sources * torch.hann_window(30_000)).abs()
        pitches = spectra.argmax(-1) * 8000 / 30_000
        assert sorted(pitches.round().tolist()) == [500, 550]  # rain's first, rain's second


def test_kinds_are_drawn_whatever_the_order_and_the_number_of_workers(packed: Any) -> None:
    kinds = KINDS.model_copy(update={"pause": 0.4})
    data = TrainingMixtures(packed, 2, 4000, items=8, seed=3, speed=0.1, kinds=kinds)
    backwards = [data[i] for i in reversed(range(8))][::-1]
    assert all(torch.equal(x, y) for x, y in zip(data, backwards, strict=True))


def test_pauses_part_the_sounds_that_are_joined(packed: PackedCorpus) -> None:
    only = {"groups": {"s": ["talk"], "b": ["noise/bell"]}, "mixtures": [{"of": ["s", "b"]}]}

    def silent(pause: float) -> list[float]:
        kinds = Kinds.model_validate({**only, "pause": pause})
        data = TrainingMixtures(packed, 2, 24_000, items=20, kinds=kinds)
        return [float((s[1].reshape(-1, 80).abs().amax(-1) == 0).float().mean()) for s in data]

    assert max(silent(0.0)) == 0.0
    shares = silent(0.9)  # of 0.3 s of sound and 0 to 0.9 s of silence in turn
    assert max(shares) > 0.6 and max(shares) < 0.85 and np.ptp(shares) > 0.3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mixtures": [{"of": ["speech", "music"]}]}, "no group music"),
        ({"mixtures": [{"of": ["speech", "sound"], "same": True}]}, "cannot be the same class"),
        ({"groups": {"a b": ["talk"], "speech": ["x"], "sound": ["x"]}}, "cannot be called"),
        ({"mixtures": []}, "at least 1"),
        ({"pause": -1}, "greater than or equal to 0"),
        ({"group": {}}, "Extra inputs"),
    ],
)
def test_what_cannot_be_drawn_is_told(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Kinds.model_validate({**KINDS.model_dump(), **change})


def test_what_the_corpus_lacks_is_told(make_corpus: Any, packed: PackedCorpus) -> None:
    def asked(group: str, same: bool) -> Kinds:
        mixtures = [{"of": ["x", "x"], "same": same}]
        return Kinds.model_validate({"groups": {"x": [group]}, "mixtures": mixtures})

    corpus = make_corpus(SPEAKERS)
    for group, same, told in [
        ("noise/hail", False, "no noise/hail for the group x"),
        ("noise/bell", True, "no class of the group x has 2"),
    ]:
        with pytest.raises(InputError, match=told):
            TrainingMixtures(packed, 2, 4000, items=1, kinds=asked(group, same))
        with pytest.raises(InputError, match=told):
            draw_list(corpus, "t", 0, 1, 2, kinds=asked(group, same))
    with pytest.raises(InputError, match="omit same_speaker"):
        draw_list(corpus, "t", 0, 1, 2, same_speaker=True, kinds=KINDS)
    with pytest.raises(InputError, match="too few"):
        draw_list(corpus, "t", 0, 1, 2, kinds=asked("noise/bell", False))


def test_a_list_holds_its_kinds_in_their_shares(make_corpus: Any, tmp_path: Path) -> None:
    kinds = KINDS.model_copy(update={"pause": 0.5})
    rows = draw_list(make_corpus(SPEAKERS), "t", 0, 40, 2, (1.0, 4.0), kinds=kinds)
    assert Counter(row.kind for row in rows) == {
        "speech+sound": 20,
        "sound+sound": 10,
        "sound+sound:same": 10,
    }
    for row in rows:
        first, second = row.sources
        assert "kept" not in (first.speaker, second.speaker)
        assert not {*first.paths} & {*second.paths}
        assert (first.speaker == second.speaker) == row.kind.endswith(":same")
        assert (first.group == "speech") == (first.speaker in ("ann", "bob"))
        assert min(first.pause, second.pause) >= 0 and max(first.pause, second.pause) <= 0.5
    uses = Counter(s.speaker for row in rows for s in row.sources if s.group == "sound")
    assert uses["bell"] - uses["horn"] in (-1, 0, 1)  # rain is the only class that can be doubled
    noisy = [replace(rows[0], noise=NoiseRow("noise/kept/0.wav", 0.0, 6.0)), *rows[1:]]
    for written in (rows, noisy):
        write_list(written, tmp_path / "t.csv")
        assert read_list(tmp_path / "t.csv") == written
    for row in rows[:8]:
        render_mixture(row, tmp_path / "corpus", 8000)  # no source ends too early


def test_of_kinds_of_several_numbers_of_sources_a_list_has_those_of_one(make_corpus: Any) -> None:
    corpus = make_corpus(SPEAKERS)
    alone = [{"of": ["sound"]}, {"of": ["speech"]}, {"of": ["speech", "sound", "sound"]}]
    more = [*(kind.model_dump() for kind in KINDS.mixtures), *alone]
    kinds = Kinds.model_validate({**KINDS.model_dump(), "mixtures": more})
    assert (kinds.numbers, KINDS.numbers) == ([1, 2, 3], [2])
    two = draw_list(corpus, "t", 0, 8, 2, (1.0, 2.0), kinds=kinds)
    assert two == draw_list(corpus, "t", 0, 8, 2, (1.0, 2.0), kinds=KINDS)
    for number, names in (1, {"sound": 2, "speech": 2}), (3, {"speech+sound+sound": 4}):
        rows = draw_list(corpus, "t", 0, 4, number, (1.0, 2.0), kinds=kinds)
        assert Counter(row.kind for row in rows) == names
        assert {len(row.sources) for row in rows} == {number}
    with pytest.raises(InputError, match="1 or 2 or 3 sources, not of 4"):
        draw_list(corpus, "t", 0, 1, 4, kinds=kinds)


def test_a_list_is_rendered_with_its_pauses(make_corpus: Any, tmp_path: Path) -> None:
    make_corpus(SPEAKERS)
    bell = SourceRow("bell", ("noise/bell/0.wav",) * 3, 0.1, 0.0, 0.2, "sound")
    rain = SourceRow("rain", ("noise/rain/0.wav",), 0.0, 0.0, 0.0, "sound")
    row = MixtureRow("t-1", "t", 0, 1.0, "within", "unknown", (bell, rain))
    _, sources = render_mixture(row, tmp_path / "corpus", 8000)
    sounding = np.abs(sources[0]).reshape(20, 400).max(-1) > 0.01  # in parts of 50 ms
    # 0.2 s are left of the first, then 0.2 s of silence and 0.3 s of sound in turn
    expected = [1] * 4 + [0] * 4 + [1] * 6 + [0] * 4 + [1] * 2
    assert sounding.tolist() == [bool(x) for x in expected]
    assert row.kind == "sound+sound"


@pytest.mark.parametrize(
    ("name", "kinds_of", "split", "count", "number"),
    [
        ("open-general", "open-general", "test", 500, 2),
        ("open-general1", "open-general", "test", 100, 1),
        ("open-general3", "open-general", "test", 100, 3),
        ("valid-general", "valid-general", "valid", 200, 2),
    ],
)
def test_the_committed_lists_are_drawn_again_and_hold_no_class_that_is_trained_on(
    name: str,
    kinds_of: str,
    split: str,
    count: int,
    number: int,
    shared_audio: Path,
    tmp_path: Path,
) -> None:
    lists = REPOSITORY / "lists"
    path = lists / f"{name}.csv"
    kinds = Kinds.model_validate(yaml.safe_load((lists / f"{kinds_of}.yaml").read_text()))
    corpus = read_corpus(shared_audio, split)
    write_list(draw_list(corpus, name, 0, count, number, kinds=kinds), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()

    recipe = yaml.safe_load((REPOSITORY / "recipes" / "general.yaml").read_text())
    trained = Kinds.model_validate(recipe["data"]["kinds"]).groups["environment"]
    names = {entry.split("/")[1] for entry in trained}  # of esc10
    names |= {u.speaker for u in read_corpus(shared_audio, "train", ["berklee"]).utterances}
    sounds = [s for row in read_list(path) for s in row.sources if s.group != "speech"]
    assert not names & {source.speaker for source in sounds}
