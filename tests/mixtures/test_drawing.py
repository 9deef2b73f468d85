from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpcl.errors import InputError
from dpcl.mixtures.corpus import Corpus, Utterance
from dpcl.mixtures.drawing import draw_list
from dpcl.mixtures.lists import read_list, write_list
from dpcl.mixtures.render import render_mixture

ROOT = Path("root")


def corpus_of(speakers: dict[str, tuple[str, int]], seconds: float = 9.0) -> Corpus:
    """Speakers "corpus/name" with a gender and a number of recordings; every text differs."""
    utterances = []
    for key, (gender, count) in speakers.items():
        for k in range(count):
            corpus, name = key.split("/")
            path = ROOT / key / f"{k}.wav"
            utterances.append(Utterance(path, name, corpus, gender, seconds, "test", f"{key}{k}"))
    return Corpus(ROOT, tuple(utterances))


TWO = corpus_of(
    {f"x/{k}": ("f" if k % 2 else "m", 3) for k in range(6)}
    | {f"y/{k}": ("f" if k % 3 else "m", 2) for k in range(10)}
)


def test_a_list_depends_on_its_seed_and_not_on_the_order_of_the_index() -> None:
    rows = draw_list(TWO, "t", 5, 40, 2)
    assert rows == draw_list(Corpus(ROOT, TWO.utterances[::-1]), "t", 5, 40, 2)
    assert rows != draw_list(TWO, "t", 6, 40, 2)
    assert [rows[0].id, rows[39].id] == ["t-0001", "t-0040"]
    assert {(row.list, row.seed) for row in rows} == {("t", 5)}


@pytest.mark.parametrize("num_sources", [2, 3])
def test_speakers_recordings_and_conditions_are_evenly_used(num_sources: int) -> None:
    rows = draw_list(TWO, "t", 0, 120, num_sources)
    assert Counter(row.corpora for row in rows) == {"within": 60, "across": 60}
    speakers = Counter("/".join(s.paths[0].split("/")[:2]) for row in rows for s in row.sources)
    recordings = Counter(s.paths[0] for row in rows for s in row.sources)
    for corpus, people in (("x/", 6), ("y/", 10)):
        uses = [n for name, n in speakers.items() if name.startswith(corpus)]
        assert len(uses) == people and max(uses) - min(uses) <= 1
        uses = [n for name, n in recordings.items() if name.startswith(corpus)]
        assert max(uses) - min(uses) <= 1
    within = Counter(r.sources[0].paths[0][0] for r in rows if r.corpora == "within")
    assert within == {"x": 30, "y": 30}


def test_conditions_are_those_of_the_talkers() -> None:
    genders = {u.path.parent.as_posix().removeprefix("root/"): u.gender for u in TWO.utterances}
    for row in draw_list(TWO, "t", 0, 60, 3):
        keys = ["/".join(source.paths[0].split("/")[:2]) for source in row.sources]
        assert len(set(keys)) == 3
        assert row.corpora == ("within" if len({key[0] for key in keys}) == 1 else "across")
        assert row.genders == ("same" if len({genders[k] for k in keys}) == 1 else "different")
    unknown = corpus_of({"x/ann": ("f", 1), "x/bob": ("", 1)})
    assert {row.genders for row in draw_list(unknown, "t", 0, 3, 2)} == {"unknown"}


def test_lengths_and_levels_are_uniform_within_their_bounds() -> None:
    rows = draw_list(TWO, "t", 0, 300, 2, seconds=(1.0, 3.0), relative_level_db=4.0)
    lengths = [row.seconds for row in rows]
    assert 1.0 <= min(lengths) < 1.05 and 2.95 < max(lengths) <= 3.0
    assert all(length == round(length, 3) for length in lengths)
    relative = [row.sources[0].gain_db - row.sources[1].gain_db for row in rows]
    assert -4.0 <= min(relative) < -3.8 and 3.8 < max(relative) <= 4.0
    starts = [source.start for row in rows for source in row.sources]
    assert min(starts) < 0.3 and max(starts) > 6.0


def test_short_recordings_are_joined_and_repeated_only_when_there_are_no_more() -> None:
    corpus = corpus_of({"x/ann": ("f", 3), "x/bob": ("m", 8)}, seconds=1.2)
    for row in draw_list(corpus, "t", 0, 30, 2):
        for source in row.sources:
            assert source.start + row.seconds <= 1.2 * len(source.paths)
            assert source.start < 1.2  # what lies before the cut is not joined at all
            distinct = len(set(source.paths))
            assert distinct == min(len(source.paths), 3 if source.speaker == "ann" else 8)


def test_no_text_is_said_by_two_talkers_of_a_mixture() -> None:
    utterances = [
        replace(u, text=u.path.stem)
        for u in corpus_of({"x/a": ("f", 4), "x/b": ("f", 4)}).utterances
    ]
    for row in draw_list(Corpus(ROOT, tuple(utterances)), "t", 0, 50, 2):
        first, second = ({Path(p).stem for p in source.paths} for source in row.sources)
        assert not first & second
    same = [replace(u, text="hello") for u in utterances]
    with pytest.raises(InputError, match="different texts"):
        draw_list(Corpus(ROOT, tuple(same)), "t", 0, 1, 2)


def test_one_corpus_is_all_within_and_two_of_one_speaker_all_across() -> None:
    one = corpus_of({"x/a": ("f", 1), "x/b": ("f", 1)})
    assert {row.corpora for row in draw_list(one, "t", 0, 4, 2)} == {"within"}
    two = corpus_of({"x/a": ("f", 1), "y/a": ("f", 1)})
    assert {row.corpora for row in draw_list(two, "t", 0, 4, 2)} == {"across"}


def test_what_cannot_be_drawn_is_told() -> None:
    with pytest.raises(InputError, match="2 speakers, too few for mixtures of 3"):
        draw_list(corpus_of({"x/a": ("f", 1), "x/b": ("f", 1)}), "t", 0, 1, 3)
    with pytest.raises(InputError, match="cannot last 8 to 4 s"):
        draw_list(TWO, "t", 0, 1, 2, seconds=(8, 4))
    with pytest.raises(InputError, match="cannot name a list"):
        draw_list(TWO, "../t", 0, 1, 2)
    with pytest.raises(InputError, match="outside elsewhere"):
        draw_list(Corpus(Path("elsewhere"), TWO.utterances), "t", 0, 1, 2)


def test_a_drawn_list_survives_its_file_and_can_be_rendered(
    make_corpus: Any, tmp_path: Path
) -> None:
    corpus = make_corpus(
        [("x", f"s{k}", "f", [(f"{k}{n}", 0.514 + 0.11 * n) for n in range(3)]) for k in range(4)]
    )
    rows = draw_list(corpus, "t", 0, 20, 3, seconds=(0.3, 2.5))
    write_list(rows, tmp_path / "t.csv")
    assert read_list(tmp_path / "t.csv") == rows
    for row in rows:
        mixture, sources = render_mixture(row, corpus.root, 8000)
        assert sources.shape == (3, round(row.seconds * 8000)) and mixture.any()


def test_lengths_that_the_index_rounds_up_are_not_relied_on(make_corpus: Any) -> None:
    corpus = make_corpus(
        [("x", f"s{k}", "f", [(f"{k}{n}", 0.516) for n in range(3)]) for k in range(2)]
    )
    assert {u.seconds for u in corpus.utterances} == {0.52}
    for row in draw_list(corpus, "t", 0, 5, 2, seconds=(0.52, 0.52)):
        render_mixture(row, corpus.root, 8000)


def test_one_speaker_is_mixed_with_himself_in_other_words() -> None:
    rows = draw_list(TWO, "t", 0, 60, 2, seconds=(12.0, 16.0), same_speaker=True)
    uses: Counter[str] = Counter()
    for row in rows:
        first, second = row.sources
        assert first.speaker == second.speaker
        assert not set(first.paths) & set(second.paths)
        assert (row.corpora, row.genders) == ("within", "same")
        uses[first.paths[0].rsplit("/", 1)[0]] += 1
    assert Counter(path.split("/")[0] for path in uses.elements()) == {"x": 30, "y": 30}
    assert {count for path, count in uses.items() if path.startswith("x/")} == {5}


def test_who_has_one_text_cannot_be_mixed_with_himself() -> None:
    corpus = corpus_of({"x/a": ("f", 1), "x/b": ("m", 2)})
    rows = draw_list(corpus, "t", 0, 5, 2, same_speaker=True)
    assert {source.speaker for row in rows for source in row.sources} == {"b"}
    said_alike = tuple(replace(u, text="hello") for u in corpus.utterances)
    with pytest.raises(InputError, match="no speaker of the corpus has 2 recordings of different"):
        draw_list(Corpus(ROOT, said_alike), "t", 0, 5, 2, same_speaker=True)


def test_some_speakers_of_a_corpus() -> None:
    assert {u.speaker for u in TWO.of_speakers(["1", "3"]).utterances} == {"1", "3"}
    with pytest.raises(InputError, match="speaker 77"):
        TWO.of_speakers(["1", "77"])
