"""Descriptions of experiments: systems, lists and published figures, read from YAML."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from dpcl.errors import InputError
from dpcl.mixtures.corpus import Corpus, read_corpus
from dpcl.mixtures.drawing import draw_list
from dpcl.mixtures.lists import MixtureRow, read_list, write_list
from dpcl.settings import Settings

DESCRIPTIONS = Path(__file__).parent.parent / "experiments"
LISTS = "lists"  # the file there that says how lists are drawn, and the folder of committed ones


class ListSettings(Settings):
    """How a list is drawn, in the terms of `dpcl mix draw`."""

    split: str
    only: tuple[str, ...] = ("librispeech", "speechocean762")
    speakers: tuple[str, ...] | None = None
    count: int = Field(ge=1)
    sources: int = Field(default=2, ge=1, le=10)
    same_speaker: bool = False


class Published(Settings):
    """A figure of a paper, on wsj0-2mix or wsj0-3mix; dB."""

    paper: str
    sdri: float | None = None
    si_sdri: float | None = None


class System(Settings):
    """One line of the table: a separator by name, or the network that a recipe trains."""

    name: str
    title: str = ""
    separator: str | None = None  # what --separator takes; the name if neither this nor recipe
    recipe: str | None = None  # recipes/RECIPE.yaml
    run: str | None = None  # the folder of its weights below --weights; the name if left out
    changes: dict[str, Any] = Field(default_factory=dict)  # of the recipe, as --set takes them
    local: bool = False  # stretches of 100 frames, in the references' order
    published: dict[str, Published] = Field(default_factory=dict)  # by list

    @property
    def folder(self) -> str:
        """Of the training run, by which other systems may name it too."""
        return self.run or self.name


class Experiment(Settings):
    """A table."""

    name: str
    title: str
    about: str  # what it shows, for the head of the report; Markdown
    lists: tuple[str, ...] = ()
    conditions: str | None = None  # file of conditions in the folder of lists, instead of lists
    by: Literal["gender", "level"] = "gender"
    systems: tuple[System, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Experiment:
        names = [system.name for system in self.systems]
        if len(set(names)) < len(names):
            raise ValueError("two systems share a name")
        if bool(self.lists) == (self.conditions is not None):
            raise ValueError("there are no lists, or lists and conditions; give one of them")
        return self


def experiment_names() -> list[str]:
    """All there are."""
    return sorted(path.stem for path in DESCRIPTIONS.glob("*.yaml") if path.stem != LISTS)


def read_experiment(name: str, systems: tuple[str, ...] | None = None) -> Experiment:
    """The experiment of a name, of its systems only those that are named.

    Raises InputError for names that there are not.
    """
    if name not in experiment_names():
        names = ", ".join(experiment_names())
        raise InputError(f"no experiment is called {name!r}; there are {names}")
    text = (DESCRIPTIONS / f"{name}.yaml").read_text(encoding="utf-8")
    experiment = Experiment.model_validate({"name": name, **yaml.safe_load(text)})
    if systems is None:
        return experiment
    known = {system.name: system for system in experiment.systems}
    unknown = [wanted for wanted in systems if wanted not in known]
    if unknown:
        raise InputError(
            f"experiment {name} has no system {unknown[0]!r}; there are {', '.join(known)}"
        )
    chosen = tuple(system for system in experiment.systems if system.name in systems)
    return experiment.model_copy(update={"systems": chosen})


@lru_cache
def list_settings() -> dict[str, ListSettings]:
    """How each list that experiments name is drawn."""
    text = (DESCRIPTIONS / f"{LISTS}.yaml").read_text(encoding="utf-8")
    return {
        name: ListSettings.model_validate(settings)
        for name, settings in yaml.safe_load(text).items()
    }


def find_list(name: str, root: Path, committed: Path, drawn: Path) -> list[MixtureRow]:
    """The list of a name for the corpus below `root`.

    The one in the folder `committed` where the corpus is the one that it was drawn from (it has
    any recording of it); otherwise drawn from the corpus, into the folder `drawn`, by
    the same settings. Raises InputError for what read_list, read_corpus and draw_list refuse.
    """
    frozen = committed / f"{name}.csv"
    if frozen.is_file():
        rows = read_list(frozen)
        paths = (path for row in rows for source in row.sources for path in source.paths)
        if any((root / path).is_file() for path in paths):
            return rows
    settings = list_settings()[name]
    corpus = read_corpus(root, settings.split)
    known = {utterance.corpus for utterance in corpus.utterances}
    if known & set(settings.only):  # of another corpus all is taken
        corpus = Corpus(
            corpus.root, tuple(u for u in corpus.utterances if u.corpus in settings.only)
        )
    if settings.speakers:
        corpus = corpus.of_speakers(settings.speakers)
    rows = draw_list(
        corpus, name, 0, settings.count, settings.sources, same_speaker=settings.same_speaker
    )
    drawn.mkdir(parents=True, exist_ok=True)
    write_list(rows, drawn / f"{name}.csv")
    return rows
