"""Layouts of published corpora: a small tree of each, its rows, and the file that it lacks."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dpcl.errors import InputError
from dpcl.mixtures.corpus import read_corpus
from dpcl.mixtures.index import NEEDS_AV, Entry, Tree, split_of_name, summarise, write_index
from dpcl.mixtures.layouts import LAYOUTS, read_layout
from dpcl.signal import av

Row = tuple[str, str, str, str, str]  # split, corpus, speaker, gender, path below the root
UNREAD = "no readable audio" if av.available() else NEEDS_AV
VOX1 = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"


def audio(path: Path, seconds: float = 0.1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.sin(np.arange(round(seconds * 8000)))
    kind = {".mp3": "MP3", ".flac": "FLAC", ".opus": "OGG"}.get(path.suffix, "WAV")
    soundfile.write(path, samples, 8000, format=kind)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def librispeech(root: Path) -> None:
    text(root / "SPEAKERS.TXT", ";ID |SEX|\n19 | F | train-clean-100 | 1 | A\n84 | M | dev |1|B\n")
    audio(root / "train-clean-100/19/198/19-198-0000.flac")
    text(root / "train-clean-100/19/198/19-198.trans.txt", "19-198-0000 NORTHANGER ABBEY\n")
    audio(root / "dev-clean/84/121123/84-121123-0000.flac")
    text(root / "dev-clean/84/121123/84-121123.trans.txt", "84-121123-0000 GO\n")


def librimix(root: Path) -> None:
    for part, name in (("train-100", "19-1-0_40-2-1"), ("test", "61-1-0_121-2-1")):
        for folder in ("mix_clean", "s1", "s2"):
            audio(root / "Libri2Mix/wav8k/min" / part / folder / f"{name}.wav")
    audio(root / "Libri2Mix/wav8k/min/train-100/s1/19-1-0_50-2-1.wav")


def wsj0(root: Path) -> None:
    audio(root / "11-1.1/wsj0/si_tr_s/01t/01to030v.wav")
    audio(root / "11-1.1/wsj0/si_tr_s/01t/01to030v.wv2")
    audio(root / "11-6.1/wsj0/si_dt_05/050/050c0101.wav")
    audio(root / "11-14.1/wsj0/si_et_05/440/440c0201.wav")
    audio(root / "11-6.1/wsj0/sd_tr_s/001/001c0201.wav")
    text(root / "11-13.1/wsj0/doc/spkrinfo.txt", "01t F\n050 M\n")


def vctk(root: Path) -> None:
    text(root / "speaker-info.txt", "ID  AGE  GENDER  ACCENTS  REGION\np225  23  F  English\n")
    for microphone in ("mic1", "mic2"):
        audio(root / f"wav48_silence_trimmed/p225/p225_001_{microphone}.flac")
    text(root / "txt/p225/p225_001.txt", "Please call Stella.\n")


def common_voice(root: Path) -> None:
    header = "client_id\tpath\tsentence\tgender\n"
    rows = {"train": ("a" * 128, "1"), "dev": ("b" * 128, "2"), "test": ("c" * 128, "3")}
    for name, (client, number) in rows.items():
        text(root / f"{name}.tsv", f'{header}{client}\tcv_{number}.mp3\tA "word\tmale_masculine\n')
        audio(root / f"clips/cv_{number}.mp3")
    added = f"{'a' * 128}\tcv_4.mp3\tB\t\n{'c' * 128}\tcv_5.mp3\tC\t\n{'d' * 128}\tcv_6.mp3\tD\t\n"
    text(root / "validated.tsv", header + added)
    audio(root / "clips/cv_4.mp3")
    audio(root / "clips/cv_5.mp3")


def voxceleb(root: Path) -> None:
    text(root / "vox1_meta.csv", VOX1 + "id1\tA\tf\tIreland\tdev\nid2\tB\tm\tUSA\ttest\n")
    for speaker in ("id1", "id2", "id3"):
        audio(root / f"wav/{speaker}/VIDEO/00001.wav")
    text(root / "wav/id1/VIDEO/00002.m4a", "")


def musan(root: Path) -> None:
    audio(root / "music/fma/music-fma-0000.wav")
    text(root / "music/fma/ANNOTATIONS", "music-fma-0000 genre Y Artist_Name\n")
    audio(root / "noise/free-sound/noise-free-sound-0000.wav")
    audio(root / "speech/librivox/speech-librivox-0000.wav")
    text(root / "speech/librivox/ANNOTATIONS", "speech-librivox-0000 m english\n")


def esc50(root: Path) -> None:
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in (1, 4, 5):
        audio(root / f"audio/{fold}-1-A-0.wav")
        lines.append(f"{fold}-1-A-0.wav,{fold},0,dog,True,1,A")
    text(root / "meta/esc50.csv", "\n".join([*lines, "2-9-A-0.wav,2,0,dog,True,9,A"]))


def fsd50k(root: Path) -> None:
    dev = (
        'fname,labels,mids,split\n64760,"Electric_guitar,Guitar",/m/1,train\n16399,Rain,/m/2,val\n'
    )
    text(root / "FSD50K.ground_truth/dev.csv", dev)
    text(root / "FSD50K.ground_truth/eval.csv", "fname,labels,mids\n37199,Rain,/m/2\n")
    for name in ("dev_audio/64760", "dev_audio/16399", "eval_audio/37199"):
        audio(root / f"FSD50K.{name}.wav")


def dns_noise(root: Path) -> None:
    for number in (0, 1):
        audio(root / f"datasets_fullband/noise_fullband/door_Freesound_validated_7_{number}.wav")
    audio(root / "datasets_fullband/noise_fullband/wntLte49djU.wav")


def speaker_folders(root: Path) -> None:
    audio(root / "anna/a.wav")
    audio(root / "ben/session/b.wav")


def lhotse(root: Path) -> None:
    audio(root / "long.wav", 1.0)
    recording = {
        "id": "r",
        "sources": [{"type": "file", "channels": [0], "source": "long.wav"}],
        "sampling_rate": 8000,
        "num_samples": 8000,
        "duration": 1.0,
    }
    spoken = {"id": "s", "recording_id": "r", "start": 0.25, "duration": 0.5, "channel": 0}
    spoken |= {"speaker": "anna", "gender": "female", "text": "hello"}
    for kind, line in (("recordings", recording), ("supervisions", spoken)):
        with gzip.open(root / f"mine_{kind}_dev.jsonl.gz", "wt") as file:
            file.write(json.dumps(line) + "\n")


NAME = split_of_name  # splits of corpora without published ones
SPEECH = "speech/librivox/speech-librivox-0000"
NOISE = "noise/free-sound/noise-free-sound-0000"
DNS, DOOR, TUBE = "datasets_fullband/noise_fullband", "Freesound_validated_7", "wntLte49djU"
MIX = "Libri2Mix/wav8k/min"
# Layout: how its tree is made, and its rows.
TREES: dict[str, tuple[Callable[[Path], None], list[Row]]] = {
    "librispeech": (
        librispeech,
        [
            ("train", "librispeech", "19", "f", "train-clean-100/19/198/19-198-0000.flac"),
            ("valid", "librispeech", "84", "m", "dev-clean/84/121123/84-121123-0000.flac"),
        ],
    ),
    "librimix": (
        librimix,
        [
            ("train", "librimix", "19", "", f"{MIX}/train-100/s1/19-1-0_40-2-1.wav"),
            ("train", "librimix", "40", "", f"{MIX}/train-100/s2/19-1-0_40-2-1.wav"),
            ("test", "librimix", "61", "", f"{MIX}/test/s1/61-1-0_121-2-1.wav"),
            ("test", "librimix", "121", "", f"{MIX}/test/s2/61-1-0_121-2-1.wav"),
        ],
    ),
    "wsj0": (
        wsj0,
        [
            ("train", "wsj0", "01t", "f", "11-1.1/wsj0/si_tr_s/01t/01to030v.wav"),
            ("valid", "wsj0", "050", "m", "11-6.1/wsj0/si_dt_05/050/050c0101.wav"),
            ("test", "wsj0", "440", "", "11-14.1/wsj0/si_et_05/440/440c0201.wav"),
        ],
    ),
    "vctk": (
        vctk,
        [(NAME("p225"), "vctk", "p225", "f", "wav48_silence_trimmed/p225/p225_001_mic1.flac")],
    ),
    "common-voice": (
        common_voice,
        [
            ("train", "common-voice", "a" * 16, "m", "clips/cv_1.mp3"),
            ("train", "common-voice", "a" * 16, "", "clips/cv_4.mp3"),
            ("valid", "common-voice", "b" * 16, "m", "clips/cv_2.mp3"),
            ("test", "common-voice", "c" * 16, "m", "clips/cv_3.mp3"),
        ],
    ),
    "voxceleb": (
        voxceleb,
        [
            ("train", "voxceleb", "id1", "f", "wav/id1/VIDEO/00001.wav"),
            ("test", "voxceleb", "id2", "m", "wav/id2/VIDEO/00001.wav"),
        ],
    ),
    "musan": (
        musan,
        [
            (NAME("Artist_Name"), "musan-music", "Artist_Name", "", "music/fma/music-fma-0000.wav"),
            (NAME(Path(NOISE).name), "musan-noise", Path(NOISE).name, "", f"{NOISE}.wav"),
            (NAME(Path(SPEECH).name), "musan-speech", Path(SPEECH).name, "m", f"{SPEECH}.wav"),
        ],
    ),
    "esc50": (
        esc50,
        [
            ("train", "esc50", "dog", "", "audio/1-1-A-0.wav"),
            ("valid", "esc50", "dog", "", "audio/4-1-A-0.wav"),
            ("test", "esc50", "dog", "", "audio/5-1-A-0.wav"),
        ],
    ),
    "fsd50k": (
        fsd50k,
        [
            ("train", "fsd50k", "Electric_guitar", "", "FSD50K.dev_audio/64760.wav"),
            ("valid", "fsd50k", "Rain", "", "FSD50K.dev_audio/16399.wav"),
            ("test", "fsd50k", "Rain", "", "FSD50K.eval_audio/37199.wav"),
        ],
    ),
    "dns-noise": (
        dns_noise,
        [
            (NAME(DOOR), "dns-noise", DOOR, "", f"{DNS}/door_{DOOR}_0.wav"),
            (NAME(DOOR), "dns-noise", DOOR, "", f"{DNS}/door_{DOOR}_1.wav"),
            (NAME(TUBE), "dns-noise", TUBE, "", f"{DNS}/{TUBE}.wav"),
        ],
    ),
    "folder-per-speaker": (
        speaker_folders,
        [
            (NAME("anna"), "root", "anna", "", "anna/a.wav"),
            (NAME("ben"), "root", "ben", "", "ben/session/b.wav"),
        ],
    ),
    "lhotse": (lhotse, [("valid", "mine", "anna", "f", "long.wav")]),
}
# Layout, a file or folder that its tree has, and the words of the error without it.
MISSING = [
    ("librispeech", "SPEAKERS.TXT", "SPEAKERS.TXT is missing"),
    ("librimix", "Libri2Mix/wav8k", "train-100 is missing"),
    ("librimix", f"{MIX}/train-100/s1+{MIX}/train-100/s2", "s1 is missing"),
    ("wsj0", "11-1.1+11-6.1+11-14.1", "si_tr_s is missing"),
    ("vctk", "speaker-info.txt", "speaker-info.txt is missing"),
    ("vctk", "wav48_silence_trimmed", "wav48_silence_trimmed is missing"),
    ("common-voice", "clips", "clips is missing"),
    ("common-voice", "dev.tsv", "dev.tsv is missing"),
    ("voxceleb", "vox1_meta.csv", "vox1_meta.csv is missing"),
    ("voxceleb", "wav", "wav is missing"),
    ("musan", "music+noise+speech", "noise is missing"),
    ("esc50", "meta", "meta/esc50.csv is missing"),
    ("esc50", "audio", "audio is missing"),
    ("fsd50k", "FSD50K.ground_truth/dev.csv", "FSD50K.ground_truth/dev.csv is missing"),
    ("fsd50k", "FSD50K.dev_audio+FSD50K.eval_audio", "FSD50K.dev_audio is missing"),
    ("dns-noise", "datasets_fullband", "noise_fullband is missing"),
    ("folder-per-speaker", "anna+ben", "no recordings"),
    ("lhotse", "mine_recordings_dev.jsonl.gz+mine_supervisions_dev.jsonl.gz", "_supervisions_"),
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def rows(entries: list[Entry], root: Path) -> list[Row]:
    return [
        (e.split, e.corpus, e.speaker, e.gender, e.part.path.relative_to(root).as_posix())
        for e in entries
    ]


def reasons(tree: Tree) -> dict[str, int]:
    return {reason: len(files) for reason, files in tree.omitted.files.items()}


def test_every_layout_is_tested() -> None:
    assert set(TREES) == set(LAYOUTS) == {layout for layout, *_ in MISSING}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_tree_becomes_rows_and_index(layout: str, root: Path, tmp_path: Path) -> None:
    make, expected = TREES[layout]
    make(root)
    entries = read_layout(layout, Tree(root))
    assert sorted(rows(entries, root)) == sorted(expected)

    index = tmp_path / "elsewhere" / "index.csv"
    write_index(entries, index)
    found = read_corpus(index).utterances
    assert sorted((u.split, u.corpus, u.speaker, u.gender) for u in found) == sorted(
        row[:4] for row in expected
    )
    assert {u.path.resolve() for u in found} == {e.part.path.resolve() for e in entries}
    assert [path.name for path in index.parent.iterdir()] == ["index.csv"]
    assert sum(size.recordings for size in summarise(entries).values()) == len(expected)


@pytest.mark.parametrize(("layout", "gone", "words"), MISSING)
def test_missing_file_is_named(layout: str, gone: str, words: str, root: Path) -> None:
    TREES[layout][0](root)
    for name in gone.split("+"):
        (root / name).rename(root.parent / name.replace("/", "-"))
    with pytest.raises(InputError) as raised:
        read_layout(layout, Tree(root))
    message = str(raised.value)
    assert words in message
    assert message.count("; ") >= 1 and not message.endswith("."), message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty_folder(layout: str, root: Path) -> None:
    with pytest.raises(InputError, match=r"missing|no recordings"):
        read_layout(layout, Tree(root))


def test_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        Tree(tmp_path / "none")


def test_texts(root: Path) -> None:
    librispeech(root)
    vctk(root)
    common_voice(root)
    voxceleb(root)
    found = {}
    for layout in ("librispeech", "vctk", "common-voice", "voxceleb"):
        found[layout] = [entry.text for entry in read_layout(layout, Tree(root))]
    assert found["librispeech"] == ["GO", "NORTHANGER ABBEY"]
    assert found["vctk"] == ["Please call Stella."]
    assert found["common-voice"][0] == 'A "word'
    assert found["voxceleb"] == ["id1/VIDEO/00001", "id2/VIDEO/00001"]


def test_vctk_080(root: Path) -> None:
    text(root / "speaker-info.txt", "ID  AGE  GENDER  ACCENTS  REGION\n226  22  M  English\n")
    audio(root / "wav48/p226/p226_002.wav")
    (entry,) = read_layout("vctk", Tree(root))
    assert (entry.speaker, entry.gender, entry.text) == ("p226", "m", "p226_002")


def test_voxceleb2_as_published_names_the_format(root: Path) -> None:
    header = "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \n"
    text(root / "vox2_meta.csv", f"{header}id00012 ,n000012 ,m ,dev \n")
    text(root / "dev/aac/id00012/VIDEO/00001.m4a", "")
    with pytest.raises(InputError, match=f"1 omitted: {UNREAD}"):
        read_layout("voxceleb", Tree(root))


def test_omitted_files_have_reasons(root: Path) -> None:
    for layout, expected in {
        "librimix": {"its utterance is already listed": 1},
        "wsj0": {
            "second microphone": 1,
            "not in a speaker-independent part (si_tr_s, si_dt_05, ...)": 1,
        },
        "vctk": {"second microphone": 1},
        "common-voice": {
            "its talker is also in the split test": 1,
            "listed in validated.tsv, but missing": 1,
        },
        "voxceleb": {UNREAD: 1, "its talker is not in vox1_meta.csv": 1},
        "esc50": {"listed in esc50.csv, but missing": 1},
    }.items():
        folder = root / layout
        TREES[layout][0](folder)
        tree = Tree(folder)
        read_layout(layout, tree)
        assert reasons(tree) == expected, layout


@pytest.mark.parametrize("by_name", [False, True])
def test_no_talker_is_in_two_splits(root: Path, by_name: bool) -> None:
    librispeech(root)
    audio(root / "test-clean/19/1/19-1-0000.flac")  # the talker of train-clean-100
    tree = Tree(root)
    entries = read_layout("librispeech", tree, by_name)
    splits: dict[str, set[str]] = {}
    for entry in entries:
        splits.setdefault(entry.speaker, set()).add(entry.split)
    assert all(len(found) == 1 for found in splits.values())
    assert splits["19"] == {split_of_name("19") if by_name else "test"}
    assert reasons(tree) == ({} if by_name else {"its talker is also in the split test": 1})


def test_classes_recur_unless_split_by_name(root: Path) -> None:
    esc50(root)
    assert len({e.split for e in read_layout("esc50", Tree(root))}) == 3
    assert {e.split for e in read_layout("esc50", Tree(root), True)} == {split_of_name("dog")}


def test_split_of_name_is_frozen() -> None:
    found = [split_of_name(f"p{number}") for number in range(1000)]
    assert [found.count(split) for split in ("train", "valid", "test")] == [807, 95, 98]


@pytest.mark.parametrize(
    ("name", "column"),
    [("train.tsv", "client_id"), ("test.tsv", "path")],
)
def test_tsv_without_a_column(root: Path, name: str, column: str) -> None:
    common_voice(root)
    path = root / name
    path.write_text(path.read_text().replace(column, "other"))
    with pytest.raises(InputError, match=f"{name}: the column `{column}` is missing; "):
        read_layout("common-voice", Tree(root))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00client", b"client_id\tpath\n\x00\n"])
def test_damaged_tsv(root: Path, content: bytes) -> None:
    common_voice(root)
    (root / "test.tsv").write_bytes(content)
    try:
        entries = read_layout("common-voice", Tree(root))
    except InputError as error:
        assert "test.tsv" in str(error)
    else:
        assert "test" not in {entry.split for entry in entries}


def test_damaged_and_hidden_recordings_are_omitted(root: Path) -> None:
    speaker_folders(root)
    text(root / "anna/broken.wav", "no audio")
    text(root / "anna/empty.flac", "")
    audio(root / "anna/.hidden.wav")
    audio(root / ".git/x.wav")
    audio(root / "loose.wav")
    tree = Tree(root)
    assert len(read_layout("folder-per-speaker", tree)) == 2
    assert reasons(tree) == {"no readable audio": 2, "not in the folder of a speaker": 1}


def test_links_in_loops(root: Path) -> None:
    speaker_folders(root)
    (root / "anna/loop").symlink_to(root, target_is_directory=True)
    (root / "ben/self").symlink_to(root / "ben", target_is_directory=True)
    (root / "ben/circle.wav").symlink_to(root / "ben/circle.wav")
    (root / "ben/gone.wav").symlink_to(root / "gone.wav")
    tree = Tree(root)
    found = rows(read_layout("folder-per-speaker", tree), root)
    assert [row[4] for row in found] == ["anna/a.wav", "ben/session/b.wav"]
    assert reasons(tree) == {
        "link to a folder that contains it": 2,
        "link to a file that does not exist": 2,
    }


def test_a_folder_that_is_linked_twice_is_listed_once(root: Path) -> None:
    speaker_folders(root)
    (root / "clara").symlink_to(root / "anna", target_is_directory=True)
    tree = Tree(root)
    assert {entry.speaker for entry in read_layout("folder-per-speaker", tree)} == {"anna", "ben"}
    assert reasons(tree) == {"link to a folder that is already listed": 1}


def test_names_with_commas_quotes_and_newlines(root: Path, tmp_path: Path) -> None:
    for name in ('a,"b".wav', "c\nd.wav", "é #t=1.wav"):
        audio(root / "anna" / name)
    write_index(read_layout("folder-per-speaker", Tree(root)), tmp_path / "index.csv")
    found = {u.path.name for u in read_corpus(tmp_path / "index.csv").utterances}
    assert found == {'a,"b".wav', "c\nd.wav", "é #t=1.wav"}


def test_names_that_are_not_unicode(root: Path, tmp_path: Path) -> None:
    speaker_folders(root)
    try:
        (root / "anna/a.wav").rename(root / "anna" / os.fsdecode(b"\xff.wav"))
    except OSError:
        pytest.skip("the file system refuses such names")
    tree = Tree(root)
    write_index(read_layout("folder-per-speaker", tree), tmp_path / "index.csv")
    assert tree.omitted.files == {"name is not valid Unicode": [f"{root}/anna/\\xff.wav"]}


def test_parts_of_long_recordings_are_read_again(root: Path, tmp_path: Path) -> None:
    lhotse(root)
    write_index(read_layout("lhotse", Tree(root)), tmp_path / "index.csv")
    (found,) = read_corpus(tmp_path / "index.csv").utterances
    assert (found.start, found.seconds, found.text) == (0.25, 0.5, "hello")
