"""Checkpoints: whole or not there, and a run is never destroyed by mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dpcl.errors import InputError
from dpcl.model import Model, ModelSettings, build_network
from dpcl.training.checkpoint import (
    clear,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    to_resume,
)

SETTINGS = ModelSettings.model_validate(
    {"signal": {"window": 16, "hop": 8}, "network": {"layers": 1, "width": 2, "embedding": 2}}
)


def model(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model(SETTINGS, build_network(SETTINGS), {"seed": seed})


def state(step: int) -> dict[str, Any]:
    moments = [{"moments": torch.full((2,), step)}]
    own = {"step": step, "seconds_seen": 0.0, "losses": [], "recipe": "{}"}
    return {**own, "optimisers": moments}


def save(run: Path, step: int) -> None:
    save_checkpoint(run, step, model(step), state(step))


def assert_whole(run: Path, step: int) -> None:
    """The newest checkpoint is the one of `step`, and can be read."""
    latest = latest_checkpoint(run)
    assert latest is not None
    loaded, found = load_checkpoint(latest)
    assert found["step"] == step
    assert loaded.notes == {"seed": step}
    for name, value in model(step).network.state_dict().items():
        assert torch.equal(value, loaded.network.state_dict()[name])


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    save(tmp_path, 3)
    assert_whole(tmp_path, 3)


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    for step in (9, 10, 200):
        save(tmp_path, step)
        assert_whole(tmp_path, step)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000200"]


@pytest.mark.parametrize("last", ["save_model", "torch.save", "os.fsync", "Path.rename"])
def test_killed_while_saving_it_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    save(tmp_path, 1)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"dpcl.training.checkpoint.{last}", killed)
        save(tmp_path, 2)
    assert_whole(tmp_path, 1)
    save(tmp_path, 2)  # over what was left half-written
    assert_whole(tmp_path, 2)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_killed_before_the_old_one_is_deleted_it_has_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path, **rest: (path / "trainer.pt").unlink(True))
        save(tmp_path, 2)
    assert_whole(tmp_path, 2)


def test_a_half_written_folder_is_ignored(tmp_path: Path) -> None:
    save(tmp_path, 1)
    partial = tmp_path / "checkpoints" / ".000000002"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert_whole(tmp_path, 1)


@pytest.mark.parametrize("name", ["trainer.pt", "model.safetensors"])
@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, name: str, damage: bytes | None) -> None:
    save(tmp_path, 1)
    path = tmp_path / "checkpoints" / "000000001"
    if damage is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes(damage)
    with pytest.raises(InputError, match="000000001"):
        load_checkpoint(path)


@pytest.mark.parametrize("key", ["step", "recipe", "optimisers"])
def test_a_damaged_state_is_named(tmp_path: Path, key: str) -> None:
    save(tmp_path, 1)
    path = tmp_path / "checkpoints" / "000000001"
    torch.save({**state(1), key: None}, path / "trainer.pt")
    with pytest.raises(InputError, match=f"no valid `{key}`; add --force"):
        load_checkpoint(path)


@pytest.mark.parametrize("full", ["torch.save", "os.fsync"])
def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    save(tmp_path, 1)

    def fails(*arguments: object) -> None:
        if full == "os.fsync":
            raise OSError(28, "No space left on device")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0\nat inline.cpp:1")

    with monkeypatch.context() as patch:
        patch.setattr(f"dpcl.training.checkpoint.{full}", fails)
        with pytest.raises(InputError, match=r"cannot hold a checkpoint \([^\n]*\); free"):
            save(tmp_path, 2)
    assert_whole(tmp_path, 1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000001"]


def test_a_run_is_resumed_or_replaced_only_when_asked(tmp_path: Path) -> None:
    assert to_resume(tmp_path, resume=False, force=False) is None
    assert to_resume(tmp_path, resume=True, force=False) is None  # never began
    save(tmp_path, 1)
    assert to_resume(tmp_path, resume=True, force=False) == latest_checkpoint(tmp_path)
    assert to_resume(tmp_path, resume=False, force=True) is None
    with pytest.raises(InputError, match="resume"):
        to_resume(tmp_path, resume=False, force=False)
    with pytest.raises(InputError, match="choose one"):
        to_resume(tmp_path, resume=True, force=True)


@pytest.mark.parametrize("resume", [False, True])
def test_best_weights_without_a_checkpoint_are_not_overwritten(
    tmp_path: Path, resume: bool
) -> None:
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(InputError):
        to_resume(tmp_path, resume, force=False)


def test_clear_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "tensorboard").mkdir()
    for name in ("log.csv", "best.safetensors", "mine.txt", "tensorboard/events"):
        (tmp_path / name).touch()
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_clear_makes_the_folder_or_says_why_not(tmp_path: Path) -> None:
    clear(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot hold a run"):
        clear(tmp_path / "file")
