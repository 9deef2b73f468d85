"""Who says what: chunks of speech for a recogniser, times in the recording, subtitles."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import dpcl
from dpcl.errors import InputError
from dpcl.io import Progress
from dpcl.recordings.recogniser import RATE, Whisper, Word, find_model
from dpcl.recordings.transcript import (
    SpeechTracks,
    Transcript,
    Utterance,
    srt_text,
    transcribe_tracks,
    transcript_json,
    vtt_text,
)
from dpcl.separators.base import Segment, Separation, Timeline
from dpcl.signal.audio import read_audio, resample

FULL = ("model.bin", "config.json", "tokenizer.json")


class StandIn:
    """A recogniser that says how long its samples are, a word before and one after a pause."""

    name, language = "stand-in", None

    def __init__(self) -> None:
        self.calls: list[tuple[NDArray[np.float32], str | None]] = []

    def __call__(
        self, samples: NDArray[np.float32], language: str | None
    ) -> tuple[list[list[Word]], str]:
        self.calls.append((samples, language))
        seconds = len(samples) / RATE
        words = [Word(0.2, 0.4, " Well,", 0.9), Word(0.5, 0.7, " yes.", 0.8)]
        late = [Word(seconds - 0.3, seconds + 1, f" {seconds:.1f}", 0.7), Word(0.0, 0.0, " ", 0.1)]
        return [words + late[:1], late[1:], []], language or f"language {len(self.calls)}"


def tracks(*seconds: float) -> list[NDArray[np.float32]]:
    return [np.ones(round(length * RATE), np.float32) for length in seconds]


def test_each_talker_is_recognised_where_they_speak() -> None:
    """Segments share a chunk up to a pause; other talkers in the pauses are not recognised."""
    timeline = Timeline(
        (
            Segment(1.0, 2.0, "s1"),
            Segment(3.5, 5.0, "s1"),
            Segment(4.0, 4.5, "s2"),
            Segment(20.0, 21.0, "s1"),
        ),
        21.0,
        ("s1", "s2", "s3"),
    )
    recogniser, moved = StandIn(), list[Progress]()
    found = transcribe_tracks(tracks(21, 21, 21), timeline, recogniser, moved.append)
    lengths = [len(samples) / RATE for samples, _ in recogniser.calls]
    assert lengths == pytest.approx([4.4, 1.2, 0.9])  # 0.2 s before and after, within the recording
    assert [language for _, language in recogniser.calls] == [None, "language 1", None]
    first = recogniser.calls[0][0]  # 0.8 to 5.2 s
    assert first[: round(1.4 * RATE)].all()
    assert not first[round(1.4 * RATE) : round(2.5 * RATE)].any()
    assert [(x.start, x.talker, x.text) for x in found.utterances] == [
        (1.0, "s1", "Well, yes."),
        (4.0, "s2", "Well, yes. 0.9"),
        (4.9, "s1", "4.4"),
        (20.0, "s1", "Well, yes. 1.2"),
    ]
    assert found.utterances[-1].end == 21.0
    assert found.talkers == ("s1", "s2", "s3")
    assert found.languages == {"s1": "language 1", "s2": "language 3"}
    assert [round(x.done / x.total, 2) for x in moved] == [0.73, 0.91, 1.0]


def test_long_speech_is_cut_and_silence_has_no_words() -> None:
    long = [Segment(0.0, 1300.0, "s1")]
    long += [Segment(1301.0 + 10 * k, 1310.0 + 10 * k, "s1") for k in range(4)]
    recogniser = StandIn()
    transcribe_tracks(tracks(1350), Timeline(tuple(long), 1350.0), recogniser)
    assert sorted(round(len(samples) / RATE, 1) for samples, _ in recogniser.calls) == [
        *(9.4, 29.4, 100.4, 600.2, 600.4)
    ]
    silent = transcribe_tracks(tracks(3), Timeline((), 3.0, ("s1",)), recogniser)
    assert silent.utterances == ()
    assert (srt_text(silent), vtt_text(silent).count("-->")) == ("", 0)


def test_subtitles_and_json_hold_every_utterance() -> None:
    words = (Word(0.0, 0.5, "a<b", 0.25),)
    transcript = Transcript(
        (Utterance(0.0, 0.5, "s1", "a<b --> c", words), Utterance(3600.25, 3601, "s2", "ja")),
        ("s1", "s2"),
        {"s1": "en", "s2": "de"},
        4000.0,
        "base",
    )
    assert srt_text(transcript).split("\n\n")[1].splitlines() == [
        "2",
        "01:00:00,250 --> 01:00:01,000",
        "s2: ja",
    ]
    lines = vtt_text(transcript).splitlines()
    assert lines[0] == "WEBVTT"
    assert lines[2].startswith("NOTE dpcl ")
    assert lines[5:7] == ["<v s1>a&lt;b --&gt; c</v>", ""]
    document = json.loads(transcript_json("a", transcript))
    assert document["languages"] == {"s1": "en", "s2": "de"}
    assert document["utterances"][0]["words"] == [
        {"start": 0.0, "end": 0.5, "text": "a<b", "probability": 0.25}
    ]


@pytest.mark.parametrize("channels", [None, (1,)])
def test_tracks_are_the_sources_at_the_rate_of_the_recogniser(
    tmp_path: Path, channels: tuple[int, ...] | None
) -> None:
    sources = 0.1 * torch.randn(2, 2, 44100, generator=torch.Generator().manual_seed(0))
    writer = SpeechTracks(tmp_path, 2, 44100, channels)
    for piece in torch.split(sources, 10000, -1):
        writer.write(piece)
    mono = (sources[:, list(channels)] if channels else sources).mean(1).numpy()
    for found, expected in zip(writer.arrays(), mono, strict=True):
        np.testing.assert_allclose(found, resample(expected, 44100, RATE), atol=1e-5)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A module faster_whisper whose cache holds the model `base` in `cached`."""
    state = SimpleNamespace(cached=tmp_path / "cache", given=None)

    class WhisperModel:
        supported_languages = ("en", "de")

        def __init__(self, folder: str, device: str, **given: Any) -> None:
            assert given["local_files_only"]
            state.given = (folder, device)
            if not (Path(folder) / "model.bin").read_bytes():
                raise RuntimeError("File model.bin is incomplete: no bytes.\nmore")

        def transcribe(self, samples: Any, language: str | None, **_: Any) -> tuple[Any, Any]:
            word = SimpleNamespace(start=np.float64(0.1), end=0.2, word=" hm", probability=0.5)
            parts = (SimpleNamespace(words=words) for words in ([word], None))
            return parts, SimpleNamespace(language=language or "de")

    def download_model(name: str, local_files_only: bool) -> str:
        assert local_files_only
        if name != "base":
            raise FileNotFoundError("not in the cache")
        return str(state.cached)

    module: Any = ModuleType("faster_whisper")
    module.__spec__ = ModuleSpec("faster_whisper", None)
    module.WhisperModel, module.download_model = WhisperModel, download_model
    module.available_models = lambda: ["tiny", "base"]
    module.utils = SimpleNamespace(_MODELS={"base": "acme/base", "tiny": "acme/tiny"})
    monkeypatch.setitem(sys.modules, "faster_whisper", module)
    yield state


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("x")
    return folder


def test_a_model_comes_from_a_folder_or_from_the_cache(
    package: SimpleNamespace, tmp_path: Path
) -> None:
    folder = fill(tmp_path / "mine", *FULL)
    assert Whisper(str(folder), device="mps")(np.zeros(9, np.float32), None) == (
        [[Word(0.1, 0.2, " hm", 0.5)], []],
        "de",
    )
    assert package.given == (str(folder), "cpu")
    fill(package.cached, *FULL)
    assert Whisper("base", "en").language == "en"
    assert package.given == (str(package.cached), "cpu")


@pytest.mark.parametrize(
    ("model", "language", "message"),
    [
        ("tiny", None, r"tiny is not on this computer; get it with `hf download acme/tiny`"),
        ("me/mine", None, "get it with `hf download me/mine`, or give the folder"),
        ("base", None, "lacks model.bin; complete it with `hf download acme/base`"),
        ("bigger", None, "'bigger' is no folder and no Whisper model; give a folder, ORG/NAME"),
        ("./nowhere", None, "'./nowhere' is no folder"),
        ("", None, "'' is no folder"),
        ("torch", None, "lacks model.bin; convert it with `ct2-transformers-converter --model"),
        ("empty", None, "lacks model.bin; give the folder of a Whisper model in the format"),
        ("broken", None, r"cannot be read \(File model.bin is incomplete: no bytes\); fetch it"),
        ("good", "tlh", "--language: the model good has no language 'tlh'"),
    ],
)
def test_a_model_that_does_not_serve_is_named_with_a_remedy(
    package: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: str,
    language: str | None,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(package.cached, "config.json")
    fill(Path("torch"), "model.safetensors")
    fill(Path("empty"))
    fill(Path("good"), *FULL)
    (fill(Path("broken"), *FULL) / "model.bin").write_text("")
    with pytest.raises(InputError, match=message):
        Whisper(model, language)


def test_without_the_extra_a_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    monkeypatch.setattr("dpcl.errors.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'transcripts need .* `pip install "dpcl\[asr\]"`'):
        Whisper("base")


def test_a_separation_is_transcribed(package: SimpleNamespace) -> None:
    fill(package.cached, *FULL)
    timeline = Timeline((Segment(0.5, 1.0, "s2"),), 1.0, ("s1", "s2"))
    sources = torch.zeros(2, 2, 8000)
    found = dpcl.transcribe(Separation(sources, timeline=timeline, sample_rate=8000), "base")
    assert str(found) == "s2: hm"
    assert found.utterances[0].start == pytest.approx(0.4)
    with pytest.raises(InputError, match="separation: is a batch"):
        dpcl.transcribe(Separation(sources), "base")


def test_names_of_models_agree_with_faster_whisper(monkeypatch: pytest.MonkeyPatch) -> None:
    faster_whisper = pytest.importorskip("faster_whisper")

    def download_model(name: str, local_files_only: bool) -> str:
        raise FileNotFoundError("not in the cache")

    monkeypatch.setattr(faster_whisper, "download_model", download_model)
    for size in faster_whisper.available_models():
        with pytest.raises(InputError, match=r"get it with `hf download [\w.-]+/[\w.-]+`"):
            find_model(size)


def test_a_real_model_recognises_the_example() -> None:
    """DPCL_WHISPER is the folder of any Whisper model for faster-whisper."""
    folder = os.environ.get("DPCL_WHISPER")
    if not folder:
        pytest.skip("DPCL_WHISPER names no model")
    pytest.importorskip("faster_whisper")
    samples, rate = read_audio(Path(__file__).parents[2] / "examples" / "two_talkers.flac")
    found = dpcl.transcribe(dpcl.separate(samples[0], rate, sources=2), folder, "en")
    text = str(found).lower()
    assert "john dashwood" in text
    assert "front, center" in text
    assert {x.talker for x in found.utterances} == {"s1", "s2"}
