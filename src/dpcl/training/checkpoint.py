"""Checkpoints: weights as safetensors and the trainer's state, one folder each, all or nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from dpcl.errors import InputError
from dpcl.model import Model, load_model, save_model


def save_checkpoint(run: Path, step: int, model: Model, state: dict[str, Any]) -> None:
    """Write run/checkpoints/STEP whole, then delete the older ones.

    A process killed at any moment leaves the last complete folder to go on from.
    """
    root = run / "checkpoints"
    final, partial = root / f"{step:09d}", root / f".{step:09d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_model(model, partial / "model.safetensors")
    torch.save(state, partial / "trainer.pt")
    for path in partial.iterdir():  # on the disk before the name says that it is complete
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    partial.rename(final)
    for other in root.iterdir():
        if other != final:
            shutil.rmtree(other, ignore_errors=True)


def latest_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, if there is one."""
    complete = sorted(p for p in (run / "checkpoints").glob("[0-9]*") if p.is_dir())
    return complete[-1] if complete else None


def load_checkpoint(path: Path) -> tuple[Model, dict[str, Any]]:
    """Model and trainer state, on the CPU; InputError if the folder is damaged."""
    try:
        state: dict[str, Any] = torch.load(
            path / "trainer.pt", map_location="cpu", weights_only=True
        )
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(f"{path}: the checkpoint is damaged; start the run anew") from error
    return load_model(path / "model.safetensors"), state


def to_resume(run: Path, resume: bool, force: bool) -> Path | None:
    """The checkpoint to go on from, None for a new run; InputError where that would destroy one."""
    checkpoint = latest_checkpoint(run)
    if resume and force:
        raise InputError(f"{run}: resume goes on with the run and force replaces it; choose one")
    if resume and checkpoint is not None:
        return checkpoint
    if force or not (checkpoint or (run / "best.safetensors").exists()):
        return None
    if resume:
        raise InputError(f"{run}: it holds weights but no checkpoint to resume; choose another run")
    raise InputError(f"{run}: a run is there already; resume it, force a new one or choose another")


def clear(run: Path) -> None:
    """Make room for a new run: delete checkpoints, best weights and logs, if there are any."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        for folder in ("checkpoints", "tensorboard"):
            if (run / folder).exists():
                shutil.rmtree(run / folder)
        for file in ("best.safetensors", "log.csv"):
            (run / file).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{run}: cannot hold a run; {error.strerror}") from error
