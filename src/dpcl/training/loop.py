"""Train a network: the loop, its log and its validation."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dpcl.errors import InputError, missing_package
from dpcl.evaluation.metrics import best_permutation, si_sdr
from dpcl.io import Report, atomic, no_report
from dpcl.mixtures.lists import read_list, render_mixture
from dpcl.model import Model, ModelSettings, build_network, load_model, save_model
from dpcl.networks.base import HEADS, EmbeddingNetwork
from dpcl.recordings.separate import separate_recording
from dpcl.separators.registry import separator_of
from dpcl.shipped import weights_path
from dpcl.training.batches import batches, pack, statistics
from dpcl.training.checkpoint import (
    clear,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    to_resume,
)
from dpcl.training.loss import batch_loss
from dpcl.training.recipe import MACHINE, OptimiserSettings, Recipe, ValidationSettings

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True)
class LogRow:
    """One row of log.csv, and what the progress bar shows.

    With several devices, `loss` is of the first device's share of the batches.
    """

    step: int
    steps: int
    loss: float  # mean over the steps since the last row; 0 to 4
    gradient_norm: float
    learning_rate: float
    audio_hours: float  # mixtures seen so far
    speed: float  # hours of mixtures an hour
    si_sdri: float | None = None  # dB, on the validation list


class RunLog:
    """run/log.csv and run/tensorboard from step `done` on; the rows of later steps are dropped."""

    def __init__(self, run: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._csv = run / "log.csv"
        self._keep_rows(done)
        # TensorBoard hides what was written from step purge_step on, before this moment.
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)

    def _keep_rows(self, done: int) -> None:
        """Drop the rows of steps that will be taken again, and one that was half written."""
        header = ",".join(field.name for field in fields(LogRow))
        lines = self._csv.read_text().splitlines() if self._csv.exists() else []
        whole = [line for line in lines[1:] if line.count(",") == header.count(",")]
        kept = [line for line in whole if int(line.partition(",")[0]) <= done]
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
        """Bring to the disk what a later resume will not write again."""
        self._board.flush()

    def close(self) -> None:
        """Let TensorBoard write what it still holds."""
        self._board.close()


class Validation:
    """Holds the rendered mixtures; scores a network as `dpcl separate` would run it."""

    def __init__(self, settings: ValidationSettings, model: ModelSettings) -> None:
        self.settings, self.model = settings, model
        rows = read_list(Path(settings.list))[: settings.limit]
        root, rate = Path(settings.root), model.signal.sample_rate
        self.mixtures = [render_mixture(row, root, rate) for row in rows]

    def si_sdri(self, network: EmbeddingNetwork) -> float:
        """Mean over mixtures of the mean over their sources, dB; silent references do not count.

        The network is left in the mode that it was in, and no random number is drawn.
        """
        training = network.training
        separator = separator_of(Model(self.model, network.eval(), {}))
        scores = []
        for rendered in self.mixtures:
            mixture, references = (torch.as_tensor(x, dtype=torch.float32) for x in rendered)
            found = separate_recording(mixture, separator.sample_rate, separator, len(references))
            estimates = found.sources
            order = best_permutation(estimates, references)
            improvement = si_sdr(estimates[order], references) - si_sdr(mixture, references)
            scores.append(improvement.nanmean())  # NaN: a silent reference
        network.train(training)
        return float(torch.stack(scores).nanmean())


LOG_EVERY = 20  # steps


def train(
    recipe: Recipe,
    run: Path,
    resume: bool = False,
    report: Callable[[LogRow], None] = lambda row: None,
    packing: Report = no_report,
    force: bool = False,
) -> Path:
    """Train and return the weights: the best by validation, or the last without one.

    Writes run/log.csv, run/tensorboard, run/checkpoints/STEP and run/best.safetensors. With
    `resume` it continues from the newest checkpoint with the same batches, as if never stopped
    (a finished run is left as it is, one that never began is begun); `force` replaces a run.
    Raises InputError for data that cannot be read or that is too little, a run that is there
    without `resume` or `force` or is of another recipe, and a loss that is no longer finite.
    """
    fabric = _fabric(recipe)
    checkpoint = to_resume(run, resume, force)
    model, state = load_checkpoint(checkpoint) if checkpoint else (None, _beginning(recipe))
    if other := recipe.difference(state["recipe"]):
        raise InputError(f"{run}: its recipe has another {other}; correct it or choose another run")
    if state["step"] == recipe.steps:
        return _result(run)
    fabric.launch()
    torch.manual_seed(recipe.seed)
    network: EmbeddingNetwork = build_network(recipe.model)
    _freeze(network, recipe.frozen)
    if model is not None:
        network.load_state_dict(model.network.state_dict())
    elif recipe.init is not None:
        _start_from(network, recipe.init, recipe.init_heads)
    with fabric.rank_zero_first():  # the others find the cache that it makes
        packed = pack(recipe, packing)
    size = [len(packed), int(packed.offsets[-1])]
    if state["data"] not in (None, size):
        raise InputError(f"{run}: the recordings have changed since; start a new run")
    validation = Validation(recipe.validation, recipe.model) if recipe.validation else None
    stft = recipe.model.signal.stft()
    if model is None and recipe.init is None:
        network.mean, network.std = statistics(recipe, packed)
    if fabric.is_global_zero and model is None:
        clear(run)  # only now: the weights and recordings that the recipe names are there

    optimiser = _optimiser(network, recipe.optimiser)
    fabric_network, fabric_optimiser = fabric.setup(network.train(), optimiser)
    if model is not None:  # only now, as the state goes to the device where the weights are
        optimiser.load_state_dict(state["optimiser"])
    step, seconds_seen, losses = state["step"], state["seconds_seen"], state["losses"]
    best = _best_score(run)

    def snapshot(**scores: float) -> Model:
        notes = {"recipe": recipe.model_dump(mode="json", exclude=MACHINE), "step": step}
        return Model(recipe.model, network, notes | {"audio_hours": seconds_seen / 3600} | scores)

    def save() -> None:
        state = {
            "step": step,
            "seconds_seen": seconds_seen,
            "losses": losses,  # since the last row of the log
            "optimiser": optimiser.state_dict(),
            "recipe": recipe.model_dump_json(),
            "data": size,
        }
        save_checkpoint(run, step, snapshot(), state)

    with closing(RunLog(run, step)) if fabric.is_global_zero else nullcontext() as log:
        if log and model is None:
            save()  # a folder that cannot be written is found now, not in five minutes
        last_saved = last_logged = perf_counter()
        logged_seconds = seconds_seen
        for sources in batches(recipe, packed, fabric, step):  # (B, C, W, T)
            _seed(recipe.seed, step, fabric)
            rate = learning_rate(recipe.optimiser, step, recipe.steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = batch_loss(recipe, fabric_network, stft, sources)
            fabric.backward(loss)
            clip = recipe.optimiser.clip or math.inf
            norm = float(nn.utils.clip_grad_norm_(network.parameters(), clip))
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1] + norm):  # before it is in the weights
                raise InputError(
                    f"{run}: at step {step + 1} the loss is {losses[-1]} and the norm of its "
                    f"gradient {norm}; lower optimiser.learning_rate or optimiser.clip"
                )
            fabric_optimiser.step()
            optimiser.zero_grad()
            step += 1
            batch_seconds = sources[:, 0].numel() / packed.sample_rate
            seconds_seen += batch_seconds * fabric.world_size

            last = step == recipe.steps
            validate = validation and (last or step % validation.settings.every == 0)
            if validate or last or step % LOG_EVERY == 0:
                speed = (seconds_seen - logged_seconds) / (perf_counter() - last_logged)
                if log:
                    score = validation.si_sdri(network) if validation and validate else None
                    row = LogRow(step, recipe.steps, sum(losses) / len(losses), norm, rate,
                                   seconds_seen / 3600, speed, score)  # fmt: skip
                    log.write(row)
                    if score is not None and score > best:
                        best = score
                        save_model(snapshot(valid_si_sdri_db=score), run / "best.safetensors")
                    report(row)
                losses.clear()
                last_logged, logged_seconds = perf_counter(), seconds_seen
            due = perf_counter() - last_saved > 60 * recipe.checkpoint_minutes
            if log and (due or last):
                log.flush()
                save()
                last_saved = perf_counter()
    fabric.barrier()  # until the first device has saved
    return _result(run)


def _fabric(recipe: Recipe) -> Fabric:
    """Where the recipe says to train; InputError if that, or a package for it, is not there."""
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
            f"accelerator {recipe.accelerator} with devices {recipe.devices} cannot be had here; "
            "choose others in the recipe or with --set"
        ) from error


def _beginning(recipe: Recipe) -> dict[str, Any]:
    """The trainer's state before the first step."""
    recipe_json = recipe.model_dump_json()
    return {"step": 0, "seconds_seen": 0.0, "losses": [], "recipe": recipe_json, "data": None}


def _result(run: Path) -> Path:
    best, last = run / "best.safetensors", latest_checkpoint(run)
    assert last is not None
    return best if best.exists() else last / "model.safetensors"


def _best_score(run: Path) -> float:
    """What the best weights so far scored. They say it themselves, so both are always of a kind."""
    best = run / "best.safetensors"
    return float(load_model(best).notes["valid_si_sdri_db"]) if best.exists() else -math.inf


def _start_from(network: EmbeddingNetwork, name: str, heads: bool) -> None:
    """Weights and feature statistics of another training (pre-training, or another data set).

    Heads may differ: those that the other network lacks, or has of another size, stay fresh, its
    own others are left out; without `heads` all are.
    """
    path = weights_path(name) or Path(name)
    sizes = f"init: {path} is of another size of network; change model.network"
    own = network.state_dict()
    begin = {
        name: value
        for name, value in load_model(path).network.state_dict().items()
        if not name.startswith(HEADS) or (heads and name in own and own[name].shape == value.shape)
    }
    try:
        unmatched = network.load_state_dict(begin, strict=False)
    except RuntimeError as error:
        raise InputError(sizes) from error
    if not all(key.startswith(HEADS) for keys in unmatched for key in keys):
        raise InputError(sizes)


def _freeze(network: EmbeddingNetwork, frozen: tuple[str, ...]) -> None:
    """Keep the weights of these parts as they are; InputError for one that is not there."""
    for part in frozen:
        chosen = [p for name, p in network.named_parameters() if name.startswith(part)]
        if not chosen:
            parts = ", ".join(name for name, _ in network.named_children())
            raise InputError(f"frozen: the network has no {part}; its parts are {parts}")
        for parameter in chosen:
            parameter.requires_grad_(False)


def _seed(seed: int, step: int, fabric: Fabric) -> None:
    """Draw dropout and noise from (seed, step, device): no matter what was drawn before."""
    words = np.random.SeedSequence((seed, step, fabric.global_rank)).generate_state(1, np.uint64)
    # torch.manual_seed would note the call for every kind of accelerator that is not there.
    torch.default_generator.manual_seed(int(words[0]))
    if fabric.device.type != "cpu":
        getattr(torch, fabric.device.type).manual_seed(int(words[0]))


def _optimiser(network: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return torch.optim.Adam(learning, settings.learning_rate)


def learning_rate(settings: OptimiserSettings, step: int, steps: int) -> float:
    """Linear warm-up, then a half cosine from the highest rate to `final` of it."""
    if step < settings.warm_up:
        return settings.learning_rate * (step + 1) / settings.warm_up
    share = (step - settings.warm_up) / max(1, steps - settings.warm_up)
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return settings.learning_rate * (settings.final + (1 - settings.final) * cosine)
