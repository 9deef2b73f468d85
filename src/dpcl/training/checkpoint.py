"""Checkpoints, each a folder with weights and trainer state, and averages of weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from dpcl.errors import InputError
from dpcl.model import Model, build_network, load_model, save_model

# Keys of a trainer state that every checkpoint has, and their types.
STATE = {"step": int, "seconds_seen": float, "losses": list, "optimisers": list, "recipe": str}


def save_checkpoint(run: Path, step: int, model: Model, state: dict[str, Any]) -> None:
    """Write run/checkpoints/STEP, then delete the older ones.

    A process that is killed at any moment leaves a complete folder to resume from.

    Raises:
        InputError: The folder cannot be written, as on a full disk. Earlier checkpoints stay.
    """
    root = run / "checkpoints"
    final, partial = root / f"{step:09d}", root / f".{step:09d}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_model(model, partial / "model.safetensors")
        torch.save(state, partial / "trainer.pt")
        for path in partial.iterdir():  # on the disk before the folder gets its name
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        partial.rename(final)
    except (InputError, OSError, RuntimeError) as error:  # torch raises the latter on a full disk
        shutil.rmtree(partial, ignore_errors=True)
        detail = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(
            f"{run}: cannot hold a checkpoint ({detail}); free some space, then add --resume"
        ) from error
    for other in root.iterdir():
        if other != final:
            shutil.rmtree(other, ignore_errors=True)


def latest_checkpoint(run: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, if any."""
    complete = sorted(p for p in (run / "checkpoints").glob("[0-9]*") if p.is_dir())
    return complete[-1] if complete else None


def load_checkpoint(path: Path) -> tuple[Model, dict[str, Any]]:
    """Return model and trainer state, on the CPU; InputError if the folder is damaged."""
    return load_model(path / "model.safetensors"), load_state(path)


def load_state(path: Path) -> dict[str, Any]:
    """Return the trainer state of a checkpoint; InputError if it is damaged."""
    try:
        state: dict[str, Any] = torch.load(
            path / "trainer.pt", map_location="cpu", weights_only=True
        )
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(
            f"{path}: the checkpoint is damaged; add --force to start again"
        ) from error
    wrong = next((key for key, kind in STATE.items() if not _is(state, key, kind)), None)
    if wrong is not None:
        raise InputError(
            f"{path}: the checkpoint has no valid `{wrong}`; add --force to start again"
        )
    return state


def _is(state: object, key: str, kind: type) -> bool:
    """Return True if a trainer state has a value of this type."""
    return isinstance(state, dict) and isinstance(state.get(key), kind)


def to_resume(run: Path, resume: bool, force: bool) -> Path | None:
    """Return the checkpoint to resume, None for a new run; InputError if that destroys a run."""
    checkpoint = latest_checkpoint(run)
    if resume and force:
        raise InputError(f"{run}: --resume continues the run and --force replaces it; choose one")
    if resume and checkpoint is not None:
        return checkpoint
    if force or not (checkpoint or (run / "best.safetensors").exists()):
        return None
    if resume:
        raise InputError(f"{run}: has weights but no checkpoint to resume; choose another --run")
    raise InputError(
        f"{run}: exists; add --resume to continue it or --force to replace it, or choose another"
        " --run"
    )


def clear(run: Path) -> None:
    """Make room for a new run: delete checkpoints, best weights and logs."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        for folder in ("checkpoints", "tensorboard"):
            if (run / folder).exists():
                shutil.rmtree(run / folder)
        for file in ("best.safetensors", "log.csv"):
            (run / file).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{run}: cannot hold a run; {error.strerror}") from error


def average(first: Model, second: Model, share: float, embeddings: bool = False) -> Model:
    """Average the weights of two trainings with a common start.

    The average often scores above both. Source: Wortsman et al. 2022, "Robust fine-tuning of
    zero-shot models".

    Args:
        first: one model.
        second: the other; the result has its settings.
        share: of `second`, 0 to 1.
        embeddings: keep trunk and embedding head alone, without the network's own masks.

    Raises:
        InputError: The networks differ in size or have no embedding head.
    """
    settings = second.settings
    if embeddings:
        if not settings.network.embedding:
            raise InputError("embeddings: the networks have no embedding head; set it to false")
        alone = settings.network.model_copy(update={"unfolded": None, "masks": 0})
        masks = settings.masks.model_copy(update={"head": "embedding"})
        settings = settings.model_copy(update={"network": alone, "masks": masks})
    network = build_network(settings)
    ours, theirs = first.network.state_dict(), second.network.state_dict()
    for name, value in network.state_dict().items():
        if name not in ours or ours[name].shape != value.shape:
            raise InputError(f"average: the networks differ in {name}; average phases of one size")
    network.load_state_dict(
        {name: (1 - share) * ours[name] + share * theirs[name] for name in network.state_dict()}
    )
    return Model(settings, network.eval(), {})
