"""File of a recipe: base, rows and phases, read and checked before any work.

base: base.yaml                    # merged deeply; every other key of this file replaces it
rows: {wide: {model: {...}}}       # named variants of the recipe: dpcl train FILE --row wide
phases:                            # steps in order; without this key there is one training
  - {name: trunk, stages: [...]}   # a training with these keys changed
  - {name: more, init: trunk}      # a training that starts from an earlier phase
  - {name: both, average: [trunk, more], share: 0.6}
  - {name: count, fit: count}      # a part of the model beside the network, fitted
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dpcl.catalogue import find_file
from dpcl.errors import InputError
from dpcl.settings import Settings, apply_change, merge, read_document, validated
from dpcl.training.recipe import MACHINE, DataSettings, Recipe, first_difference

ONLY = "train"  # name of the training of a recipe without phases
NAMES = r"^[a-z0-9][a-z0-9-]*$"  # names of phases, which are names of folders
# Number and length in min of the conversations of each fit.
CONVERSATIONS = {"count": 40, "confidence": 0, "whitening": 120, "activity": 200}
MINUTES = {"count": 3.0, "confidence": 3.0, "whitening": 1.5, "activity": 3.0}


class Average(Settings):
    """Average of the weights of two earlier phases."""

    average: tuple[str, str]
    share: float = Field(default=0.5, ge=0, le=1)  # of the second
    embeddings: bool = False  # keep trunk and embedding head alone


class Fit(Settings):
    """Fit of a part of the model beside the network, on outputs of the network for a corpus."""

    fit: Literal["count", "confidence", "whitening", "activity"]
    init: str | None = None  # the fitted model: an earlier phase or a shipped model; null: the last
    split: str | None = None  # null: valid for count and confidence, the recipe's for the others
    only: tuple[str, ...] | None = None  # corpora; null: those of the recipe
    kinds: str | None = None  # count: kinds of mixtures (YAML, in lists/); null: talkers
    mixtures: int = Field(default=400, ge=1)  # count, confidence: for each number of sources
    # Number of conversations, for count of each number of sources, and their length; null: see
    # CONVERSATIONS and MINUTES.
    conversations: int | None = Field(default=None, ge=0)
    minutes: float | None = Field(default=None, gt=0)
    most: int = Field(default=3, ge=1, le=10)  # count, confidence: largest number of sources
    prior: tuple[float, ...] | None = None  # count: importance of 1, 2, ... sources; null: equal
    voice_steps: int = Field(default=1500, ge=1)  # activity: of its voices
    steps: int = Field(default=800, ge=1)  # activity: of the activity network

    @property
    def number(self) -> int:
        """Return the number of conversations."""
        return CONVERSATIONS[self.fit] if self.conversations is None else self.conversations

    @property
    def length(self) -> float:
        """Return the length of a conversation in min; for count, of the longest one."""
        return MINUTES[self.fit] if self.minutes is None else self.minutes


class Named(Settings):
    """Name of a phase."""

    name: str = Field(pattern=NAMES)


@dataclass(frozen=True)
class Phase:
    """One step of a recipe.

    Attributes:
        name: name of the step and of its folder.
        work: training (Recipe), average or fit.
        init: name of the earlier phase with the initial weights; None for fresh weights, or weights
            of another recipe.
        data: corpora of a fit; None for other work.
    """

    name: str
    work: Recipe | Average | Fit
    init: str | None = None
    data: DataSettings | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the names of the earlier phases whose weights the phase needs."""
        if isinstance(self.work, Average):
            return self.work.average
        return () if self.init is None else (self.init,)


@dataclass(frozen=True)
class Plan:
    """Recipe without base and rows, checked.

    Attributes:
        source: file, and row if any, for messages.
        folder: folder of the file, where validation lists may be.
        name: stem of the file, and the row.
        document: all keys, without `base` and `rows`; it gives the same phases again.
        phases: steps in order.
    """

    source: str
    folder: Path
    name: str
    document: dict[str, Any]
    phases: tuple[Phase, ...]

    @property
    def recipe(self) -> Recipe:
        """Return the settings of the first training; InputError for a recipe without training."""
        for phase in self.phases:
            if isinstance(phase.work, Recipe):
                return phase.work
        raise InputError(f"{self.source}: has no training; add a phase with `stages`")

    def difference(self, other: Plan) -> str | None:
        """Return the dotted key in which two plans differ; settings of the machine may differ."""
        ours, theirs = [p.name for p in self.phases], [p.name for p in other.phases]
        if ours != theirs:
            return "phases"
        for one, two in zip(self.phases, other.phases, strict=True):
            key = _difference(one, two)
            if key is not None:
                return key if one.name == ONLY else f"phases.{one.name}.{key}"
        return None


def _difference(one: Phase, two: Phase) -> str | None:
    if isinstance(one.work, Recipe) and isinstance(two.work, Recipe):
        return one.work.difference(two.work.model_dump_json())
    if type(one.work) is not type(two.work):
        return "fit" if isinstance(one.work, Fit) else "average"
    ours, theirs = (
        {"data": phase.data and phase.data.model_dump(exclude=MACHINE["data"])}
        | phase.work.model_dump()
        for phase in (one, two)
    )
    return first_difference(ours, theirs)


def read_plan(
    recipe: Path | str,
    changes: Sequence[str] = (),
    corpora: Sequence[Path | str] = (),
    row: str | None = None,
) -> Plan:
    """Read a recipe.

    Args:
        recipe: YAML file, or the name of a recipe that ships.
        changes: "dotted.key=value", for all phases that do not change the key themselves.
        corpora: paths of the corpora.
        row: one of the key `rows`; None for the recipe itself.

    Raises:
        InputError: A file cannot be read, a key or value is wrong, or a phase names an unknown one.
    """
    path = Path(recipe)
    if not path.exists() and path.name == str(recipe):
        path = find_file("recipes", path.name) or find_file("recipes", f"{path.name}.yaml") or path
    data = read_document(path, "recipe", own=("rows",))
    rows = data.pop("rows", {})
    source, name = str(path), path.stem
    if row is not None:
        if not isinstance(rows, dict) or row not in rows:
            remedy = f"choose one of {', '.join(rows)}" if rows else "omit --row"
            raise InputError(f"{path}: --row {row}: there is no such row; {remedy}")
        data = merge(data, _dictionary(path, f"rows.{row}", rows[row]))
        source, name = f"{path}: rows.{row}", f"{name}-{row}"
    for change in changes:
        apply_change(data, change)
    return Plan(source, path.parent, name, data, _phases(source, data, corpora))


def _phases(
    source: str, document: dict[str, Any], corpora: Sequence[Path | str]
) -> tuple[Phase, ...]:
    common = {key: value for key, value in document.items() if key != "phases"}
    if corpora:
        paths = {"data": {"corpora": [str(path) for path in corpora]}}
        common = merge(common, paths)
    steps = document.get("phases")
    if steps is None:
        return (Phase(ONLY, validated(Recipe, source, common)),)
    if not isinstance(steps, list) or not steps:
        raise InputError(f"{source}: phases: must be a list; give `- name: NAME` and changed keys")
    phases: list[Phase] = []
    for number, step in enumerate(steps):
        changes = dict(_dictionary(source, f"phases.{number}", step))
        named = validated(Named, f"{source}: phases.{number}", {"name": changes.pop("name", None)})
        where, known = f"{source}: phases.{named.name}", [phase.name for phase in phases]
        if named.name in known:
            raise InputError(f"{where}: the name occurs twice; rename one of the two phases")
        phase = _phase(where, named.name, changes, common, known)
        missing = [name for name in phase.needs if name not in known]
        if missing:
            remedy = f"give one of {', '.join(known)}" if known else "move it after a training"
            raise InputError(f"{where}: there is no earlier phase {missing[0]}; {remedy}")
        phases.append(phase)
    return tuple(phases)


def _phase(
    where: str, name: str, changes: dict[str, Any], common: dict[str, Any], known: list[str]
) -> Phase:
    if "average" in changes:
        return Phase(name, validated(Average, where, changes))
    if "fit" in changes:
        fit = validated(Fit, where, changes)
        if fit.init is None and not known:
            raise InputError(
                f"{where}: fit {fit.fit} has no model; move it after a training, or set init"
            )
        init = known[-1] if fit.init is None else fit.init if fit.init in known else None
        return Phase(name, fit, init, validated(DataSettings, where, common.get("data", {})))
    recipe = validated(Recipe, where, merge(common, changes))
    return Phase(name, recipe, recipe.init if recipe.init in known else None)


def _dictionary(source: Path | str, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{source}: {key}: has {value!r}; give settings as `key: value`")
    return value
