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
from dpcl.networks.voice import VoiceHead
from dpcl.training import fit_voice as module
from dpcl.training.fit_voice import SPANS, alone, draw_spans, draw_turns, fit_voice
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


def test_a_voice_head_is_fitted_saved_and_read(
    talkers: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VOICE_BATCH", 4)
    monkeypatch.setattr(module, "SECONDS", 1.0)
    monkeypatch.setattr(module, "SHORTEST", 0.2)
    conditions = ConditionSettings.model_validate(
        {
            "rooms": {"probability": 0},
            "background": {"probability": 0.5, "shares": {"noise": 1.0}},
            "codec": {"probability": 0},
        }
    )
    data = DataSettings(
        corpora=(str(talkers),), cache=str(tmp_path / "cache"), conditions=conditions
    )
    model, seen = load_model(tiny_model), []
    fitted = fit_voice(
        model, Fit(fit="voice", voice_steps=3), data, read_corpus(talkers), seen.append
    )
    notes = [report.note for report in seen if report.unit == "steps"]
    assert len(notes) == 3 and all(note.startswith("voice, loss") for note in notes)
    assert isinstance(fitted.voice, VoiceHead) and not fitted.voice.training
    for name, value in fitted.network.state_dict().items():
        torch.testing.assert_close(value, model.network.state_dict()[name])  # the trunk stays
    save_model(fitted, tmp_path / "a.safetensors")
    read = load_model(tmp_path / "a.safetensors")
    assert read.voice is not None and read.activity is None
    frames = torch.randn(2, 30, 1, fitted.voice.squeeze.in_features)
    weights = torch.rand(2, 30, 1)
    torch.testing.assert_close(
        read.voice.pooled(frames, weights), fitted.voice.pooled(frames, weights)
    )
    without = data.model_copy(update={"conditions": None})
    with pytest.raises(InputError, match="fit voice: needs rooms and noise"):
        fit_voice(model, Fit(fit="voice"), without, read_corpus(talkers), seen.append)


def test_only_frames_of_one_talker_have_an_owner() -> None:
    powers = torch.tensor([[1.0, 1.0, 1e-5, 0.0, 1.0], [0.0, 0.5, 1e-7, 2.0, 1e-3]])
    assert alone(powers, torch.tensor([7, 9])).tolist() == [7, -1, -1, 9, 7]


def test_somebody_speaks_at_every_moment_and_turns_change() -> None:
    gates = draw_turns(np.random.default_rng(1), 2, 80000, 8000)
    assert gates.shape == (2, 80000) and gates.min() >= 0 and gates.max() < 1.001
    assert gates.sum(0)[200:-200].min() > 0.99
    assert (gates.mean(1) > 0.2).all()


def test_spans_are_of_one_talker() -> None:
    owners = torch.tensor([[3] * 40 + [-1] * 10 + [5] * 50, [-1] * 90 + [2] * 10])
    weights, names = draw_spans(np.random.default_rng(0), owners, 15)
    assert weights.shape == (2, 100, SPANS) and set(names[0].tolist()) == {3, 5}
    assert (names[1] == -1).all() and not weights[1].any()
    for span, name in enumerate(names[0].tolist()):
        inside = weights[0, :, span] > 0
        assert inside.sum() >= 15 and (owners[0, inside] == name).all()


def test_a_model_keeps_both_networks(tmp_path: Path, tiny_model: Path) -> None:
    from dpcl.networks.activity import TalkerActivity

    model = replace(
        load_model(tiny_model), activity=TalkerActivity(129, 4), voice=VoiceHead(1, 8, 8, 4)
    )
    save_model(model, tmp_path / "b.safetensors")
    read = load_model(tmp_path / "b.safetensors")
    assert isinstance(read, Model) and read.voice is not None and read.activity is not None
