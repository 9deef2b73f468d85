"""Layouts of published corpora: the directory tree and metadata of each, read as entries.

Every layout is a function from a Tree to the entries of its recordings. It raises InputError if the
folder lacks a file of the published tree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dpcl.errors import InputError
from dpcl.io import Report, no_report
from dpcl.mixtures.index import (
    Entry,
    Tree,
    assign_splits,
    keep_apart,
    measure,
    read_table,
    split_of_name,
)
from dpcl.mixtures.librimix import read_genders
from dpcl.mixtures.utterances import read_manifest
from dpcl.mixtures.wsj0 import WSJ0
from dpcl.signal.audio import Part

_GENDERS = {"f": "f", "m": "m", "female": "f", "male": "m"}
_GENDERS |= {"female_feminine": "f", "male_masculine": "m"}  # Common Voice since version 17
_LIBRISPEECH_PART = re.compile(r"(train|dev|test)-(clean|other)(-\d+)?")
_LIBRIMIX_PARTS = {"train-360": "train", "train-100": "train", "dev": "valid", "test": "test"}
_WSJ0_PART = re.compile(r"si_(tr|dt|et)_\w+")
_SPLITS = {"train": "train", "tr": "train", "dev": "valid", "valid": "valid", "dt": "valid"}
_SPLITS |= {"val": "valid", "test": "test", "eval": "test", "et": "test"}
_VOXCELEB_FOLDERS = tuple(
    f"{part}{kind}"
    for kind in ("wav", "aac")
    for part in ("", "dev/", "test/", "vox1_dev_wav/", "vox1_test_wav/")
)

Layout = Callable[[Tree], Iterable[Entry]]


def _librispeech(tree: Tree) -> Iterator[Entry]:
    """Read SPEAKERS.TXT and train-clean-100/19/198/19-198-0000.flac with 19-198.trans.txt."""
    root = tree.root if (tree.root / "SPEAKERS.TXT").exists() else tree.root / "LibriSpeech"
    if not (root / "SPEAKERS.TXT").is_file():
        tree.need("SPEAKERS.TXT", "give the folder LibriSpeech as unpacked")
    genders = read_genders(root)
    parts = [part for part in tree.folders(root) if _LIBRISPEECH_PART.fullmatch(part.name)]
    if not parts:
        raise InputError(f"{root}: train-clean-100 is missing; unpack one part of LibriSpeech")
    for part in parts:
        split = _SPLITS[part.name.partition("-")[0]]
        for speaker in tree.folders(part):
            for chapter in tree.folders(speaker):
                texts = _transcripts(chapter / f"{speaker.name}-{chapter.name}.trans.txt")
                for path in tree.recordings(chapter):
                    gender = genders.get(speaker.name, "")
                    text = texts.get(path.stem, path.stem)
                    yield Entry(Part(path), speaker.name, "librispeech", gender, split, text)


def _transcripts(path: Path) -> dict[str, str]:
    """Return the words of each utterance; none if the file is missing."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: text for name, _, text in (line.partition(" ") for line in lines)}


def _librimix(tree: Tree) -> Iterator[Entry]:
    """Read the sources: wav8k/min/train-100/s1/19-198-0000_40-222-0001.wav, s2 and so on."""
    candidates = [tree.root, tree.root / "Libri2Mix", tree.root / "Libri3Mix"]
    candidates += [
        folder / rate / mode
        for folder in candidates
        for rate in ("wav16k", "wav8k")
        for mode in ("max", "min")
    ]
    root = next((c for c in candidates if any((c / p).is_dir() for p in _LIBRIMIX_PARTS)), None)
    if root is None:
        raise InputError(f"{tree.root}: train-100 is missing; give a folder such as wav8k/min")
    listed: set[str] = set()
    for name, split in _LIBRIMIX_PARTS.items():
        if not (root / name).is_dir():
            continue
        sources = [f for f in tree.folders(root / name) if re.fullmatch(r"s\d+", f.name)]
        if not sources:
            raise InputError(f"{root / name}: s1 is missing; render the sources as well")
        for folder in sources:
            for path in tree.recordings(folder):
                utterances = path.stem.split("_")
                number = int(folder.name[1:])
                if number > len(utterances):
                    tree.omitted.add(path, "name has fewer utterances than sources")
                elif utterances[number - 1] in listed:
                    tree.omitted.add(path, "its utterance is already listed")
                else:
                    utterance = utterances[number - 1]
                    listed.add(utterance)
                    speaker = utterance.partition("-")[0]
                    yield Entry(Part(path), speaker, "librimix", "", split, utterance)


def _wsj0(tree: Tree) -> Iterator[Entry]:
    """Read wsj0/si_tr_s/01t/01to030v.wv1 (or .wav), at any depth: 11-1.1/wsj0/si_tr_s."""
    genders = WSJ0(tree.root).genders
    listed: set[str] = set()
    for path in tree.recordings(tree.root):
        part = path.parent.parent.name.lower()
        match = _WSJ0_PART.fullmatch(part)
        key = f"{path.parent.name}/{path.stem}".lower()
        if match is None:
            tree.omitted.add(path, "not in a speaker-independent part (si_tr_s, si_dt_05, ...)")
        elif key in listed:
            tree.omitted.add(path, "its utterance is already listed")
        else:
            listed.add(key)
            speaker = path.parent.name.lower()
            gender = genders.get(speaker, "")
            yield Entry(Part(path), speaker, "wsj0", gender, _SPLITS[match[1]])
    if not listed:
        raise InputError(f"{tree.root}: si_tr_s is missing; give the folder with the discs of WSJ0")


def _vctk(tree: Tree) -> Iterator[Entry]:
    """Read wav48_silence_trimmed/p225/p225_001_mic1.flac (0.92), wav48/p225/p225_001.wav (0.80)."""
    new = tree.root / "wav48_silence_trimmed"
    root = new if new.is_dir() else tree.root / "wav48"
    if not root.is_dir():
        tree.need(new.name, "give the folder of VCTK 0.92, or of 0.80 with wav48")
    lines = _lines(tree.need("speaker-info.txt", "unpack it beside the recordings"))
    fields = [line.split() for line in lines]
    genders = {words[0].lstrip("p"): words[2].lower() for words in fields if len(words) > 2}
    for speaker in tree.folders(root):
        for path in tree.recordings(speaker):
            if path.stem.endswith("_mic2"):
                tree.omitted.add(path, "second microphone")
                continue
            name = path.stem.removesuffix("_mic1")
            transcript = tree.root / "txt" / speaker.name / f"{name}.txt"
            text = "".join(_lines(transcript)) if transcript.is_file() else name
            gender = _GENDERS.get(genders.get(speaker.name.lstrip("p"), ""), "")
            yield Entry(Part(path), speaker.name, "vctk", gender, "", text)


def _lines(path: Path) -> list[str]:
    """Read the lines of a text file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); unpack it again") from error


def _common_voice(tree: Tree) -> Iterator[Entry]:
    """Read clips/common_voice_en_1.mp3 by train.tsv, dev.tsv, test.tsv, optional validated.tsv."""
    remedy = "give the folder of one language, with clips and train.tsv"
    clips = tree.need("clips", remedy)
    listed: set[str] = set()
    splits: dict[str, str] = {}
    for name in ("test", "dev", "train", "validated"):
        if name == "validated" and not (tree.root / "validated.tsv").exists():
            continue
        table = read_table(
            tree.need(f"{name}.tsv", remedy), ("client_id", "path"), "\t", quoted=False
        )
        for row in table:
            talker, file = row["client_id"], row["path"]
            path = clips / (file if Path(file).suffix else f"{file}.mp3")
            if file in listed or not (talker and file):
                continue
            listed.add(file)
            split = _SPLITS.get(name, "train")
            if name == "validated" and splits.get(talker, "train") != "train":
                tree.omitted.add(path, f"its talker is also in the split {splits[talker]}")
            elif not path.is_file():
                tree.omitted.add(path, f"listed in {name}.tsv, but missing")
            else:
                splits.setdefault(talker, split)
                # Identifiers have 128 digits; the first 16 are unique in every release.
                gender = _GENDERS.get(row.get("gender", ""), "")
                text = row.get("sentence", "") or path.stem
                yield Entry(Part(path), talker[:16], "common-voice", gender, split, text)


def _voxceleb(tree: Tree) -> Iterator[Entry]:
    """Read wav/id10001/VIDEO/00001.wav by vox1_meta.csv, dev/aac/id00012/... by vox2_meta.csv."""
    folders = [tree.root / name for name in _VOXCELEB_FOLDERS if (tree.root / name).is_dir()]
    if not folders:
        tree.need("wav", "give the folder with wav (or dev and test) and the metadata")
    tables = [f for f in (tree.root / f"vox{k}_meta.csv" for k in (1, 2)) if f.is_file()]
    if not tables:
        tree.need("vox1_meta.csv", "download the metadata of VoxCeleb (vox2_meta.csv for 2)")
    talkers: dict[str, tuple[str, str]] = {}
    for table in tables:
        identity = f"VoxCeleb{table.name[3]} ID"
        delimiter = "\t" if "\t" in "".join(_lines(table)[:1]) else ","
        for row in read_table(table, (identity, "Gender", "Set"), delimiter):
            talkers[row[identity]] = row["Gender"], row["Set"]
    for folder in folders:
        for speaker in tree.folders(folder):
            gender, part = talkers.get(speaker.name, ("", ""))
            split = "test" if part == "test" else ""
            if not split:  # the split valid is a tenth of the talkers of dev
                split = "valid" if split_of_name(speaker.name) == "valid" else "train"
            for path in tree.recordings(speaker):
                if not part:
                    tree.omitted.add(path, f"its talker is not in {tables[0].name}")
                    continue
                text = path.relative_to(folder).with_suffix("").as_posix()
                gender = _GENDERS.get(gender, "")
                yield Entry(Part(path), speaker.name, "voxceleb", gender, split, text)


def _musan(tree: Tree) -> Iterator[Entry]:
    """Read music/fma/music-fma-0000.wav with music/fma/ANNOTATIONS; noise and speech likewise."""
    root = tree.root / "musan" if (tree.root / "musan").is_dir() else tree.root
    if not any((root / kind).is_dir() for kind in ("music", "noise", "speech")):
        tree.need("noise", "give the folder musan, with music, noise and speech")
    for kind in ("music", "noise", "speech"):
        for folder in tree.folders(root / kind) if (root / kind).is_dir() else []:
            annotations = folder / "ANNOTATIONS"
            lines = _lines(annotations) if annotations.is_file() else []
            notes = {words[0]: words[1:] for words in map(str.split, lines) if words}
            for path in tree.recordings(folder):
                note = notes.get(path.stem, [])
                # Annotations name the artist of music, and the gender of a talker.
                artist = note[2] if kind == "music" and len(note) > 2 else path.stem
                gender = _GENDERS.get(note[0].lower(), "") if kind == "speech" and note else ""
                yield Entry(Part(path), artist, f"musan-{kind}", gender, "", path.stem)


def _esc50(tree: Tree) -> Iterator[Entry]:
    """Read audio/1-100032-A-0.wav by meta/esc50.csv: folds 1 to 3 train, 4 valid, 5 test."""
    remedy = "give the folder of ESC-50, with audio and meta"
    audio = tree.need("audio", remedy)
    columns = ("filename", "fold", "category")
    for row in read_table(tree.need("meta/esc50.csv", remedy), columns):
        split = {"4": "valid", "5": "test"}.get(row["fold"], "train")
        path = audio / row["filename"]
        if path.is_file():
            yield Entry(Part(path), row["category"], "esc50", "", split, path.stem)
        else:
            tree.omitted.add(path, "listed in esc50.csv, but missing")


def _fsd50k(tree: Tree) -> Iterator[Entry]:
    """Read FSD50K.dev_audio/64760.wav by FSD50K.ground_truth/dev.csv; eval likewise."""
    remedy = "give the folder with FSD50K.ground_truth and FSD50K.dev_audio or FSD50K.eval_audio"
    parts = [p for p in ("dev", "eval") if (tree.root / f"FSD50K.{p}_audio").is_dir()]
    if not parts:
        tree.need("FSD50K.dev_audio", remedy)
    for part in parts:
        table = tree.need(f"FSD50K.ground_truth/{part}.csv", remedy)
        columns = ("fname", "labels", "split") if part == "dev" else ("fname", "labels")
        for row in read_table(table, columns):
            split = "test" if part == "eval" else _SPLITS.get(row["split"], "train")
            path = tree.root / f"FSD50K.{part}_audio" / f"{row['fname']}.wav"
            label = row["labels"].split(",")[0]  # the most specific class comes first
            if path.is_file():
                yield Entry(Part(path), label, "fsd50k", "", split, path.stem)
            else:
                tree.omitted.add(path, f"listed in {part}.csv, but missing")


def _dns_noise(tree: Tree) -> Iterator[Entry]:
    """Read noise_fullband/door_Freesound_validated_7_0.wav (DNS 4) or noise/... (DNS 1 to 3)."""
    names = ("noise_fullband", "noise")
    below = ("", "datasets_fullband", "datasets")
    candidates = [tree.root / folder / name for folder in below for name in names]
    candidates += [tree.root] if tree.root.name in names else []
    root = next((folder for folder in candidates if folder.is_dir()), None)
    if root is None:
        raise InputError(
            f"{tree.root}: noise_fullband is missing; give the folder datasets_fullband"
        )
    for path in tree.recordings(root):
        # Pieces of one Freesound recording differ in the last number, and sometimes in the class.
        piece = re.fullmatch(r".*(Freesound_validated_.+)_\d+", path.stem)
        source = path.stem if piece is None else piece[1]
        yield Entry(Part(path), source, "dns-noise", "", "", path.stem)


def _speaker_folders(tree: Tree) -> Iterator[Entry]:
    """Read SPEAKER/*.wav, at any depth below SPEAKER."""
    tree.omit_files(tree.root, "not in the folder of a speaker")
    for speaker in tree.folders(tree.root):
        for path in tree.recordings(speaker):
            yield Entry(Part(path), speaker.name, tree.root.name)


def _lhotse(tree: Tree) -> Iterator[Entry]:
    """Read CORPUS_supervisions_PART.jsonl.gz with its recordings, or CORPUS_cuts_PART.jsonl.gz."""
    found = [f for f in sorted(tree.root.iterdir()) if f.name.endswith((".jsonl", ".jsonl.gz"))]
    supervisions = [f for f in found if "supervisions" in f.name]
    manifests = supervisions or [f for f in found if "cuts" in f.name]
    if not manifests:
        raise InputError(
            f"{tree.root}: *_supervisions_*.jsonl.gz is missing; give a folder of Lhotse manifests"
        )
    for manifest in manifests:
        words = re.split(r"[_.-]", manifest.name)
        split = next((_SPLITS[word] for word in words if word in _SPLITS), "")
        for u in read_manifest(manifest)[1]:
            yield Entry(u.part, u.speaker, u.corpus, u.gender, split, u.text, u.seconds)


LAYOUTS: dict[str, Layout] = {
    "librispeech": _librispeech,
    "librimix": _librimix,
    "wsj0": _wsj0,
    "vctk": _vctk,
    "common-voice": _common_voice,
    "voxceleb": _voxceleb,
    "musan": _musan,
    "esc50": _esc50,
    "fsd50k": _fsd50k,
    "dns-noise": _dns_noise,
    "folder-per-speaker": _speaker_folders,
    "lhotse": _lhotse,
}
# Layouts whose published splits share sound classes: a class is not a talker.
CLASSES_RECUR = frozenset({"esc50", "fsd50k"})


def read_layout(
    layout: str, tree: Tree, by_name: bool = False, report: Report = no_report
) -> list[Entry]:
    """Return the recordings of a corpus with splits and lengths.

    Args:
        layout: a name of LAYOUTS.
        tree: the folder; its `omitted` receives the files that are not returned.
        by_name: split by a hash of the talker or class, also where splits are published.
        report: called after each recording.

    Returns:
        Entries; a talker is in one split only.

    Raises:
        InputError: a published file is missing, or no recording is left.
    """
    entries = assign_splits(LAYOUTS[layout](tree), by_name)
    if layout not in CLASSES_RECUR:
        entries = keep_apart(entries, tree.omitted)
    entries = measure(entries, tree.omitted, report)
    if not entries:
        reasons = "; ".join(f"{len(f)} omitted: {why}" for why, f in tree.omitted.files.items())
        raise InputError(
            f"{tree.root}: has no recordings of the layout {layout}"
            f"{f' ({reasons})' if reasons else ''}; give another folder"
        )
    return entries
