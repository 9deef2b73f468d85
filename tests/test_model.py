"""A model on disk: the same network back, and one sentence for every file that holds none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from dpcl.clustering.count import CUES
from dpcl.errors import InputError
from dpcl.model import (
    CountSettings,
    MaskSettings,
    Model,
    ModelSettings,
    NetworkSettings,
    SignalSettings,
    build_network,
    load_model,
    save_model,
)
from dpcl.networks.activity import TalkerActivity

SETTINGS = ModelSettings(
    signal=SignalSettings(sample_rate=16000, window=32, hop=8),
    network=NetworkSettings(layers=2, width=6, embedding=5, dropout=0.3, activation="none"),
    masks=MaskSettings(floor_db=-30, weighting="magnitude", sharpness=5),
)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    network = build_network(SETTINGS)
    network.mean.normal_()
    network.std.uniform_(0.5, 2)
    return Model(SETTINGS, network, {"recipe": {"seed": 3}, "si_sdri": 7.25, "name": "Zoë"})


@pytest.mark.parametrize("half", [False, True])
def test_what_is_saved_is_loaded(model: Model, tmp_path: Path, half: bool) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path, half)
    loaded = load_model(path)
    assert loaded.settings == model.settings
    assert loaded.notes == model.notes
    assert not loaded.network.training
    for name, value in model.network.state_dict().items():
        expected = value.half().float() if half else value
        assert torch.equal(loaded.network.state_dict()[name], expected), name
        assert loaded.network.state_dict()[name].dtype == torch.float32
    features = torch.randn(2, 7, 17)
    torch.testing.assert_close(
        loaded.network(features), model.network.eval()(features), rtol=0, atol=5e-3 if half else 0
    )


@pytest.mark.parametrize("half", [False, True])
def test_the_network_of_who_talks_travels_along(model: Model, tmp_path: Path, half: bool) -> None:
    path = tmp_path / "model.safetensors"
    activity = TalkerActivity(17, 7)
    activity.mean.normal_()
    save_model(replace(model, activity=activity), path, half)
    loaded = load_model(path)
    assert loaded.activity is not None
    assert not loaded.activity.training
    for name, value in activity.state_dict().items():
        expected = value.half().float() if half else value
        assert torch.equal(loaded.activity.state_dict()[name], expected), name
    save_model(model, path)
    assert load_model(path).activity is None


def test_a_network_of_who_talks_that_is_not_whole_or_not_finite(
    model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    activity = TalkerActivity(17, 7)
    torch.nn.init.constant_(activity.first.bias, torch.nan)
    save_model(replace(model, activity=activity), path)
    with pytest.raises(InputError, match="NaN"):
        load_model(path)
    tensors = {f"activity.{name}": value for name, value in activity.state_dict().items()}
    del tensors["activity.active.bias"]
    metadata = {"settings": SETTINGS.model_dump_json(), "notes": "{}"}
    save_file({**model.network.state_dict(), **tensors}, path, metadata)
    with pytest.raises(InputError, match="no dpcl model"):
        load_model(path)


def test_half_is_half_the_size(tmp_path: Path) -> None:
    settings = ModelSettings(network=NetworkSettings(layers=1, width=50, embedding=4))
    model = Model(settings, build_network(settings), {})
    sizes = []
    for half in (False, True):
        save_model(model, tmp_path / "model.safetensors", half)
        sizes.append((tmp_path / "model.safetensors").stat().st_size)
    assert sizes[1] / sizes[0] == pytest.approx(0.5, abs=0.02)


def test_saving_leaves_the_network_and_the_folder_alone(model: Model, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    save_model(model, tmp_path / "model.safetensors", half=True)
    save_model(model, tmp_path / "model.safetensors", half=True)  # over an older one
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert model.network.training
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_save_that_fails_keeps_the_old_file(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    content = path.read_bytes()

    def fails(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("dpcl.model.save_file", fails)
    with pytest.raises(InputError, match="no space"):
        save_model(model, path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_loaded_network_can_be_trained_and_the_file_replaced(
    model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    network = load_model(path).network.train()
    path.write_bytes(b"\0" * path.stat().st_size)  # its memory must not be the file's
    network(torch.randn(1, 3, 17)).embeddings.sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.isfinite().all()


def test_loading_draws_no_random_numbers(model: Model, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model.safetensors")
    state = torch.get_rng_state()
    load_model(tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), state)


def damaged(path: Path, kind: str) -> None:
    network = build_network(SETTINGS)
    tensors = {name: value.clone() for name, value in network.state_dict().items()}
    metadata = {"settings": SETTINGS.model_dump_json(), "notes": "{}"}
    if kind == "missing":
        return
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("These are no weights.\n" * 50)
    elif kind == "pickle":
        torch.save(tensors, path)
    elif kind == "cut short":
        save_model(Model(SETTINGS, network, {}), path)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "someone else's":
        save_file({"weight": torch.ones(3)}, path)
    elif kind == "someone else's with settings":
        save_file({"weight": torch.ones(3)}, path, {"settings": json.dumps({"layers": 3})})
    elif kind == "other layers":
        del tensors["lstm.weight_ih_l0"]
        save_file(tensors, path, metadata)
    elif kind == "other sizes":
        tensors["mean"] = torch.zeros(99)
        save_file(tensors, path, metadata)
    elif kind == "impossible STFT":
        settings = SETTINGS.model_dump_json().replace('"hop":8', '"hop":9')
        save_file(tensors, path, metadata | {"settings": settings})
    elif kind == "notes no JSON":
        save_file(tensors, path, metadata | {"notes": "trained by hand"})
    elif kind in ("NaN", "infinite"):
        tensors["project.bias"][3] = float("nan" if kind == "NaN" else "inf")
        save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    "kind, says",
    [
        ("missing", "no such weights file"),
        ("folder", "no such weights file"),
        ("empty", "not a safetensors file"),
        ("text", "not a safetensors file"),
        ("pickle", "not a safetensors file"),
        ("cut short", "not a safetensors file"),
        ("someone else's", "no dpcl model"),
        ("someone else's with settings", "no dpcl model"),
        ("other layers", "no dpcl model"),
        ("other sizes", "no dpcl model"),
        ("impossible STFT", "no dpcl model"),
        ("notes no JSON", "no dpcl model"),
        ("NaN", "NaN or infinite"),
        ("infinite", "NaN or infinite"),
    ],
)
def test_a_file_without_a_model_is_named_in_one_sentence(
    tmp_path: Path, kind: str, says: str
) -> None:
    path = tmp_path / "weights.safetensors"
    damaged(path, kind)
    with pytest.raises(InputError, match=says) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert not message.endswith(".")


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match="widht"):
        NetworkSettings.model_validate({"widht": 3})
    for wrong in ({"layers": 0}, {"activation": "relu"}, {"dropout": 1}, {"kind": "transformer"}):
        with pytest.raises(ValidationError):
            NetworkSettings.model_validate(wrong)
    with pytest.raises(ValidationError, match="window 256 and hop 100"):
        SignalSettings(hop=100)
    with pytest.raises(ValidationError, match="frozen"):
        SETTINGS.signal.hop = 4  # type: ignore[misc]


def test_whitening_is_as_large_as_embeddings() -> None:
    network = NetworkSettings(width=4, embedding=2)
    rows = ((1.0, 0.0), (0.0, 2.0))
    assert ModelSettings(network=network, whitening=rows).whitening == rows
    with pytest.raises(ValidationError, match="2 rows of 2 numbers"):
        ModelSettings(network=network, whitening=((1.0, 0.0),))


def test_the_defaults_are_the_papers() -> None:
    settings = ModelSettings()
    assert (settings.signal.sample_rate, settings.signal.window, settings.signal.hop) == (
        8000,
        256,
        64,
    )
    network = build_network(ModelSettings(network=NetworkSettings(width=4)))
    assert (network.lstm.num_layers, network.heads.embedding, network.heads.activation) == (
        2,
        40,
        "tanh",
    )
    assert settings.network.width == 600


@pytest.mark.parametrize("row", ["hidden", "output"])
def test_rows_for_counting_that_do_not_fit_are_refused(row: str) -> None:
    rows = {"hidden": [[0.0] * (1 + CUES)] * 4, "output": [[0.0] * 5] * 3}
    CountSettings.model_validate(rows)
    rows[row] = [line[1:] for line in rows[row]]
    with pytest.raises(ValidationError, match=row):
        CountSettings.model_validate(rows)
