"""Run all phases of a recipe, and write its result, its card and a copy of the recipe.

    RUN/PHASE/…                   checkpoints, log and weights of each phase
    RUN/NAME.yaml                 the recipe without base and rows, written at the start
    RUN/NAME.safetensors, .md     the last phase's model with its metadata, and the card

NAME is the name of the folder RUN.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dpcl
from dpcl.catalogue import weights_path
from dpcl.errors import InputError
from dpcl.io import Report, atomic, no_report
from dpcl.model import Model, load_model, save_model
from dpcl.training.batches import read_data
from dpcl.training.checkpoint import LogRow, average, latest_checkpoint, load_state
from dpcl.training.fits import fit_model
from dpcl.training.loop import cpu_seconds, train, validation_of
from dpcl.training.phases import Average, Fit, Phase, Plan, read_plan
from dpcl.training.recipe import MACHINE, Recipe

WEIGHTS = "weights.safetensors"  # file of an average or a fit, in the folder of the phase
WAIT = 0.2  # s between two checks of a further device for the result of the first


@dataclass(frozen=True)
class Finished:
    """Result of one phase.

    Attributes:
        weights: file of the model.
        core_hours: CPU time, without work that was lost.
        audio_hours: length of the mixtures of a training.
        score: SI-SDRi on the validation list, dB; None without one.
    """

    weights: Path
    core_hours: float
    audio_hours: float = 0.0
    score: float | None = None


def run_plan(
    plan: Plan,
    run: Path,
    resume: bool = False,
    force: bool = False,
    report: Callable[[str, LogRow], None] = lambda phase, row: None,
    packing: Report = no_report,
) -> Path:
    """Run all phases of a recipe; those that are done are skipped.

    Args:
        plan: recipe, from `read_plan`.
        run: folder of the run; results of other recipes are in folders beside it.
        resume: continue an earlier run, to the same weights as an uninterrupted one.
        force: replace an earlier run.
        report: called with the phase and every row of its log.
        packing: called while recordings are decoded and parts are fitted.

    Returns:
        RUN/NAME.safetensors.

    Raises:
        InputError: The run exists, its recipe differs, an initial model is unknown, or `train`
            refuses the recipe or the corpus.
    """
    copy, result = run / f"{run.name}.yaml", run / f"{run.name}.safetensors"
    _check_start(plan, run, resume, force)
    begun = resume and copy.exists()
    if begun and result.exists():
        return result

    def begin() -> None:
        nonlocal begun
        if not begun and _leads():
            _make_room(plan, run, copy)
            with atomic(copy) as partial:
                partial.write_text(_yaml(plan.document), encoding="utf-8")
        begun = True

    starts = {phase.name: _start(plan, phase, run) for phase in plan.phases}
    finished: dict[str, Finished] = {}
    for phase in plan.phases:
        start = finished[phase.init].weights if phase.init else starts[phase.name]
        folder = run / phase.name
        if isinstance(phase.work, Recipe):
            fresh = force and not begun and _leads()
            weights = train(
                phase.work,
                folder,
                resume=not fresh,
                force=fresh,
                report=lambda row, name=phase.name: report(name, row),  # type: ignore[misc]
                packing=packing,
                init=start,
                folder=plan.folder,
                begin=begin,
            )
            finished[phase.name] = _trained(folder, weights)
        else:
            finished[phase.name] = _other(plan, phase, folder, start, finished, begin, packing)
    if _leads():
        _write_result(plan, run, result, finished)
    return result


def _leads() -> bool:
    """Return True in the process that writes; with several devices, it is the first."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _check_start(plan: Plan, run: Path, resume: bool, force: bool) -> None:
    copy = run / f"{run.name}.yaml"
    if resume and force:
        raise InputError(f"{run}: --resume continues the run and --force replaces it; choose one")
    if not _leads() or force:
        return
    if resume and copy.exists():
        key = plan.difference(read_plan(copy))
        if key is not None:
            raise InputError(
                f"{run}: was started with another `{key}`; restore it, or choose another --run"
            )
    elif run.is_dir() and any(not path.name.startswith(".") for path in run.iterdir()):
        remedy = "add --force to replace it" if resume else "add --resume or --force"
        raise InputError(f"{run}: holds another run; {remedy}, or choose another --run")


def _make_room(plan: Plan, run: Path, copy: Path) -> None:
    """Remove an earlier run, and nothing else in its folder."""
    names = {phase.name for phase in plan.phases}
    try:
        run.mkdir(parents=True, exist_ok=True)
        if copy.exists():
            names |= {phase.name for phase in read_plan(copy).phases}
        for name in names:
            shutil.rmtree(run / name, ignore_errors=True)
        for suffix in (".safetensors", ".md"):
            copy.with_suffix(suffix).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{run}: cannot hold a run; {error.strerror}") from error


def _start(plan: Plan, phase: Phase, run: Path) -> Path | None:
    """Return the file of initial weights that are of no phase: a model, a result or a file."""
    name = None if isinstance(phase.work, Average) else phase.work.init
    if name is None or phase.init is not None:
        return None
    other = run.parent / name / f"{Path(name).name}.safetensors"
    found = other if other.is_file() else weights_path(name)
    if found is None:
        raise InputError(
            f"{plan.source}: init: {name}: no such weights file, model, earlier phase or result in"
            f" {run.parent}; correct it, or train it first: dpcl train {name}"
        )
    return found


def _trained(folder: Path, weights: Path) -> Finished:
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    state, score = load_state(checkpoint), load_model(weights).notes.get("valid_si_sdri_db")
    hours = state.get("cpu_seconds", 0.0) / 3600, state["seconds_seen"] / 3600
    return Finished(weights, *hours, score)


def _other(
    plan: Plan,
    phase: Phase,
    folder: Path,
    start: Path | None,
    finished: dict[str, Finished],
    begin: Callable[[], None],
    packing: Report,
) -> Finished:
    """Return an average or a fit; it is computed unless its file exists."""
    path, notes = folder / WEIGHTS, dict[str, Any]()
    while not _leads() and not path.exists():
        time.sleep(WAIT)
    if not path.exists():
        before = cpu_seconds()
        if isinstance(phase.work, Average):
            first, second = (load_model(finished[name].weights) for name in phase.work.average)
            model = average(first, second, phase.work.share, phase.work.embeddings)
            notes = {"valid_si_sdri_db": _score(plan, phase, model)}
        else:
            assert isinstance(phase.work, Fit) and phase.data is not None and start is not None
            model = fit_model(load_model(start), phase.work, phase.data, packing)
        begin()
        folder.mkdir(parents=True, exist_ok=True)
        notes |= {"cpu_seconds": cpu_seconds() - before}
        save_model(replace(model, notes=notes), path)
    notes = load_model(path).notes
    hours, score = notes.get("cpu_seconds", 0.0) / 3600, notes.get("valid_si_sdri_db")
    return Finished(path, hours, 0.0, score)


def _score(plan: Plan, phase: Phase, model: Model) -> float | None:
    """Return the score of an average on the list of the last training with a validation list."""
    earlier = plan.phases[: plan.phases.index(phase)]
    recipes = [p.work for p in earlier if isinstance(p.work, Recipe) and p.work.validation]
    if not recipes:
        return None
    recipe = recipes[-1].model_copy(update={"model": model.settings})
    validation = validation_of(recipe, plan.folder)
    return validation.si_sdri(model) if validation else None


def _write_result(plan: Plan, run: Path, result: Path, finished: dict[str, Finished]) -> None:
    """Write the last phase's model with the metadata of the whole recipe, after its card."""
    notes = {
        "recipe": _portable(plan.document),
        "program": dpcl.__version__,
        "commit": _commit(),
        "seed": plan.document.get("seed", 0),
        "core_hours": round(sum(phase.core_hours for phase in finished.values()), 4),
        "audio_hours": round(sum(phase.audio_hours for phase in finished.values()), 4),
        "valid_si_sdri_db": {
            name: round(phase.score, 2)
            for name, phase in finished.items()
            if phase.score is not None
        },
        "data": _data(plan),
    }
    last = load_model(finished[plan.phases[-1].name].weights)
    with atomic(result.with_suffix(".md")) as partial:
        partial.write_text(_card(plan, run.name, last, notes, finished), encoding="utf-8")
    save_model(replace(last, notes=notes), result, half=True)


def _portable(document: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe without the settings of the machine, which do not change the weights."""
    kept = {key: value for key, value in document.items() if MACHINE.get(key) is not True}
    if "data" in kept:
        machine = MACHINE["data"]
        kept["data"] = {key: x for key, x in kept["data"].items() if key not in machine}
    if "phases" in kept:
        kept["phases"] = [_portable(phase) for phase in kept["phases"]]
    return kept


def _data(plan: Plan) -> list[dict[str, Any]]:
    """Return talkers, recordings and hours of each corpus that the trainings use."""
    read = {}
    for phase in plan.phases:
        if isinstance(phase.work, Recipe):
            data = phase.work.data
            read[data.corpora, data.split, data.only, data.speakers] = data
    utterances = {u for data in read.values() for u in read_data(data).utterances}
    rows = []
    for name in sorted({u.corpus for u in utterances}):
        own = [u for u in utterances if u.corpus == name]
        hours = round(sum(u.seconds for u in own) / 3600, 3)
        talkers = len({u.speaker for u in own})
        rows.append({"corpus": name, "talkers": talkers, "recordings": len(own), "hours": hours})
    return rows


def _card(
    plan: Plan, name: str, model: Model, notes: dict[str, Any], finished: dict[str, Finished]
) -> str:
    """Return a model card with the figures of model and training, in Markdown."""
    lines = [
        f"# {name}",
        "",
        f"Made by `dpcl train {plan.name}`.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {title} | {text} |" for title, text in describe(model).items()),
        "",
        "## Training",
        "",
        f"`dpcl train {plan.name}`: {notes['core_hours']:.2f} core-hours,"
        f" {notes['audio_hours']:.2f} h of mixtures, seed {notes['seed']}; dpcl"
        f" {notes['program']}, commit {notes['commit'] or 'unknown'}.",
        "",
        "| phase | core-hours | mixtures, h | validation list: SI-SDRi, dB |",
        "|---|--:|--:|--:|",
    ]
    for phase, done in finished.items():
        score = "–" if done.score is None else f"{done.score:.2f}"
        lines.append(f"| {phase} | {done.core_hours:.2f} | {done.audio_hours:.2f} | {score} |")
    lines += ["", "| corpus | talkers | recordings | hours |", "|---|--:|--:|--:|"]
    for row in notes["data"]:
        values = " | ".join(str(value) for value in list(row.values())[1:])
        lines.append(f"| {row['corpus'] or 'unnamed'} | {values} |")
    return "\n".join(lines) + "\n"


def describe(model: Model) -> dict[str, str]:
    """Return network, input and masks of a model as its card states them.

    Args:
        model: model whose settings and number of weights are described.

    Returns:
        Text of each row of the card's first table.
    """
    signal, network, masks = model.settings.signal, model.settings.network, model.settings.masks
    weights = sum(value.numel() for value in model.network.state_dict().values())
    window, hop = (f"{1000 * n / signal.sample_rate:g} ms" for n in (signal.window, signal.hop))
    input_ = f"{signal.sample_rate / 1000:g} kHz, square-root Hann window of {window} every {hop}"
    size = f"{weights / 1e6:.2g} million weights, stored in float16"
    if network.embedding:
        size = f"K = {network.embedding}, {size}"
    described = {"network": f"`{network.kind}`, {network.layers} layers, {size}", "input": input_}
    if masks.head == "embedding" and masks.sharpness is not None:
        described["masks"] = f"softmax of {masks.sharpness:g} × the {masks.similarity}"
    return described


def _commit() -> str | None:
    """Return the git commit of this program's source; None outside a repository."""
    folder = Path(dpcl.__file__).parent
    commands = ["ls-files", "--error-unmatch", "__init__.py"], ["describe", "--always", "--dirty"]
    try:
        for command in commands:
            options = ["--abbrev=40", "--exclude=*"] if command[0] == "describe" else []
            done = subprocess.run(
                ["git", *command, *options], cwd=folder, capture_output=True, text=True, check=True
            )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _yaml(document: dict[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text
