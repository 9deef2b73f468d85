"""Train a network: the loop and its optimisers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import closing, nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dpcl.errors import InputError, missing_package
from dpcl.evaluation.validation import Validation
from dpcl.io import Report, no_report
from dpcl.mixtures.conditions import ConditionedMixture
from dpcl.model import Model, build_network, save_model
from dpcl.networks.base import EmbeddingNetwork
from dpcl.training.batches import batch_loss, batches, prepare, statistics
from dpcl.training.checkpoint import (
    SCORE,
    LogRow,
    RunLog,
    best_score,
    clear,
    latest_checkpoint,
    load_checkpoint,
    result_of,
    save_checkpoint,
    start_from,
    to_resume,
)
from dpcl.training.recipe import MACHINE, OptimiserSettings, Recipe

if TYPE_CHECKING:
    from lightning.fabric import Fabric

BEGINNING: dict[str, Any] = {"step": 0, "seconds_seen": 0.0, "losses": []}  # before the first step
LOG_EVERY = 20  # steps from one row of the log to the next
MATRIX_RATE = 4e-3  # highest learning rate of Muon's matrices
SMALLEST_MATRIX = 16  # rows and columns of a matrix that Muon updates, at least


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
    model, state = load_checkpoint(checkpoint) if checkpoint else (None, BEGINNING)
    if model is not None and (other := recipe.difference(state["recipe"])):
        raise InputError(
            f"{run}: was started with another `{other}`; restore it, or choose another --run"
        )
    if state["step"] == recipe.steps:
        return result_of(run)
    fabric.launch()
    torch.manual_seed(recipe.seed)
    network: EmbeddingNetwork = build_network(recipe.model)
    _freeze(network, recipe.frozen)
    if model is not None:
        network.load_state_dict(model.network.state_dict())
    elif recipe.init is not None:
        start_from(network, recipe.init, init, recipe.init_heads)
    with fabric.rank_zero_first():  # the other devices then find the cache
        data = prepare(recipe, packing)
    if model is not None and state["data"] != data.size:
        raise InputError(f"{run}: the recordings have changed since; start a new run")
    validation = validation_of(recipe, folder)
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
    step, seconds_seen, losses = state["step"], state["seconds_seen"], [*state["losses"]]
    cpu_done = state.get("cpu_seconds", 0.0)
    best = best_score(run)

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
                    f"{run}: at step {step + 1} ({recipe.place_of(step)}) the loss is {losses[-1]}"
                    f" and the norm of its gradient {norm}; the last good weights are in"
                    f" {latest_checkpoint(run)}; lower optimiser.learning_rate or optimiser.clip"
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
                    score = validation.si_sdri(snapshot()) if validation and validate else None
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
    return result_of(run)


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


def optimisers_of(network: nn.Module, settings: OptimiserSettings) -> list[torch.optim.Optimizer]:
    """Return the optimisers of a recipe.

    The rate of a parameter group is its `ratio` times the learning rate of the step.

    Args:
        network: its parameters that require a gradient are trained.
        settings: `adam` for one optimiser; `muon` for Muon on matrices and AdamW on the others.

    Source: Kingma and Ba 2015 (Adam); Jordan et al. 2024 (Muon).
    """
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.kind == "adam":
        groups = [{"params": learning, "ratio": 1.0}]
        if not decay:
            return [torch.optim.Adam(groups, rate)]
        return [torch.optim.AdamW(groups, rate, weight_decay=decay)]
    matrices = [p for p in learning if p.ndim == 2 and min(p.shape) >= SMALLEST_MATRIX]
    chosen = {id(p) for p in matrices}
    others = [p for p in learning if id(p) not in chosen]
    return [
        torch.optim.Muon(
            [{"params": matrices, "ratio": MATRIX_RATE / rate}],
            MATRIX_RATE,
            weight_decay=decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            [{"params": others, "ratio": 1.0}], rate, betas=(0.9, 0.98), weight_decay=decay
        ),
    ]


def average_of(
    network: EmbeddingNetwork, settings: OptimiserSettings, saved: dict[str, Tensor] | None
) -> EmbeddingNetwork:
    """Return the running average of the weights, or the network itself without one."""
    if not settings.average:
        return network
    averaged = deepcopy(network).requires_grad_(False)
    if saved is not None:
        averaged.load_state_dict(saved)
    return averaged


@torch.no_grad()
def follow(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the weights by 1 - decay."""
    pairs = zip(averaged.parameters(), network.parameters(), strict=True)
    for mean, weight in pairs:
        mean.lerp_(weight.to(mean.device), 1 - decay)


def learning_rate(settings: OptimiserSettings, step: int, steps: int) -> float:
    """Return the rate of a step: linear warm-up, constant, then a half cosine down to `final`."""
    if step < settings.warm_up:
        return settings.learning_rate * (step + 1) / settings.warm_up
    first = max(settings.warm_up, round(settings.hold * steps))
    share = max(0, step - first) / max(1, steps - first)
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return settings.learning_rate * (settings.final + (1 - settings.final) * cosine)


def validation_of(recipe: Recipe, folder: Path | None = None) -> Validation | None:
    """Return the validation of a recipe, with its mixtures rendered; None without one.

    Args:
        recipe: its list, corpora and sample rate.
        folder: of the recipe, where the list may lie.

    Raises:
        InputError: The list or its recordings are missing, and no corpus has a split `valid`.
    """
    if recipe.validation is None:
        return None
    data, rate = recipe.data, recipe.model.signal.sample_rate
    return Validation(recipe.validation, rate, data.corpora, data.num_sources, folder)
