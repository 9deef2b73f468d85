"""Separators by name or path, and what is said about a name or a file that is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dpcl.catalogue import ShippedModel, shipped_models
from dpcl.errors import InputError
from dpcl.recordings.separate import load_separator
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.separators.registry import load_network


def test_what_ships_has_a_card_and_loads() -> None:
    models = shipped_models()
    assert "default" in [model.name for model in models]
    assert [model.name for model in models] == sorted(model.name for model in models)
    for model in models:
        assert model.card.startswith("# ")
        assert model.summary and "\n" not in model.summary
        assert load_separator(model.name).sample_rate >= 1000


def test_the_summary_is_the_first_paragraph_in_one_line() -> None:
    card = "# default\n\nTwo talkers,\n8 kHz.\n\n## Data\n"
    assert ShippedModel("default", Path("x"), card).summary == "Two talkers, 8 kHz."
    assert ShippedModel("default", Path("x"), "# default\n").summary == ""


def test_a_second_call_does_not_read_again(tiny_model: Path) -> None:
    assert load_network(str(tiny_model)) is load_network(str(tiny_model))
    separator = load_separator(str(tiny_model)).separator
    assert isinstance(separator, DeepClustering)
    assert separator.model is load_network(str(tiny_model))


def test_a_file_that_a_training_replaced_is_read_again(tiny_model: Path, tmp_path: Path) -> None:
    best = tmp_path / "best.safetensors"
    shutil.copy(tiny_model, best)
    before = load_network(str(best))
    os.utime(best, ns=(1, 1))
    assert load_network(str(best)) is not before


def test_one_name_in_two_folders_is_two_models(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy2(tiny_model, tmp_path / name / "best.safetensors")
    monkeypatch.chdir(tmp_path / "a")
    first = load_network("best.safetensors")
    monkeypatch.chdir(tmp_path / "b")
    assert load_network("best.safetensors") is not first


def test_a_shipped_name_is_not_looked_for_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    (tmp_path / "default").mkdir()
    shutil.copy(tiny_model, tmp_path / "default.safetensors")
    monkeypatch.chdir(tmp_path)
    assert load_network("default").settings.network.width != 8
    assert load_network("./default.safetensors").settings.network.width == 8


def _no_settings(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path)


def _wrong_settings(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path, {"settings": '{"network": {"layers": -1}}'})


def _other_tensors(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path, {"settings": "{}"})


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "unknown name": ("nonsense", lambda path: None, "unknown model"),
    "empty name": ("", lambda path: None, "unknown model"),
    "missing file": ("a.safetensors", lambda path: None, "no such weights file"),
    "folder": ("a", lambda path: path.mkdir(), "unknown model"),
    "folder named so": ("a.safetensors", lambda path: path.mkdir(), "no such weights file"),
    "empty file": ("a.safetensors", lambda path: path.touch(), "not a safetensors file"),
    "text": ("a.safetensors", lambda path: path.write_text("x" * 99), "not a safetensors file"),
    "another suffix": ("a.pt", lambda path: path.write_bytes(b"PK" * 99), "not a safetensors"),
    "of another program": ("a.safetensors", _no_settings, "no dpcl model"),
    "wrong settings": ("a.safetensors", _wrong_settings, "no dpcl model"),
    "other tensors": ("a.safetensors", _other_tensors, "no dpcl model"),
}


@pytest.mark.parametrize(("name", "make", "what"), BAD.values(), ids=BAD.keys())
def test_what_is_no_model_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    make: Callable[[Path], object],
    what: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    with pytest.raises(InputError, match=what) as caught:
        load_separator(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    if what == "unknown model":
        assert "default" in str(caught.value)  # what there is instead
