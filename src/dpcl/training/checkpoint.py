"""Folder of a training: log, checkpoints and weights; averages of weights."""

from __future__ import annotations

import csv
import math
import os
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from dpcl.catalogue import weights_path
from dpcl.errors import InputError
from dpcl.io import atomic
from dpcl.model import Model, build_network, load_model, save_model
from dpcl.networks.base import EmbeddingNetwork

# Keys of a trainer state that every checkpoint has, and their types.
STATE = {"step": int, "seconds_seen": float, "losses": list, "optimisers": list, "recipe": str}
SCORE = "valid_si_sdri_db"  # note of a model: its score on the validation list


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


@dataclass(frozen=True)
class LogRow:
    """One row of log.csv; the progress bar shows it too.

    With several devices, `loss` is of the first device's share of the batches.
    """

    step: int
    steps: int
    loss: float  # mean over the steps since the last row; 0 to 4
    gradient_norm: float
    learning_rate: float
    audio_hours: float  # of mixtures so far
    speed: float  # hours of mixtures per hour
    si_sdri: float | None = None  # dB, on the validation list


class RunLog:
    """run/log.csv and run/tensorboard from step `done` on; rows of later steps are removed."""

    def __init__(self, run: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._csv = run / "log.csv"
        self._keep_rows(done)
        # TensorBoard hides earlier entries of steps from purge_step on.
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)

    def _keep_rows(self, done: int) -> None:
        """Remove the rows of steps that will be repeated, and incomplete or damaged ones."""
        header = ",".join(field.name for field in fields(LogRow))
        text = self._csv.read_text(errors="replace") if self._csv.exists() else ""
        whole = [line for line in text.splitlines()[1:] if line.count(",") == header.count(",")]
        numbered = [line for line in whole if line.partition(",")[0].isdecimal()]
        kept = [line for line in numbered if float(line.partition(",")[0]) <= done]
        with atomic(self._csv) as partial:
            partial.write_text("\n".join([header, *kept, ""]))

    def write(self, row: LogRow) -> None:
        """Add a row."""
        values = asdict(row)
        with self._csv.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(values.values())
        for name, value in values.items():
            if value is not None and name not in ("step", "steps"):
                self._board.add_scalar(name, value, row.step)

    def flush(self) -> None:
        """Write to the disk all entries that a resumed run will not repeat."""
        self._board.flush()

    def close(self) -> None:
        """Write the entries that TensorBoard still holds."""
        self._board.close()


def result_of(run: Path) -> Path:
    """Return the weights of a finished training: the best ones, or without any the last ones."""
    best, last = run / "best.safetensors", latest_checkpoint(run)
    assert last is not None
    return best if best.exists() else last / "model.safetensors"


def best_score(run: Path) -> float:
    """Return the score of the best weights so far, which is part of their file."""
    best = run / "best.safetensors"
    return float(load_model(best).notes.get(SCORE, -math.inf)) if best.exists() else -math.inf


def start_from(network: EmbeddingNetwork, name: str, path: Path | None, heads: bool) -> None:
    """Load weights and feature statistics of another training.

    Heads of another size, or that only one of the networks has, are omitted.

    Args:
        network: the network to load them into.
        name: `init` of the recipe.
        path: file of these weights; None if `name` is a model or a file.
        heads: load heads too.

    Raises:
        InputError: The networks differ in size.
    """
    path = path or weights_path(name) or Path(name)
    sizes = f"init: {path} is of another size of network; change model.network"
    own, other = network.state_dict(), load_model(path).network
    begin = {
        name: value
        for name, value in other.state_dict().items()
        if not other.is_head(name) or (heads and name in own and own[name].shape == value.shape)
    }
    try:
        missing, unexpected = network.load_state_dict(begin, strict=False)
    except RuntimeError as error:
        raise InputError(sizes) from error
    if unexpected or not all(network.is_head(name) for name in missing):
        raise InputError(sizes)
