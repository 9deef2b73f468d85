"""Data sets as corpora: every form of a recording, splits, and what is refused."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile

from dpcl.errors import InputError
from dpcl.mixtures.corpus import read_corpus
from dpcl.mixtures.index import write_corpus

SAMPLES = np.linspace(-0.5, 0.5, 8000, dtype=np.float32)


def flac() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, SAMPLES, 8000, format="FLAC")
    return file.getvalue()


def test_bytes_paths_and_samples_become_a_corpus(tmp_path: Path) -> None:
    own = tmp_path / "own.wav"
    soundfile.write(own, SAMPLES, 8000)
    rows = {
        "train": [
            {"speaker_id": 1, "sex": "Female", "audio": {"bytes": flac(), "path": "x.flac"}},
            {"speaker_id": 2, "sex": "M", "audio": {"bytes": None, "path": str(own)}},
        ],
        "validation": [
            {"speaker_id": 3, "sex": "?", "audio": {"array": SAMPLES, "sampling_rate": 8000}},
            {"speaker_id": 1, "sex": "f", "audio": {"bytes": flac(), "path": None}},
        ],
    }
    index = write_corpus(rows, tmp_path / "corpus", gender="sex")
    found = read_corpus(tmp_path / "corpus")
    assert {(u.speaker, u.gender, u.split) for u in found.utterances} == {
        ("1", "f", "valid"),
        ("2", "m", "train"),
        ("3", "", "valid"),
    }
    assert {u.seconds for u in found.utterances} == {1.0}
    with pytest.raises(InputError, match="exists; give another folder"):
        write_corpus(rows, index.parent)


def test_bad_data_sets_are_one_sentence(tmp_path: Path) -> None:
    row = {"speaker_id": 1, "audio": {"bytes": flac(), "path": None}}
    with pytest.raises(InputError, match=r"row 0: has no column 'who'; name one of speaker_id"):
        write_corpus([row], tmp_path / "a", speaker="who")
    with pytest.raises(InputError, match="row 0: holds no audio"):
        write_corpus([{**row, "audio": "words"}], tmp_path / "a")
    with pytest.raises(InputError, match="holds no rows"):
        write_corpus([], tmp_path / "a")
    assert not (tmp_path / "a" / "index.csv").exists()


def test_a_data_set_of_the_library_is_asked_for_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its columns of audio are decoded otherwise, which needs a further package."""

    class Rows(list[dict[str, object]]):
        features: ClassVar = {"audio": None, "speaker_id": None}

        def with_format(self, kind: None) -> Rows:
            return self

        def cast_column(self, column: str, kind: object) -> Rows:
            assert (column, kind) == ("audio", {"decode": False})
            return Rows({**row, "audio": {"bytes": flac(), "path": "a.flac"}} for row in self)

    library = types.ModuleType("datasets")
    library.Audio = lambda **options: options  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    write_corpus(Rows({"speaker_id": who, "audio": object()} for who in "xy"), tmp_path)
    assert sorted(u.speaker for u in read_corpus(tmp_path).utterances) == ["x", "y"]


@pytest.mark.parametrize("form", ["encoded", "decoded", "torch", "streamed", "splits"])
def test_data_sets_of_the_library_become_corpora(tmp_path: Path, form: str) -> None:
    """Class labels are names, not numbers; audio is never decoded, which needs torchcodec."""
    datasets = pytest.importorskip("datasets")
    rows = {
        "who": [0, 0, 1, 1],
        "sex": [1, 1, 0, 0],
        "words": ["a, b", "c", 'd "e"', ""],
        "sound": [{"bytes": flac(), "path": f"{number}.flac"} for number in range(4)],
    }
    labels = datasets.ClassLabel(names=["anna", "bert"])
    sexes = datasets.ClassLabel(names=["male", "female"])
    rows = datasets.Dataset.from_dict(rows).cast_column("who", labels).cast_column("sex", sexes)
    rows = rows.cast_column("sound", datasets.Audio(decode=form != "encoded"))
    if form == "torch":
        rows = rows.with_format("torch")
    elif form == "streamed":
        rows = rows.to_iterable_dataset()
    elif form == "splits":
        rows = datasets.DatasetDict(train=rows.select([0, 1]), test=rows.select([2, 3]))
    columns = {"speaker": "who", "gender": "sex", "text": "words", "audio": "sound"}
    write_corpus(rows, tmp_path / "corpus", **columns)
    found = read_corpus(tmp_path / "corpus").utterances
    assert {(u.speaker, u.gender) for u in found} == {("anna", "f"), ("bert", "m")}
    assert [u.seconds for u in found] == [1.0] * 4
    if form == "splits":
        assert {(u.speaker, u.split) for u in found} == {("anna", "train"), ("bert", "test")}
    with pytest.raises(InputError, match="has no column 'audio'; name one of who, sex, words, so"):
        write_corpus(rows, tmp_path / "other", **{**columns, "audio": "audio"})
