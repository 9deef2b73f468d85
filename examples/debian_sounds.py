"""Make a corpus of sound effects and instruments from Debian packages, to train for any sound.

python examples/debian_sounds.py FOLDER OUT --unseen CORPUS/index.csv

FOLDER has one folder per package: `apt-get download PACKAGE && dpkg -x PACKAGE_*.deb
FOLDER/PACKAGE`; src/dpcl/weights/general.md names the packages. All WAV, Ogg and FLAC files except
speech and music are read. OUT/index.csv and one FLAC file each are written: at most ten seconds,
16 kHz, without the silence at its ends. The recordings of a package whose names differ only by a
number form a class. Recordings named as a class of `valid` or `test` of the index are omitted.
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

RATE = 16000  # Hz
LONGEST = 10.0  # s
SHORTEST = 0.06  # s
SUFFIXES = {".wav", ".ogg", ".oga", ".flac"}
# Words of a path that stand for what is not one sound: talkers, and songs.
NO_SOUNDS = re.compile(
    r"voice|speech|taunt|spoken|speak|dialog|narrat|music|song|theme|track|intro|title|menu_?loop",
    re.I,
)
# What else the unseen classes of esc10 and berklee are called.
SYNONYMS = """baby infant cry chainsaw saw sneeze rooster cock cockerel hen chicken sea ocean surf
    wave clock horse neigh gallop hoof scream laugh laughter sword swoosh explosion explode explo
    door gong"""


def words_of(name: str) -> set[str]:
    """The words of a name, without the numbers: metalHit_02 -> metal, hit."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return {word.lower() for word in re.findall(r"[A-Za-z]{2,}", apart)}


def unseen_words(index: Path) -> set[str]:
    """Words of the classes of `valid` and `test` that none of `train` has, and their synonyms."""
    words: dict[bool, set[str]] = {True: set(), False: set()}
    with index.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["corpus"] == "berklee":
                words[row["split"] == "train"] |= words_of(row["speaker"])
    return (words[False] - words[True]) | set(SYNONYMS.split())


def is_unseen(path: Path, unseen: set[str]) -> bool:
    """Whether the name of a recording has an unseen word, alone or, if long, inside another."""
    words = words_of(path.stem)
    long = [word for word in unseen if len(word) >= 5]
    return bool(words & unseen) or any(part in word for word in words for part in long)


def without_silent_ends(
    samples: NDArray[np.float32], floor_db: float = 40.0, step: int = 160
) -> NDArray[np.float32]:
    """(T,) -> what lies between the first and the last 10 ms within `floor_db` of the loudest."""
    padded = np.pad(samples, (0, -len(samples) % step))
    power = (padded.reshape(-1, step) ** 2).mean(1)
    if not power.any():
        return samples[:0]
    loud = np.flatnonzero(power > power.max() * 10 ** (-floor_db / 10))
    return samples[loud[0] * step : (loud[-1] + 1) * step]


def read(path: Path) -> NDArray[np.float32] | None:
    """(T,) at RATE with a peak of 0.9, or None for what is silent, too short, or no sound file."""
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            frames = file.read(round(3 * LONGEST * rate), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        return None
    samples = without_silent_ends(soxr.resample(frames.mean(1), rate, RATE))[
        : round(LONGEST * RATE)
    ]
    peak = float(np.abs(samples).max(initial=0.0))
    if len(samples) < SHORTEST * RATE or peak < 0.003:
        return None
    return samples * np.float32(0.9 / peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with a folder for each package")
    parser.add_argument("out", type=Path, help="the corpus to write")
    parser.add_argument(
        "--unseen", type=Path, required=True, help="index (CSV) of the lists' corpus"
    )
    arguments = parser.parse_args()

    unseen = unseen_words(arguments.unseen)
    arguments.out.mkdir(parents=True)
    rows = []
    heard: set[bytes] = set()  # packages share recordings
    for package in sorted(path for path in arguments.folder.iterdir() if path.is_dir()):
        seconds, first = 0.0, len(rows)
        for path in sorted(package.rglob("*")):
            inside = path.relative_to(package)
            if path.suffix.lower() not in SUFFIXES or path.is_symlink() or not path.is_file():
                continue
            if NO_SOUNDS.search(str(inside)) or is_unseen(path, unseen):
                continue
            samples = read(path)
            if samples is None or samples[:800].tobytes() in heard:
                continue
            heard.add(samples[:800].tobytes())
            name = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "sound"
            speaker = package.name + "-" + (re.sub(r"-?\d+[a-z]?$", "", name) or "sound")
            target = Path(speaker, f"{name}-{len(rows):05d}.flac")
            (arguments.out / target).parent.mkdir(exist_ok=True)
            soundfile.write(arguments.out / target, samples, RATE)
            rows.append(("train", "debian", speaker, "", round(len(samples) / RATE, 3), target))
            seconds += len(samples) / RATE
        print(f"{package.name}: {len(rows) - first} sounds, {seconds / 60:.1f} min", flush=True)
    with (arguments.out / "index.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("split", "corpus", "speaker", "gender", "seconds", "path"))
        writer.writerows(rows)
    classes = len({row[2] for row in rows})
    print(f"{len(rows)} sounds of {classes} classes, {sum(row[4] for row in rows) / 3600:.2f} h")


if __name__ == "__main__":
    main()
