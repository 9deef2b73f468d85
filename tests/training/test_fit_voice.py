"""Voice networks are fitted on talkers under conditions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dpcl.errors import InputError
from dpcl.io import Progress
from dpcl.mixtures.conditions import ConditionSettings
from dpcl.mixtures.corpus import pack_corpus, read_corpus
from dpcl.mixtures.stream import TrainingMixtures
from dpcl.model import Model, load_model, save_model
from dpcl.networks.activity import VoiceNetwork
from dpcl.training import fit_voice as module
from dpcl.training.fit_voice import SPANS, draw_spans, fit_voice, in_space, load_teacher
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


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, talkers: Path, tmp_path: Path) -> DataSettings:
    """Conditions for the corpus, and small sizes."""
    sizes = {"VOICE_BATCH": 4, "VOICE_WIDTH": 12, "VOICE_SIZE": 6, "SECONDS": 0.5, "SHORTEST": 0.2}
    for name, value in sizes.items():
        monkeypatch.setattr(module, name, value)
    conditions = ConditionSettings.model_validate(
        {
            "talkers": [1.0],
            "rooms": {"probability": 0},
            "background": {"probability": 0.5, "shares": {"noise": 1.0}},
            "codec": {"probability": 0},
        }
    )
    cache = str(tmp_path / "cache")
    return DataSettings(corpora=(str(talkers),), cache=cache, conditions=conditions)


def test_a_voice_network_is_fitted_saved_and_read(
    talkers: Path, tmp_path: Path, tiny_model: Path, small: DataSettings
) -> None:
    model, seen = load_model(tiny_model), []
    fit = Fit(fit="voice", voice_steps=3)
    fitted = fit_voice(model, fit, small, read_corpus(talkers), seen.append)
    notes = [report.note for report in seen if report.unit == "steps"]
    assert len(notes) == 3 and all(note.startswith("voice, loss") for note in notes)
    assert isinstance(fitted.voice, VoiceNetwork) and not fitted.voice.training
    save_model(fitted, tmp_path / "a.safetensors")
    read = load_model(tmp_path / "a.safetensors")
    assert read.voice is not None and read.voice.deep and read.activity is None
    levels = torch.randn(2, 30, len(read.voice.pool))
    weights = torch.rand(2, 30, 1)
    torch.testing.assert_close(
        read.voice.pooled(levels, weights), fitted.voice.pooled(levels, weights)
    )
    with pytest.raises(InputError, match="fit voice: needs rooms and noise"):
        fit_voice(model, Fit(fit="voice"), replace_data(small), read_corpus(talkers), seen.append)


def test_a_voice_network_learns_from_a_teacher(
    talkers: Path,
    tmp_path: Path,
    tiny_model: Path,
    small: DataSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TAUGHT", 9)
    encoded: list[tuple[int, ...]] = []

    def teacher(samples: torch.Tensor) -> torch.Tensor:
        encoded.append(tuple(samples.shape))
        return torch.fft.rfft(samples).abs()[:, 100:900].view(len(samples), 8, 100).sum(-1)

    monkeypatch.setattr(module, "load_teacher", lambda path: teacher)
    seen: list[Progress] = []
    fit = Fit(fit="voice", voice_steps=60, teacher="teacher.onnx")
    fitted = fit_voice(load_model(tiny_model), fit, small, read_corpus(talkers), seen.append)
    assert encoded == [(18, 4000)]  # both halves of nine items of half a second at 16 kHz
    assert [report.total for report in seen if report.note == "teacher"] == [9]
    losses = [float(report.note.split()[-1]) for report in seen if report.unit == "steps"]
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:10])
    assert fitted.voice is not None and fitted.voice.out.out_features == 6


def test_the_space_of_a_teacher_is_centred_and_has_equal_weights() -> None:
    torch.manual_seed(0)
    scales = torch.tensor([9.0, 4.0, 1.0, 0.0])
    item = torch.randn(200, 1, 4) * scales + 5
    space = in_space(item.expand(-1, 2, -1), 6)
    assert space.shape == (200, 6)
    torch.testing.assert_close(space.norm(dim=1), torch.ones(200))
    deviations = space.std(0)
    assert deviations[0] < 2 * deviations[2] and (space[:, 4:] == 0).all()
    assert space.mean(0).abs().max() < 0.15


def test_a_file_that_is_no_teacher_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "teacher.onnx"
    for content in (None, b"no graph"):
        if content:
            path.write_bytes(content)
        with pytest.raises(InputError, match="is no voice encoder as ONNX"):
            load_teacher(path)


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
