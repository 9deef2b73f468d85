"""Make examples/two_talkers.flac and its two references again, from two Debian packages.

    apt-get download pocketsphinx-testdata alsa-utils
    for package in *.deb; do dpkg -x "$package" unpacked; done
    python examples/make_examples.py unpacked

A man reads a sentence, a woman names loudspeakers; see README.md here for whom to thank. The files
are 16-bit integers, and the two references add up to the mixture exactly.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import soundfile as sf

from dpcl.mixtures.render import mix_sources
from dpcl.signal.audio import read_mono

SAMPLE_RATE = 16000
HERE = Path(__file__).parent
MAN = ["usr/share/pocketsphinx/test/data/librivox/sense_and_sensibility_01_austen_64kb-0870.wav"]
WOMAN = [
    f"usr/share/sounds/alsa/{place}.wav"
    for place in ("Front_Center", "Front_Left", "Side_Right", "Rear_Center", "Rear_Left")
]


def make(packages: Path, out: Path) -> None:
    """Write the mixture and the references to the folder `out`."""
    talkers = []
    for files in (MAN, WOMAN):
        voice = np.concatenate([read_mono(packages / name, SAMPLE_RATE) for name in files])
        talkers.append(voice - voice.mean())  # the reader's recording has an offset
    # Both at the same active level, the peak of mixture and references at 0.9.
    sources = mix_sources(talkers, gains_db=[0.0, 0.0], sample_rate=SAMPLE_RATE)  # (2, T)
    references = np.round(32768 * sources).astype(np.int16)
    mixture = references.sum(axis=0, dtype=np.int16)
    sf.write(out / "two_talkers.flac", mixture, SAMPLE_RATE, subtype="PCM_16")
    for number, reference in enumerate(references, start=1):
        sf.write(out / f"two_talkers_ref{number}.flac", reference, SAMPLE_RATE, subtype="PCM_16")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    make(Path(sys.argv[1]), HERE)
