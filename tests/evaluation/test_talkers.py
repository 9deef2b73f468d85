"""What speaker-dependent separators learn from: other speech of the talkers, never the mixture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from dpcl.errors import InputError
from dpcl.evaluation.evaluate import KnownTalkers, evaluate
from dpcl.mixtures.rows import MixtureRow, SourceRow
from dpcl.separators.base import Context, WindowSeparator
from dpcl.separators.registry import Method, find_method
from dpcl.signal.stft import STFT

RATE = 8000
# split, speaker, file, seconds; every sample of a file has a value of its own file
FILES = [
    ("train", "ann", "ann1", 3.0),
    ("train", "ann", "ann2", 3.0),
    ("closed", "ann", "ann3", 3.0),
    ("closed", "ann", "ann4", 3.0),
    ("test", "bob", "bob1", 3.0),
    ("test", "bob", "bob2", 3.0),
    ("test", "cy", "cy1", 9.0),
    ("test", "dee", "dee1", 3.0),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    lines = ["split,corpus,speaker,gender,path"]
    for number, (split, speaker, name, seconds) in enumerate(FILES, 1):
        samples = np.full(round(seconds * RATE), number / 16)
        if speaker == "cy":  # whose samples say where they stand
            samples = np.arange(len(samples)) / 2**17
        soundfile.write(root / f"{name}.wav", samples, RATE, subtype="FLOAT")
        lines.append(f"{split},x,{speaker},f,{name}.wav")
    (root / "index.csv").write_text("\n".join(lines) + "\n")
    return root


def _row(
    *talkers: tuple[str, str], start: float = 0.0, seconds: float = 2.9, pause: float = 0.0
) -> MixtureRow:
    sources = tuple(
        SourceRow(speaker, tuple(f"{name}.wav" for name in names.split()), start, 0.0, pause)
        for speaker, names in talkers
    )
    return MixtureRow("m1", "tiny", 0, seconds, "within", "same", sources)


def _learned(root: Path, *rows: MixtureRow) -> list[list[Tensor]]:
    """The recordings that a method was given, talker by talker."""
    given: list[list[Tensor]] = []

    def learn(recordings: Sequence[Tensor]) -> int:
        given.append(list(recordings))
        return len(given)

    method = Method("equal", RATE, _Equal, "talkers", learn)
    known = KnownTalkers(method, rows, root)
    for row in rows:
        models = known.models(row)
        assert len(models) == len(row.sources)
        assert set(models) <= set(range(1, len(given) + 1))
    return given


class _Equal(WindowSeparator):
    """As many equal sources as there are models."""

    sample_rate = RATE
    stft = STFT(256, 64)

    def __init__(self, context: Context) -> None:
        self.default_sources = len(context.talkers)

    def estimate(self, spectrum: Tensor, num_sources: int, start: int) -> Tensor:
        return torch.full((num_sources, *spectrum.shape), 1 / num_sources)


def _values(recordings: list[Tensor]) -> list[float]:
    return [16 * float(recording[0]) for recording in recordings]


def test_closed_talkers_are_learned_from_their_training_speech(corpus: Path) -> None:
    (ann,) = _learned(corpus, _row(("ann", "ann3")))
    assert _values(ann) == [1, 2]


def test_open_talkers_are_learned_from_their_other_recordings(corpus: Path) -> None:
    (bob,) = _learned(corpus, _row(("bob", "bob1")))
    assert _values(bob) == [6]


def test_talker_mixed_with_himself_gives_away_neither_recording(corpus: Path) -> None:
    learned = _learned(corpus, _row(("ann", "ann1"), ("ann", "ann3")))
    assert [_values(ann) for ann in learned] == [[4], [2]]


@pytest.mark.parametrize(
    ("start", "pause", "paths", "left"),
    [
        (0.0, 0.0, "cy1", [(3, 9)]),
        (3.0, 0.0, "cy1", [(0, 3), (6, 9)]),
        (7.0, 0.0, "cy1 cy1", [(1, 7)]),  # heard are the last 2 s and, begun again, the first one
        (8.0, 1.0, "cy1 cy1", [(1, 8)]),  # the last 1 s, a pause of 1 s, and the first 1 s
    ],
)
def test_talker_of_one_recording_is_learned_from_what_the_mixture_leaves_out(
    corpus: Path, start: float, pause: float, paths: str, left: list[tuple[float, float]]
) -> None:
    (cy,) = _learned(corpus, _row(("cy", paths), start=start, seconds=3.0, pause=pause))
    assert len(cy) == len(left)
    for recording, (first, last) in zip(cy, left, strict=True):
        places = recording * 2**17 / RATE  # s
        assert first <= places[0] <= first + 0.2
        assert last - 0.2 <= places[-1] <= last


def test_models_are_learned_once(corpus: Path) -> None:
    assert len(_learned(corpus, _row(("ann", "ann3")), _row(("ann", "ann3")))) == 1


def test_talker_without_other_speech_is_named(corpus: Path, tmp_path: Path) -> None:
    rows = [_row(("bob", "bob1"), ("dee", "dee1"))]
    with pytest.raises(InputError, match=r"m1 of list tiny: .*no 2 s of other speech of dee"):
        evaluate(rows, corpus, find_method("nmf"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_recording_that_the_corpus_does_not_list_is_named(corpus: Path) -> None:
    with pytest.raises(InputError, match=r"m1 of list tiny: .*eve\.wav"):
        _learned(corpus, _row(("eve", "eve")))


@pytest.mark.parametrize("name", ["fhmm", "nmf"])
def test_methods_separate_talkers_of_a_list(name: str, tmp_path: Path) -> None:
    pytest.importorskip("fast_bss_eval")
    random = np.random.default_rng(0)
    bands = {"low": (300, 1200), "high": (1600, 3500)}
    for talker, (first, last) in bands.items():
        (tmp_path / talker).mkdir()
        for number in range(2):
            spectrum = np.fft.rfft(random.standard_normal(3 * RATE))
            frequencies = np.fft.rfftfreq(3 * RATE, 1 / RATE)
            spectrum[(frequencies < first) | (frequencies > last)] *= 0.02
            samples = np.fft.irfft(spectrum) * np.repeat(random.random(30) > 0.3, 800)
            path = tmp_path / talker / f"{number}.wav"
            soundfile.write(path, 0.5 * samples / np.abs(samples).max(), RATE)
    row = _row(("high", "high/0"), ("low", "low/0"), seconds=1.0)
    summary = evaluate([row], tmp_path, find_method(name), tmp_path / "out").overall
    assert summary.sources == 2
    assert summary.si_sdri is not None and summary.si_sdri > 8
