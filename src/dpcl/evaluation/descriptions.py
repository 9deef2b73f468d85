"""Descriptions of experiments in YAML: systems, lists and published figures."""

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

DESCRIPTIONS = Path(__file__).parent.parent / "experiments"  # folder of the YAML files
LISTS = "lists"  # stem of the file in DESCRIPTIONS with the settings of all lists


class ListSettings(Settings):
    """Settings from which a list is drawn.

    Attributes:
        split: split of the corpus.
        only: corpora of the index to draw from; all corpora if the index has none of these.
        speakers: talkers to draw from; None for all.
        count: number of mixtures.
        sources: number of sources of each mixture.
        same_speaker: mix each speaker with themselves.
    """

    split: str
    only: tuple[str, ...] = ("librispeech", "speechocean762")
    speakers: tuple[str, ...] | None = None
    count: int = Field(ge=1)
    sources: int = Field(default=2, ge=1, le=10)
    same_speaker: bool = False


class Published(Settings):
    """Published scores of a system on wsj0-2mix or wsj0-3mix.

    Attributes:
        paper: authors and year.
        sdri: SDR improvement in dB; None if the paper has none.
        si_sdri: SI-SDR improvement in dB; None if the paper has none.
    """

    paper: str
    sdri: float | None = None
    si_sdri: float | None = None


class System(Settings):
    """One line of the table: a separator by name, or the network that a recipe trains.

    Attributes:
        name: name of the system within the experiment; without `recipe` also its `--separator`.
        title: name in the table; `name` if empty.
        recipe: stem of the recipe's file, recipes/RECIPE.yaml.
        row: row of the recipe, like `--row`.
        run: folder of the weights below `--weights`; `name` if omitted.
        changes: changes of the recipe by dotted key, like those of `--set`.
        local: cluster stretches of 100 frames, ordered by the references.
        published: published scores by list.
    """

    name: str
    title: str = ""
    recipe: str | None = None
    row: str | None = None
    run: str | None = None
    changes: dict[str, Any] = Field(default_factory=dict)
    local: bool = False
    published: dict[str, Published] = Field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Folder of the training run below `--weights`; several systems may share it."""
        return self.run or self.name


class Conversations(Settings):
    """Set of conversations in turns that are rendered from a corpus.

    Attributes:
        name: name of the set within the experiment.
        title: heading of its table; `name` if empty.
        talkers: number of talkers.
        minutes: length of a conversation.
        count: number of conversations.
        seed: seed of the first conversation; the others follow.
        rt60: reverberation time in s of a room with noise; None for clean conversations.
        snr_db: level of the talkers over the noise, in a room.
    """

    name: str
    title: str = ""
    talkers: int = Field(ge=1, le=10)
    minutes: float = Field(gt=0)
    count: int = Field(ge=1)
    seed: int = Field(default=7000, ge=0)
    rt60: float | None = Field(default=None, gt=0.1)
    snr_db: float = 15.0


class Experiment(Settings):
    """Description of one experiment.

    Attributes:
        name: name on the command line.
        title: heading of the report.
        about: introduction of the report; Markdown.
        lists: names of the lists, one table each.
        conditions: file of conditions in the folder of lists, in place of lists.
        conversations: sets of conversations, in place of lists.
        split: split of the corpus that conversations are rendered from.
        only: corpora of the index for conversations; all corpora if the index has none of these.
        by: grouping of the scores in the table.
        metrics: metrics besides SI-SDR and SDR, like those of `--metrics`.
        systems: lines of the table.
    """

    name: str
    title: str
    about: str
    lists: tuple[str, ...] = ()
    conditions: str | None = None
    conversations: tuple[Conversations, ...] = ()
    split: str = "test"
    only: tuple[str, ...] = ("librispeech",)
    by: Literal["gender", "level"] = "gender"
    metrics: tuple[str, ...] = ()
    systems: tuple[System, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Experiment:
        """Refuse two systems of one name."""
        names = [system.name for system in self.systems]
        if len(set(names)) < len(names):
            raise ValueError("two systems share a name")
        given = bool(self.lists), self.conditions is not None, bool(self.conversations)
        if sum(given) != 1:
            raise ValueError("give one of lists, conditions and conversations")
        return self


def experiment_names() -> list[str]:
    """Return the names of all experiments, sorted."""
    return sorted(path.stem for path in DESCRIPTIONS.glob("*.yaml") if path.stem != LISTS)


def read_experiment(name: str, systems: tuple[str, ...] | None = None) -> Experiment:
    """Read the description of an experiment.

    Args:
        name: name of the experiment.
        systems: names of the systems to keep; None for all.

    Returns:
        The experiment, its systems in the order of the file.

    Raises:
        InputError: There is no experiment or no system of a given name.

    Example:
        >>> [system.name for system in read_experiment("two-speakers", ("ibm", "default")).systems]
        ['default', 'ibm']
    """
    if name not in experiment_names():
        names = ", ".join(experiment_names())
        raise InputError(f"no experiment is called {name!r}; choose one of {names}")
    text = (DESCRIPTIONS / f"{name}.yaml").read_text(encoding="utf-8")
    experiment = Experiment.model_validate({"name": name, **yaml.safe_load(text)})
    if systems is None:
        return experiment
    known = {system.name: system for system in experiment.systems}
    unknown = [wanted for wanted in systems if wanted not in known]
    if unknown:
        raise InputError(
            f"experiment {name} has no system {unknown[0]!r}; choose from {', '.join(known)}"
        )
    chosen = tuple(system for system in experiment.systems if system.name in systems)
    return experiment.model_copy(update={"systems": chosen})


@lru_cache
def list_settings() -> dict[str, ListSettings]:
    """Return the settings of every list of the experiments, by name of the list."""
    text = (DESCRIPTIONS / f"{LISTS}.yaml").read_text(encoding="utf-8")
    return {
        name: ListSettings.model_validate(settings)
        for name, settings in yaml.safe_load(text).items()
    }


def find_list(name: str, root: Path, committed: Path, drawn: Path) -> list[MixtureRow]:
    """Find the frozen list of a name, or draw a list of the same settings from the corpus.

    The frozen list is used if the corpus holds any of its recordings. Otherwise a list is drawn
    and written.

    Args:
        name: name of the list.
        root: folder of the corpus.
        committed: folder of frozen lists.
        drawn: folder for the list that is drawn.

    Returns:
        Rows of the list.

    Raises:
        InputError: `read_list`, `read_corpus` or `draw_list` refuses the list or the corpus.
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
    if known & set(settings.only):  # a corpus of other names is used as a whole
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
