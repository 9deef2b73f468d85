"""Train a network: the loop, its log and its validation."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dpcl.errors import InputError, missing_package
from dpcl.io import Report, atomic, no_report
from dpcl.mixtures.conditions import ConditionedMixture
from dpcl.model import Model, build_network, load_model, save_model
from dpcl.networks.base import EmbeddingNetwork
from dpcl.shipped import weights_path
from dpcl.training.batches import batches, prepare, statistics
from dpcl.training.checkpoint import (
    clear,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    to_resume,
)
from dpcl.training.loss import batch_loss
from dpcl.training.optimisers import average_of, follow, learning_rate, optimisers_of
from dpcl.training.recipe import MACHINE, Recipe
from dpcl.training.validation import Validation

if TYPE_CHECKING:
    from lightning.fabric import Fabric


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


LOG_EVERY = 20  # steps
SCORE = "valid_si_sdri_db"  # note of a model: its score on the validation list


def train(
    recipe: Recipe,
    run: Path,
    resume: bool = False,
    report: Callable[[LogRow], None] = lambda row: None,
    packing: Report = no_report,
    force: bool = False,
    init: Path | None = None,
    folder: Path | None = None,
    begin: Callable[[], None] = lambda: None,
) -> Path:
    """Train one network.

    Args:
        recipe: all settings.
        run: folder for log.csv, tensorboard, checkpoints/STEP and best.safetensors.
        resume: continue from the newest checkpoint, with the same batches and to the same weights
            as an uninterrupted run. A finished run stays as it is; a run without any is started.
        report: called with every row of the log.
        packing: called while the corpora are decoded.
        force: replace an earlier run.
        init: file of the weights that `recipe.init` names; None if it is a model or a file.
        folder: of the recipe, where validation lists may lie.
        begin: called before the first file of a new run is written.

    Returns:
        The weights with the best validation score, or the last ones without validation.

    Raises:
        InputError: Data are missing or too few, the run exists or is of another recipe, or the loss
            is not finite.
    """
    before_cpu = cpu_seconds()
    fabric = _fabric(recipe)
    checkpoint = to_resume(run, resume, force)
    model, state = load_checkpoint(checkpoint) if checkpoint else (None, _beginning(recipe))
    if other := recipe.difference(state["recipe"]):
        raise InputError(
            f"{run}: was started with another `{other}`; restore it, or choose another --run"
        )
    if state["step"] == recipe.steps:
        return _result(run)
    fabric.launch()
    torch.manual_seed(recipe.seed)
    network: EmbeddingNetwork = build_network(recipe.model)
    _freeze(network, recipe.frozen)
    if model is not None:
        network.load_state_dict(model.network.state_dict())
    elif recipe.init is not None:
        _start_from(network, recipe.init, init, recipe.init_heads)
    with fabric.rank_zero_first():  # the other devices then find the cache
        data = prepare(recipe, packing)
    if state["data"] not in (None, data.size):
        raise InputError(f"{run}: the recordings have changed since; start a new run")
    validation = Validation(recipe, folder) if recipe.validation else None
    stft = recipe.model.signal.stft()
    if model is None and recipe.init is None:
        network.mean, network.std = statistics(recipe, data)
    if fabric.is_global_zero and model is None:
        begin()
        clear(run)  # only now that weights and recordings have been read

    averaged = average_of(network, recipe.optimiser, state.get("averaged"))
    optimisers = optimisers_of(network, recipe.optimiser)
    fabric_network, *fabric_optimisers = fabric.setup(network.train(), *optimisers)
    if model is not None:  # only now, as the state moves to the device of the weights
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            _restore(optimiser, saved, run)
    step, seconds_seen, losses = state["step"], state["seconds_seen"], state["losses"]
    cpu_done = state.get("cpu_seconds", 0.0)
    best = _best_score(run)

    def snapshot(**scores: float) -> Model:
        notes = {"recipe": recipe.model_dump(mode="json", exclude=MACHINE), "step": step}
        return Model(recipe.model, averaged, notes | {"audio_hours": seconds_seen / 3600} | scores)

    def save() -> None:
        state = {
            "step": step,
            "seconds_seen": seconds_seen,
            "losses": losses,  # since the last row of the log
            "cpu_seconds": cpu_done + (cpu_seconds() - before_cpu) * fabric.world_size,
            "optimisers": [optimiser.state_dict() for optimiser in optimisers],
            "averaged": None if averaged is network else averaged.state_dict(),
            "recipe": recipe.model_dump_json(),
            "data": data.size,
        }
        save_checkpoint(run, step, replace(snapshot(), network=network), state)

    with closing(RunLog(run, step)) if fabric.is_global_zero else nullcontext() as log:
        if log and model is None:
            save()  # reports a folder that cannot be written at once
        last_saved = last_logged = perf_counter()
        logged_seconds = seconds_seen
        for batch in batches(recipe, data, fabric, step):
            _seed(recipe.seed, step, fabric)
            rate = learning_rate(recipe.optimiser, step, recipe.steps)
            for group in (group for optimiser in optimisers for group in optimiser.param_groups):
                group["lr"] = rate * group["ratio"]
            loss = batch_loss(recipe, fabric_network, stft, batch)
            fabric.backward(loss)
            clip = recipe.optimiser.clip or math.inf
            norm = float(nn.utils.clip_grad_norm_(network.parameters(), clip))
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1] + norm):  # before the weights change
                raise InputError(
                    f"{run}: at step {step + 1} the loss is {losses[-1]} and the norm of its "
                    f"gradient {norm}; lower optimiser.learning_rate or optimiser.clip"
                )
            for optimiser in fabric_optimisers:
                optimiser.step()
                optimiser.zero_grad()
            step += 1
            if averaged is not network:
                follow(averaged, network, min(recipe.optimiser.average, step / (step + 9)))
            mixtures = batch.mixture if isinstance(batch, ConditionedMixture) else batch[:, 0]
            batch_seconds = mixtures.numel() / data.speech.sample_rate
            seconds_seen += batch_seconds * fabric.world_size

            last = step == recipe.steps
            validate = validation and (last or step % validation.settings.every == 0)
            if validate or last or step % LOG_EVERY == 0:
                speed = (seconds_seen - logged_seconds) / (perf_counter() - last_logged)
                if log:
                    score = validation.si_sdri(averaged) if validation and validate else None
                    row = LogRow(step, recipe.steps, sum(losses) / len(losses), norm, rate,
                                   seconds_seen / 3600, speed, score)  # fmt: skip
                    log.write(row)
                    if score is not None and score > best:
                        best = score
                        save_model(snapshot(**{SCORE: score}), run / "best.safetensors")
                    report(row)
                losses.clear()
                last_logged, logged_seconds = perf_counter(), seconds_seen
            if log and last and not validation and averaged is not network:
                save_model(snapshot(), run / "best.safetensors")
            due = perf_counter() - last_saved > 60 * recipe.checkpoint_minutes
            if log and (due or last):
                log.flush()
                save()
                last_saved = perf_counter()
    fabric.barrier()  # until the first device has saved
    return _result(run)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its finished children so far."""
    return sum(os.times()[:4])


def _fabric(recipe: Recipe) -> Fabric:
    """Return the recipe's devices; InputError if they or a package are not available."""
    try:
        from lightning.fabric import Fabric
        from lightning.fabric.utilities.exceptions import MisconfigurationException
        from torch.utils import tensorboard  # noqa: F401
    except ImportError as error:
        raise missing_package("train", "training needs", error.name or "tensorboard") from error
    try:
        return Fabric(
            accelerator=recipe.accelerator, devices=recipe.devices, precision=recipe.precision
        )
    except (RuntimeError, MisconfigurationException) as error:
        raise InputError(
            f"accelerator {recipe.accelerator} with {recipe.devices} devices is not available on"
            " this machine; set `accelerator` or `devices`"
        ) from error


def _beginning(recipe: Recipe) -> dict[str, Any]:
    """Return the trainer's state before the first step."""
    own = {"recipe": recipe.model_dump_json(), "data": None}
    return {"step": 0, "seconds_seen": 0.0, "losses": [], **own}


def _result(run: Path) -> Path:
    best, last = run / "best.safetensors", latest_checkpoint(run)
    assert last is not None
    return best if best.exists() else last / "model.safetensors"


def _best_score(run: Path) -> float:
    """Return the score of the best weights so far, which is part of their file."""
    best = run / "best.safetensors"
    return float(load_model(best).notes.get(SCORE, -math.inf)) if best.exists() else -math.inf


def _start_from(network: EmbeddingNetwork, name: str, path: Path | None, heads: bool) -> None:
    """Load weights and feature statistics of another training.

    Heads of another size, or that only one of the networks has, are omitted; without `heads` all
    are.
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


def _freeze(network: EmbeddingNetwork, frozen: tuple[str, ...]) -> None:
    """Exclude these parts from training; InputError for one that the network lacks."""
    for part in frozen:
        chosen = [p for name, p in network.named_parameters() if name.startswith(part)]
        if not chosen:
            parts = ", ".join(name for name, _ in network.named_children())
            raise InputError(f"frozen: the network has no {part}; its parts are {parts}")
        for parameter in chosen:
            parameter.requires_grad_(False)


def _restore(optimiser: Any, saved: Any, run: Path) -> None:
    """Load the state of an optimiser; InputError if it is of another one."""
    try:
        optimiser.load_state_dict(saved)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{run}: the checkpoint is damaged; add --force to start again") from error


def _seed(seed: int, step: int, fabric: Fabric) -> None:
    """Seed dropout and noise with (seed, step, device), independent of earlier draws."""
    words = np.random.SeedSequence((seed, step, fabric.global_rank)).generate_state(1, np.uint64)
    # torch.manual_seed would record the call for every kind of accelerator.
    torch.default_generator.manual_seed(int(words[0]))
    if fabric.device.type != "cpu":
        getattr(torch, fabric.device.type).manual_seed(int(words[0]))
