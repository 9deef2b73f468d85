"""Build the corpus examples/quick from LibriSpeech train-clean-100 and speechocean762.

python examples/make_quick.py INDEX.csv

INDEX.csv is an index with the corpora `librispeech` and `speechocean762`, split `train`, as
`dpcl corpus` writes it, with a column `age` for speechocean762. Each voice becomes one Opus file
of at most 20 s at 8 kHz. From LibriSpeech only women are read: the man of examples/two_talkers.flac
is an unnamed LibriVox reader, as are the men of LibriSpeech.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from dpcl.signal.audio import read_mono

RATE = 8000  # Hz
SECONDS = 20.0  # longest recording of one voice
OUT = Path(__file__).parent / "quick"
COMPRESSION = 0.965  # of libsndfile, 0 to 1: about 14 kbit/s
# Voices to take, and how many of them validate.
TAKEN = {("librispeech", "f"): (50, 4), ("speechocean762", "m"): (26, 4)}
TAKEN |= {("speechocean762", "f"): (14, 0)}


def voices(index: Path) -> dict[tuple[str, str], dict[str, list[Path]]]:
    """Return the recordings of adults in the split `train`, by corpus, gender and speaker."""
    found: dict[tuple[str, str], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    with index.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            adult = not row.get("age") or int(row["age"]) >= 18
            if row["split"] == "train" and adult:
                path = index.parent / row["path"]
                found[row["corpus"], row["gender"]][row["speaker"]].append(path)
    return found


def joined(paths: list[Path]) -> NDArray[np.float32]:
    """Return at most SECONDS of one voice (T,), with a peak of 0.5."""
    parts, total = [], 0
    for path in sorted(paths):
        part = read_mono(path, RATE)
        parts.append(part / max(float(np.abs(part).max()), 1e-4))
        total += len(part)
        if total >= SECONDS * RATE:
            break
    return 0.5 * np.concatenate(parts)[: round(SECONDS * RATE)]


def main(index: Path) -> None:
    """Write OUT/CORPUS/SPEAKER.opus and OUT/index.csv."""
    rows = []
    found = voices(index)
    for (corpus, gender), (number, held_out) in TAKEN.items():
        speakers = found[corpus, gender]
        # The talkers with the most recordings come first.
        ranked = sorted(speakers, key=lambda name: (-len(speakers[name]), name))[:number]
        for rank, speaker in enumerate(sorted(ranked)):
            samples = joined(speakers[speaker])
            place = f"{corpus}/{speaker}.opus"
            (OUT / corpus).mkdir(parents=True, exist_ok=True)
            with sf.SoundFile(
                OUT / place,
                "w",
                RATE,
                1,
                format="OGG",
                subtype="OPUS",
                compression_level=COMPRESSION,
            ) as file:
                file.write(samples)
            split = "valid" if rank < held_out else "train"
            rows.append((split, corpus, speaker, gender, place, f"{len(samples) / RATE:.3f}"))
    with (OUT / "index.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("split", "corpus", "speaker", "gender", "path", "seconds"))
        writer.writerows(sorted(rows))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
