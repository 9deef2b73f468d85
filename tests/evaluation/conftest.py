"""A corpus of noises for whole experiments, and lists of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from dpcl.mixtures.rows import MixtureRow, SourceRow

RATE = 8000
# Dee speaks once only, and a mixture takes all of it: nobody can learn how she sounds.
TALKERS = {"ann": ("f", 3), "bob": ("m", 3), "cy": ("m", 3), "dee": ("f", 1)}


@pytest.fixture(scope="session")
def noises(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with index.csv and four talkers of noise, each in a band and at times of his own."""
    root = tmp_path_factory.mktemp("noises")
    rng = np.random.default_rng(0)
    lines = ["split,corpus,speaker,gender,path,text"]
    for band, (name, (gender, count)) in enumerate(TALKERS.items()):
        for number in range(count):
            seconds = 1 if name == "dee" else 3
            spectrum = np.fft.rfft(rng.standard_normal(seconds * RATE))
            away = np.abs(np.fft.rfftfreq(seconds * RATE) - (0.08 + 0.1 * band)) > 0.06
            spectrum[away] *= 0.03
            gate = np.repeat(rng.random(10 * seconds) > 0.3, RATE // 10)
            samples = np.fft.irfft(spectrum) * gate
            soundfile.write(
                root / f"{name}{number}.wav", 0.5 * samples / np.abs(samples).max(), RATE
            )
            lines.append(f"test,x,{name},{gender},{name}{number}.wav,{name}{number}")
    (root / "index.csv").write_text("\n".join(lines) + "\n")
    return root


def noise_row(number: int, *talkers: str, level: float = 0.0, name: str = "open2") -> MixtureRow:
    """A mixture of these talkers' first recordings, the first `level` dB over the second."""
    gains = [level / 2, -level / 2, 0.0]
    sources = tuple(
        SourceRow(talker, (f"{talker}0.wav",), 0.0, gain)
        for talker, gain in zip(talkers, gains, strict=False)
    )
    genders = {TALKERS[talker][0] for talker in talkers}
    return MixtureRow(
        f"{name}-{number}", name, 0, 1.0, "within", "same" if len(genders) == 1 else "different",
        sources,
    )  # fmt: skip


@pytest.fixture(scope="session")
def noise_rows() -> list[MixtureRow]:
    return [
        noise_row(1, "ann", "bob", level=4),
        noise_row(2, "bob", "cy", level=-4),
        noise_row(3, "ann", "dee", level=0),
        noise_row(4, "cy", "ann", level=2),
    ]
