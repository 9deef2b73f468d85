"""Sources get the names of known voices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import dpcl
from dpcl.apps.files import read_voices, separate_file
from dpcl.clustering import agglomerative
from dpcl.clustering.agglomerative import assign_names
from dpcl.errors import InputError, check_voices
from dpcl.model import Model, save_model
from dpcl.recordings.separate import enrol, separate_recording
from dpcl.separators.guided import GuidedClustering

RATE = 8000


@pytest.fixture
def weights(model: Model, tmp_path: Path) -> Path:
    path = tmp_path / "voices.safetensors"
    save_model(model, path)
    return path


def sound(seconds: float, seed: int = 2) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return (0.1 * noise).astype(np.float32)


def test_one_talker_for_a_voice_if_they_are_similar() -> None:
    eye = torch.eye(4)
    near = torch.nn.functional.normalize(eye[0] + 0.3 * eye[1], dim=0)
    assert assign_names(eye[:3], {"ann": near, "bob": eye[1]}) == {0: "ann", 1: "bob"}
    # Both are like the first talker: the more similar voice gets it, the other one gets none.
    assert assign_names(eye[:3], {"ann": near, "bob": eye[0]}) == {0: "bob"}
    assert assign_names(eye[:2], {"ann": eye[3]}) == {}


@pytest.mark.parametrize("seconds", [3.0, 21.0])
def test_sources_and_timeline_carry_the_name(
    model: Model, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(
        agglomerative, "KNOWN", -1.0
    )  # a random network: every voice is similar enough
    separator = enrol(GuidedClustering(model), {"ann": sound(2, 5)}, RATE)
    found = separate_recording(sound(seconds), RATE, separator, 2)
    assert sorted(found.names)[0] == "ann" and len(set(found.names)) == 2
    assert found.timeline is not None and found.timeline.talkers == found.names
    monkeypatch.setattr(agglomerative, "KNOWN", 1.1)
    assert separate_recording(sound(seconds), RATE, separator, 2).names == ("s1", "s2")


def test_files_of_known_voices(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agglomerative, "KNOWN", -1.0)
    recording, ann, out = tmp_path / "rec.wav", tmp_path / "ann.wav", tmp_path / "out"
    soundfile.write(recording, sound(2), RATE)
    soundfile.write(ann, np.repeat(sound(2, 5), 2), 2 * RATE)  # another rate
    done = separate_file(recording, out, 2, str(weights), voices={"ann": ann})
    names = sorted(path.name for path in out.iterdir())
    assert names[:2] == ["rec_ann.wav", "rec_background.wav"] and names[2] in (
        "rec_s1.wav",
        "rec_s2.wav",
    )
    assert "ann" in done.names and [p.name for p in done.sources] == [
        f"rec_{name}.wav" for name in done.names
    ]
    alone = separate_file(
        recording, out, 2, str(weights), voices={"ann": ann}, only="ann", force=True
    )
    assert [path.name for path in out.iterdir()] == ["rec_ann.wav"]  # the others are replaced
    assert alone.names == ("ann",) and alone.background is None


def test_the_command_writes_one_talker_with_a_timeline(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dpcl.apps.cli import _run

    monkeypatch.setattr(agglomerative, "KNOWN", -1.0)
    for name, seed in (("rec", 2), ("ann", 5)):
        soundfile.write(tmp_path / f"{name}.wav", sound(2, seed), RATE)
    arguments = ["separate", str(tmp_path / "rec.wav"), "-o", str(tmp_path / "out"), "-n", "2"]
    arguments += ["-m", str(weights), "--voice", f"Ann B={tmp_path / 'ann.wav'}"]
    assert _run([*arguments, "--only", "Ann B", "--timeline", "--json"]) == (0, "")
    (document,) = json.loads(capsys.readouterr().out)
    assert document["names"] == ["Ann B"]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"rec_Ann B.wav"} | {f"rec_timeline{x}" for x in (".txt", ".rttm", ".json")}
    timeline = json.loads((tmp_path / "out" / "rec_timeline.json").read_text())
    assert timeline["talkers"] == ["Ann B"]
    monkeypatch.setattr(agglomerative, "KNOWN", 1.1)
    arguments[3] = str(tmp_path / "none")
    status, message = _run([*arguments, "--only", "Ann B"])
    assert status == 2 and "--only Ann B: this voice was not found; omit --only" in message
    assert not (tmp_path / "none").exists() or not list((tmp_path / "none").iterdir())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "A"], "--voice A: the name occurs twice"),
        (["s1"], "--voice s1: is the name of another output"),
        (["background"], "is the name of another output"),
        (["a/b"], "is no part of a file name"),
        ([""], "is no part of a file name"),
        (["x" * 101], "is longer than 100 bytes"),
    ],
)
def test_names_that_are_no_names(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_voices(dict.fromkeys(names))


def test_a_recording_without_talkers_is_one_sentence(weights: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "rec.wav", np.zeros(RATE), RATE)
    done = separate_file(tmp_path / "rec.wav", tmp_path / "out", 1, str(weights))
    assert "rec.wav: no talker was found; almost all sound is in rec_background.wav" in [
        warning.removeprefix(f"{tmp_path}/") for warning in done.warnings
    ]


@pytest.mark.parametrize("option", ["ann.wav", "=ann.wav", "ann="])
def test_a_voice_is_a_name_and_a_file(option: str) -> None:
    with pytest.raises(InputError, match="has no name and file; give NAME=FILE"):
        read_voices([option])


def test_the_same_name_twice() -> None:
    with pytest.raises(InputError, match="--voice a: the name occurs twice"):
        read_voices(["a=1.wav", "a=2.wav"])


def test_voices_that_cannot_be_used(
    weights: Path,
    background_model: Path,
    tmp_path: Path,
    contents: Callable[[Path], dict[str, bytes]],
) -> None:
    recording = tmp_path / "rec.wav"
    soundfile.write(recording, sound(1), RATE)
    before = contents(tmp_path)
    for name, voices, only, message in (
        (weights, {"ann": tmp_path / "no.wav"}, None, "no.wav"),
        (weights, {}, "ann", "--only ann: has no recording; add --voice ann=FILE"),
        (background_model, {"ann": recording}, None, "--voice: the model finds no talkers"),
    ):
        with pytest.raises(InputError, match=message):
            separate_file(recording, tmp_path / "out", 2, str(name), voices=voices, only=only)
    with pytest.raises(InputError, match=r"--voice ann: has 0\.0 s of speech"):
        dpcl.separate(sound(1), RATE, 2, str(weights), voices={"ann": np.zeros(RATE, np.float32)})
    assert contents(tmp_path) == before
