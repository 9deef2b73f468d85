from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dpcl.errors import InputError
from dpcl.mixtures.corpus import read_corpus
from dpcl.mixtures.drawing import draw_list
from dpcl.mixtures.lists import read_list, write_list
from dpcl.mixtures.render import render_list, render_mixture
from dpcl.mixtures.rows import MixtureRow, SourceRow
from dpcl.signal.level import active_level_db

COMMITTED = Path(__file__).resolve().parents[2] / "lists"

ROW = MixtureRow(
    id="t-0001",
    list="t",
    seed=7,
    seconds=0.75,
    corpora="across",
    genders="unknown",
    sources=(
        SourceRow("ann", ("a.wav", "b.wav"), 0.25, 1.25),
        SourceRow("bob", ("sub/c.wav",), 0.0, -1.25),
    ),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """0.5 s each of Ann, noise at two levels, and 1 s of Bob at twice the rate."""
    rng = np.random.default_rng(0)
    (tmp_path / "audio" / "sub").mkdir(parents=True)
    soundfile.write(tmp_path / "audio" / "a.wav", 0.1 * rng.standard_normal(4000), 8000)
    soundfile.write(tmp_path / "audio" / "b.wav", 0.1 * rng.standard_normal(4000), 8000)
    soundfile.write(tmp_path / "audio" / "sub" / "c.wav", 0.02 * rng.standard_normal(16000), 16000)
    return tmp_path / "audio"


def test_a_list_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, id="t-0002", seconds=4.001, genders="same")]
    write_list(rows, tmp_path / "t.csv")
    assert read_list(tmp_path / "t.csv") == rows
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_a_list_is_not_half_written(tmp_path: Path) -> None:
    write_list([ROW], tmp_path / "t.csv")
    before = (tmp_path / "t.csv").read_text()
    with pytest.raises(AttributeError):
        write_list([ROW, None], tmp_path / "t.csv")  # type: ignore[list-item]
    assert (tmp_path / "t.csv").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    write_list([ROW], tmp_path / "new" / "t.csv")
    assert (tmp_path / "new" / "t.csv").is_file()
    with pytest.raises(InputError, match="cannot be written"):
        write_list([ROW], tmp_path / "t.csv" / "t.csv")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", ""),
        ("id", "../../escaped"),
        ("id", "t-0001"),  # twice
        ("list", ""),
        ("seed", "1.5"),
        ("seed", "-1"),
        ("seconds", "0"),
        ("seconds", "nan"),
        ("seconds", "long"),
        ("corpora", "both"),
        ("genders", "f"),
        ("speaker_1", ""),
        ("paths_1", ""),
        ("paths_1", "a.wav|"),
        ("paths_2", "/etc/passwd"),
        ("paths_2", "../secret.wav"),
        ("start_1", "-0.1"),
        ("start_1", "1e308"),
        ("gain_db_1", "1e20"),
        ("start_2", ""),
        ("gain_db_1", "inf"),
        ("gain_db_2", "-inf"),
    ],
)
def test_a_wrong_field_is_named_by_row_and_column(tmp_path: Path, column: str, value: str) -> None:
    write_list([ROW, replace(ROW, id="t-0002")], tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        fields = list(csv.DictReader(file))
    fields[1][column] = value
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fields[0])
        writer.writeheader()
        writer.writerows(fields)
    with pytest.raises(InputError, match=rf"t\.csv row 3, column {column}: "):
        read_list(tmp_path / "t.csv")


def test_what_is_no_list_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with pytest.raises(InputError, match="cannot be read as a mixture list"):
        read_list(path)
    path.write_text("split,corpus,speaker,gender,path\n")
    with pytest.raises(InputError, match=r"no column id, list, .* gain_db_1"):
        read_list(path)
    write_list([ROW], path)
    text = path.read_text()
    path.write_text(text.replace("start_2", "start_3"))
    with pytest.raises(InputError, match="no column start_2"):
        read_list(path)
    path.write_text(text.rstrip("\n") + ",1\n")
    with pytest.raises(InputError, match="row 2 has more fields"):
        read_list(path)
    path.write_text(text.splitlines()[0] + "\n")
    with pytest.raises(InputError, match="lists no mixtures"):
        read_list(path)


@pytest.mark.parametrize("rate", [8000, 16000, 11025])
def test_a_mixture_is_rendered_at_any_rate_with_its_length_gains_and_peak(
    root: Path, rate: int
) -> None:
    mixture, sources = render_mixture(ROW, root, rate)
    assert sources.shape == (2, round(0.75 * rate)) and sources.dtype == np.float32
    np.testing.assert_array_equal(mixture, sources.sum(axis=0))
    levels = [active_level_db(source, rate) for source in sources]
    assert levels[0] - levels[1] == pytest.approx(2.5, abs=0.1)
    peak = max(np.abs(mixture).max(), np.abs(sources).max())
    assert peak == pytest.approx(0.9, abs=1e-5)


def test_recordings_are_joined_in_order_and_cut_from_start(root: Path) -> None:
    _, sources = render_mixture(ROW, root, 8000)
    joined = np.concatenate([soundfile.read(root / name)[0] for name in ("a.wav", "b.wav")])
    expected = joined[2000:8000]
    np.testing.assert_allclose(
        sources[0] / np.abs(sources[0]).max(), expected / np.abs(expected).max(), atol=1e-5
    )


def test_a_file_that_is_gone_or_too_short_is_named_with_its_row(root: Path) -> None:
    with pytest.raises(InputError, match=r"mixture t-0001 of list t: sub/c\.wav ends 0\.250 s"):
        render_mixture(replace(ROW, seconds=1.25, sources=ROW.sources[1:]), root, 8000)
    (root / "b.wav").unlink()
    with pytest.raises(InputError, match=r"mixture t-0001 of list t: .*b\.wav does not exist"):
        render_mixture(ROW, root, 8000)


def test_rendered_files_add_up_bit_by_bit(root: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    rows = [ROW, replace(ROW, id="t-0002", sources=ROW.sources[::-1])]
    render_list(
        rows, root, tmp_path / "out", 8000, lambda moved: done.append((moved.done, moved.total))
    )
    assert done == [(1, 2), (2, 2)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["mix", "s1", "s2"]
    for row in rows:
        mix, s1, s2 = (
            soundfile.read(tmp_path / "out" / folder / f"{row.id}.wav", dtype="int16")[0]
            for folder in ("mix", "s1", "s2")
        )
        assert len(mix) == 6000
        np.testing.assert_array_equal(mix, s1 + s2)


@pytest.mark.parametrize(
    ("name", "split", "count", "num_sources"),
    [
        ("open2", "test", 300, 2),
        ("closed2", "closed", 300, 2),
        ("valid2", "valid", 150, 2),
        ("open3", "test", 200, 3),
    ],
)
def test_committed_lists_say_what_they_promise(
    shared_audio: Path, name: str, split: str, count: int, num_sources: int
) -> None:
    rows = read_list(COMMITTED / f"{name}.csv")
    corpus = read_corpus(shared_audio, split, ["librispeech", "speechocean762"])
    known = {u.path.relative_to(shared_audio).as_posix(): u for u in corpus.utterances}
    assert len(rows) == count
    assert sum(row.corpora == "within" for row in rows) == count / 2
    for row in rows:
        talkers = [[known[path] for path in source.paths] for source in row.sources]
        people = [{(u.corpus, u.speaker) for u in talker} for talker in talkers]
        assert len(people) == num_sources == len(set.union(*people))
        texts = [{u.text for u in talker} for talker in talkers]
        assert sum(map(len, texts)) == len(set.union(*texts))
        assert row.list == name and 4 <= row.seconds <= 8
        assert len({talker[0].corpus for talker in talkers}) == 1 + (row.corpora == "across")
        one_gender = len({talker[0].gender for talker in talkers}) == 1
        assert row.genders == ("same" if one_gender else "different")
        for source, talker in zip(row.sources, talkers, strict=True):
            assert source.start + row.seconds <= sum(u.seconds for u in talker)
        gains = [source.gain_db for source in row.sources]
        assert max(gains) - min(gains) <= 5


def test_missing_file_late_in_a_list_is_named_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "there.wav").touch()
    sources = [(SourceRow("ann", (name,), 0.0, 0.0),) for name in ("there.wav", "gone.wav")]
    rows = [
        MixtureRow(f"m{k}", "tiny", 0, 1.0, "within", "same", source)
        for k, source in enumerate(sources, 1)
    ]
    with pytest.raises(InputError, match=r"m2 of list tiny: .*gone\.wav does not exist"):
        render_list(rows, tmp_path, tmp_path / "out", 8000)
    assert not (tmp_path / "out").exists()


def test_an_unknown_column_is_named(tmp_path: Path) -> None:
    write_list([ROW], tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    (tmp_path / "t.csv").write_text(f"{lines[0]},loudness\n{lines[1]},3\n")
    with pytest.raises(InputError, match=r"t\.csv has an unknown column loudness"):
        read_list(tmp_path / "t.csv")


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*.csv")), ids=lambda path: path.stem)
def test_committed_lists_are_written_as_they_are_byte_by_byte(path: Path, tmp_path: Path) -> None:
    write_list(read_list(path), tmp_path / path.name)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "split", "count", "num_sources"),
    [("open2", "test", 300, 2), ("valid4", "valid", 100, 4), ("open1", "test", 100, 1)],
)
def test_committed_lists_are_drawn_again_byte_by_byte(
    shared_audio: Path, tmp_path: Path, name: str, split: str, count: int, num_sources: int
) -> None:
    corpus = read_corpus(shared_audio, split, ["librispeech", "speechocean762"])
    write_list(draw_list(corpus, name, 0, count, num_sources), tmp_path / f"{name}.csv")
    assert (tmp_path / f"{name}.csv").read_bytes() == (COMMITTED / f"{name}.csv").read_bytes()


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs")])
def test_other_separators_get_a_sentence(tmp_path: Path, separator: str, word: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(separator.join(("id", "list", "seed", "seconds")) + "\n")
    with pytest.raises(InputError, match=f"separated by {word}; separate them by commas"):
        read_list(path)
