from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from dpcl.errors import InputError
from dpcl.mixtures.corpus import read_corpus, text_key

HEADER = "split,corpus,speaker,gender,path"


def write_index(root: Path, *rows: str, header: str = HEADER) -> Path:
    for name in ("a.wav", "b.wav"):
        soundfile.write(root / name, np.ones(4000), 8000)
    (root / "index.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8-sig")
    return root / "index.csv"


def test_an_index_is_read_as_file_or_as_its_folder(tmp_path: Path) -> None:
    index = write_index(tmp_path, "train,x,ann,f,a.wav", "test,y,bob,m,b.wav")
    corpus = read_corpus(index)
    assert corpus == read_corpus(tmp_path) and corpus.root == tmp_path
    ann, bob = corpus.utterances
    assert (ann.path, ann.speaker, ann.gender, ann.split) == (
        tmp_path / "a.wav",
        "ann",
        "f",
        "train",
    )
    assert ann.seconds == 0.5 and bob.corpus == "y"


def test_split_and_corpora_choose_rows_and_leave_the_others_unread(tmp_path: Path) -> None:
    index = write_index(tmp_path, "train,x,ann,f,gone.wav", "test,y,bob,m,b.wav")
    assert [u.speaker for u in read_corpus(index, split="test").utterances] == ["bob"]
    assert [u.speaker for u in read_corpus(index, corpora=["y"]).utterances] == ["bob"]


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (["train,x,ann,f,a.wav", "train,x,bob,m,gone.wav"], r"row 3: .*gone\.wav does not exist"),
        (["train,x,ann,f,index.csv"], r"row 2: .*index\.csv cannot be read as audio"),
        (["train,x,,f,a.wav"], "row 2 has no speaker"),
        (["train,x,ann"], "row 2 has another number of fields"),
        (["train,x,ann,f,a.wav,9"], "row 2 has another number of fields"),
        ([], "lists no recording"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, rows: list[str], what: str) -> None:
    with pytest.raises(InputError, match=what):
        read_corpus(write_index(tmp_path, *rows))


@pytest.mark.parametrize("seconds", ["nan", "-1", "0", "inf", "long"])
def test_an_impossible_length_is_named(tmp_path: Path, seconds: str) -> None:
    index = write_index(tmp_path, f"train,x,ann,f,a.wav,{seconds}", header=HEADER + ",seconds")
    with pytest.raises(InputError, match="row 2: seconds"):
        read_corpus(index)


def test_missing_columns_splits_and_corpora_are_named(tmp_path: Path) -> None:
    index = write_index(tmp_path, "train,x,ann,f,a.wav")
    with pytest.raises(InputError, match="no split dev; choose from train"):
        read_corpus(index, split="dev")
    with pytest.raises(InputError, match="no corpus wsj; choose from x"):
        read_corpus(index, corpora=["x", "wsj"])
    with pytest.raises(InputError, match="no column gender"):
        read_corpus(write_index(tmp_path, header="split,corpus,speaker,path"))
    with pytest.raises(InputError, match="does not exist"):
        read_corpus(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read as a CSV"):
        read_corpus(tmp_path / "a.wav")


def test_a_folder_per_speaker_is_a_corpus(tmp_path: Path) -> None:
    for speaker in ("p225", "p226"):
        (tmp_path / speaker / "day1").mkdir(parents=True)
        soundfile.write(tmp_path / speaker / "day1" / f"{speaker}_001.wav", np.ones(800), 8000)
        (tmp_path / speaker / "notes.txt").write_text("not audio")
    corpus = read_corpus(tmp_path)
    assert [(u.speaker, u.text, u.seconds) for u in corpus.utterances] == [
        ("p225", "001", 0.1),
        ("p226", "001", 0.1),
    ]
    with pytest.raises(InputError, match="no splits"):
        read_corpus(tmp_path, split="train")
    with pytest.raises(InputError, match=r"no index\.csv and no folders"):
        read_corpus(tmp_path / "p225" / "day1")
    (tmp_path / "p226" / "broken.wav").write_text("not audio either")
    with pytest.raises(InputError, match=r"broken\.wav cannot be read"):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    ("path", "speaker", "key"),
    [
        ("speechocean762/0001/000010011.opus", "0001", "0011"),
        ("speechocean762/3049/030490011.opus", "3049", "0011"),
        ("speechocean762/9640/096400011.opus", "9640", "0011"),
        ("librispeech/103/103-1240-0000.opus", "103", "1240-0000"),
        ("p225/p225_001.wav", "p225", "001"),
        ("ann/hello.wav", "ann", "hello"),
        ("ann/ann.wav", "ann", "ann/ann"),  # says nothing: like no other
    ],
)
def test_texts_are_recognised_behind_the_speaker(path: str, speaker: str, key: str) -> None:
    assert text_key(Path(path), speaker) == key


def test_a_text_column_counts_more_than_file_names(tmp_path: Path) -> None:
    rows = ("train,x,ann,f,a.wav,good morning", "train,x,bob,m,b.wav,")
    corpus = read_corpus(write_index(tmp_path, *rows, header=HEADER + ",text"))
    assert [u.text for u in corpus.utterances] == ["good morning", "b"]
