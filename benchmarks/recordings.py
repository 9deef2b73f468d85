"""Recordings of any length to measure on, and how well they were separated.

    python recordings.py render 360 two_talkers.wav --root CORPUS
    python recordings.py score two_talkers.wav out

Two talkers of the validation split of a corpus, each with all their utterances in random order,
again and again, with pauses between; 16 kHz, mono, 16 bits. Without a corpus the talkers are
syllables of harmonics and noise: enough to measure time by, not to score.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

SAMPLE_RATE = 16_000  # Hz
SEED = 0
SOURCES = 2
SHORTEST_VOICE = 20.0  # s of speech that a talker must have in the corpus


def render(seconds: float, path: Path, root: Path | None) -> None:
    """Write the mixture to `path`, its sources beside it as STEM_ref1.wav and STEM_ref2.wav."""
    rng = np.random.default_rng(SEED)
    voices = synthetic_voices(rng) if root is None else corpus_voices(root, rng)
    length = round(seconds * SAMPLE_RATE)
    talkers = np.stack([talk(voice, length, rng) for voice in voices])  # (C, T)
    talkers *= np.float32(0.9 / np.abs(talkers.sum(0)).max())
    soundfile.write(path, talkers.sum(0), SAMPLE_RATE, subtype="PCM_16")
    for number, talker in enumerate(talkers, 1):
        reference = path.with_name(f"{path.stem}_ref{number}.wav")
        soundfile.write(reference, talker, SAMPLE_RATE, subtype="PCM_16")


def talk(
    voice: Sequence[NDArray[np.float32]], length: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """One talker (T,) at RMS 0.1: pieces in random order, pauses of 0.1 to 0.6 s between them."""
    pieces: list[NDArray[np.float32]] = []
    missing = length
    while missing > 0:
        for index in rng.permutation(len(voice)):
            pause = np.zeros(rng.integers(SAMPLE_RATE // 10, 6 * SAMPLE_RATE // 10), np.float32)
            pieces += [voice[index], pause]
            missing -= len(voice[index]) + len(pause)
    samples = np.concatenate(pieces)[:length]
    level = np.sqrt(np.mean(np.square(samples[samples != 0], dtype=np.float64)))
    return samples * np.float32(0.1 / level)


def corpus_voices(root: Path, rng: np.random.Generator) -> list[list[NDArray[np.float32]]]:
    """All utterances of two talkers who say enough: a woman and a man where there are both."""
    from dpcl.mixtures.corpus import read_corpus
    from dpcl.signal.audio import read_mono

    utterances = read_corpus(root, "valid").utterances
    seconds: dict[tuple[str, str], float] = {}
    for said in utterances:
        key = (said.gender, said.speaker)
        seconds[key] = seconds.get(key, 0.0) + said.seconds
    able = sorted(key for key, total in seconds.items() if total >= SHORTEST_VOICE)
    chosen: list[str] = []
    for gender in ("f", "m"):
        names = [speaker for g, speaker in able if g == gender]
        chosen += [names[rng.integers(len(names))]] if names else []
    others = [speaker for _, speaker in able if speaker not in chosen]
    chosen = (chosen + others)[:SOURCES]
    if len(chosen) < SOURCES:
        raise SystemExit(f"{root}: no two talkers of {SHORTEST_VOICE:g} s in its valid split")
    return [
        [read_mono(said.path, SAMPLE_RATE) for said in utterances if said.speaker == speaker]
        for speaker in chosen
    ]


def synthetic_voices(rng: np.random.Generator) -> list[list[NDArray[np.float32]]]:
    """Two talkers of 200 syllables each: a third noise, the rest harmonics under some formants."""
    return [[syllable(pitch, rng) for _ in range(200)] for pitch in (110.0, 210.0)]


def syllable(pitch: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """0.1 to 0.4 s that rise and fall; pitch in Hz."""
    length = int(rng.integers(SAMPLE_RATE // 10, 4 * SAMPLE_RATE // 10))
    if rng.random() < 1 / 3:
        sound = 0.1 * np.diff(rng.standard_normal(length + 1))
    else:
        glide = pitch * np.linspace(rng.uniform(0.85, 1.15), rng.uniform(0.85, 1.15), length)
        phase = 2 * np.pi * np.cumsum(glide) / SAMPLE_RATE
        formants = rng.uniform((250, 800, 2200), (800, 2200, 3500))  # Hz
        sound = np.zeros(length)
        for harmonic in range(1, int(7000 / pitch)):
            distance = (harmonic * pitch - formants) / (0.1 * formants + 50)
            sound += np.exp(-0.5 * distance**2).sum() * np.sin(harmonic * phase)
    return (np.hanning(length) * sound).astype(np.float32)


def score(recording: Path, out: Path) -> float:
    """Mean SI-SDRi in dB, at 8 kHz, of the files in `out` against the references."""
    import torch

    from dpcl.evaluation.metrics import best_permutation, si_sdr
    from dpcl.signal.audio import read_mono

    def stack(paths: Sequence[Path]) -> torch.Tensor:
        return torch.from_numpy(np.stack([read_mono(path, 8000) for path in paths]))

    mixture = stack([recording])[0]
    references = stack(sorted(recording.parent.glob(f"{recording.stem}_ref*.wav")))
    estimates = stack(sorted(out.glob("*.wav")))
    # What is framed without padding is short or long by part of a window.
    length = min(references.shape[-1], estimates.shape[-1])
    mixture, references = mixture[:length], references[:, :length]
    estimates = estimates[:, :length]
    order = best_permutation(estimates, references)
    improvement = si_sdr(estimates[order], references) - si_sdr(mixture, references)
    return float(improvement.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    to_render = verbs.add_parser("render")
    to_render.add_argument("seconds", type=float)
    to_render.add_argument("path", type=Path)
    to_render.add_argument("--root", type=Path)
    to_score = verbs.add_parser("score")
    to_score.add_argument("recording", type=Path)
    to_score.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "render":
        render(arguments.seconds, arguments.path, arguments.root)
    else:
        print(score(arguments.recording, arguments.out))


if __name__ == "__main__":
    main()
