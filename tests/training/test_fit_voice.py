"""Voice networks are fitted on talkers under conditions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dpcl.errors import InputError
from dpcl.mixtures.conditions import ConditionSettings
from dpcl.mixtures.corpus import pack_corpus, read_corpus
from dpcl.mixtures.stream import TrainingMixtures
from dpcl.model import Model, load_model, save_model
from dpcl.networks.activity import VoiceNetwork
from dpcl.training import fit_voice as module
from dpcl.training.fit_voice import SPANS, draw_spans, fit_voice, read_targets
from dpcl.training.phases import Fit
from dpcl.training.recipe import DataSettings


@pytest.fixture
def talkers(tmp_path: Path) -> Path:
    """A corpus of three tones, one per talker."""
    import soundfile

    root = tmp_path / "corpus"
    root.mkdir()
    lines = ["split,corpus,speaker,gender,path"]
    time = np.arange(16000) / 8000
    for number, name in enumerate(("ann", "bob", "cy")):
        soundfile.write(root / f"{name}.wav", 0.3 * np.sin((2000 + 3000 * number) * time), 8000)
        lines.append(f"train,x,{name},f,{name}.wav")
    (root / "index.csv").write_text("\n".join(lines) + "\n")
    return root


def test_the_number_of_a_talker_is_the_one_who_is_drawn(talkers: Path, tmp_path: Path) -> None:
    packed = pack_corpus(read_corpus(talkers), 8000, tmp_path / "cache")
    mixtures = TrainingMixtures(packed, 1, 4000, 20, seed=3)
    assert mixtures.num_talkers == 3
    for item in range(12):
        spectrum = torch.fft.rfft(mixtures[item][0]).abs()
        hertz = float(spectrum.argmax()) * 2
        assert round((hertz * 2 * np.pi - 2000) / 3000) == mixtures.talker(item)


def test_a_voice_network_is_fitted_saved_and_read(
    talkers: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VOICE_BATCH", 4)
    monkeypatch.setattr(module, "VOICE_WIDTH", 12)
    monkeypatch.setattr(module, "VOICE_SIZE", 6)
    monkeypatch.setattr(module, "SECONDS", 0.5)
    monkeypatch.setattr(module, "SHORTEST", 0.2)
    conditions = ConditionSettings.model_validate(
        {
            "talkers": [1.0],
            "rooms": {"probability": 0},
            "background": {"probability": 0.5, "shares": {"noise": 1.0}},
            "codec": {"probability": 0},
        }
    )
    data = DataSettings(
        corpora=(str(talkers),), cache=str(tmp_path / "cache"), conditions=conditions
    )
    model, seen = load_model(tiny_model), []
    teacher = tmp_path / "teacher.npz"
    np.savez(teacher, names=["ann.wav", "bob.wav", "cy.wav"], vectors=np.eye(3, 5))
    fit = Fit(fit="voice", voice_steps=3, teacher=str(teacher))
    fitted = fit_voice(model, fit, data, read_corpus(talkers), seen.append)
    notes = [report.note for report in seen if report.unit == "steps"]
    assert len(notes) == 3 and all(note.startswith("voice, loss") for note in notes)
    assert all("teacher" in note for note in notes)
    assert isinstance(fitted.voice, VoiceNetwork) and not fitted.voice.training
    save_model(fitted, tmp_path / "a.safetensors")
    read = load_model(tmp_path / "a.safetensors")
    assert read.voice is not None and read.activity is None
    levels = torch.randn(2, 30, len(read.voice.pool))
    weights = torch.rand(2, 30, 1)
    torch.testing.assert_close(
        read.voice.pooled(levels, weights), fitted.voice.pooled(levels, weights)
    )
    with pytest.raises(InputError, match="fit voice: needs rooms and noise"):
        fit_voice(model, Fit(fit="voice"), replace_data(data), read_corpus(talkers), seen.append)


def test_vectors_of_a_teacher_are_means_of_talkers(talkers: Path, tmp_path: Path) -> None:
    corpus, path = read_corpus(talkers), tmp_path / "teacher.npz"
    np.savez(path, names=["cy.wav", "ann.wav", "bob.wav"], vectors=np.eye(3))
    found = read_targets(path, talkers, corpus)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert found.argmax(1).tolist() == [1, 2, 0]  # in the order of the corpus
    np.savez(path, names=["ann.wav", "bob.wav"], vectors=np.eye(2))
    with pytest.raises(InputError, match="has no utterance of x/cy"):
        read_targets(path, talkers, corpus)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="holds no `names`"):
        read_targets(path, talkers, corpus)


def replace_data(data: DataSettings) -> DataSettings:
    return data.model_copy(update={"conditions": None})


def test_pooling_over_all_frames_is_the_mean_of_moments(tiny_model: Path) -> None:
    torch.manual_seed(0)
    network = VoiceNetwork(129).eval()
    levels = torch.randn(1, 20, len(network.pool))
    whole = network.pooled(levels, torch.ones(1, 20, 1))
    torch.testing.assert_close(whole, network.pooled(levels, 0.1 * torch.ones(1, 20, 1)))
    torch.testing.assert_close(whole[0, 0], network(levels)[0, 0])  # the reach covers 20 frames


def test_spans_lie_within_the_frames() -> None:
    spans = draw_spans(np.random.default_rng(0), 100, 15.0, 50)
    assert spans.shape == (50, 100, SPANS)
    lengths = spans.sum(1)
    assert lengths.min() >= 14 and lengths.max() <= 100
    edges = spans.diff(dim=1).abs().sum(1)
    assert edges.max() <= 2  # one run each


def test_a_model_keeps_both_networks(tmp_path: Path, tiny_model: Path) -> None:
    from dpcl.networks.activity import TalkerActivity

    model = replace(
        load_model(tiny_model), activity=TalkerActivity(129, 4), voice=VoiceNetwork(129, 8, 4)
    )
    save_model(model, tmp_path / "b.safetensors")
    read = load_model(tmp_path / "b.safetensors")
    assert isinstance(read, Model) and read.voice is not None and read.activity is not None
