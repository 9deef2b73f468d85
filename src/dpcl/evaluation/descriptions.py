"""Descriptions of experiments in YAML: systems, lists, conditions and published figures.

Lists of conditions are derived from a few frozen lists that hold all draws. A base list has
talkers, and a room and a noise for each mixture. A condition keeps or drops these, and sets their
RT60, signal-to-noise ratio, levels and channel; so all conditions of a base list share talkers,
texts, places and noises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from dpcl.errors import InputError
from dpcl.mixtures.channels import Channel, parse_channel
from dpcl.mixtures.corpus import Corpus, read_corpus
from dpcl.mixtures.drawing import draw_list
from dpcl.mixtures.lists import read_list, write_list
from dpcl.mixtures.noise import draw_babble, draw_pink
from dpcl.mixtures.rooms import draw_array, shortest_rt60
from dpcl.mixtures.rows import MixtureRow
from dpcl.settings import Settings, read_settings

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
        sample_rate: of the recording, Hz.
    """

    name: str
    title: str = ""
    talkers: int = Field(ge=1, le=10)
    minutes: float = Field(gt=0)
    count: int = Field(ge=1)
    seed: int = Field(default=7000, ge=0)
    rt60: float | None = Field(default=None, gt=0.1)
    snr_db: float = 15.0
    sample_rate: int = Field(default=16000, ge=8000)


class Experiment(Settings):
    """Description of one experiment.

    Attributes:
        name: name on the command line.
        title: heading of the report.
        about: introduction of the report; Markdown.
        lists: names of the lists, one table each; FILE/CONDITION for a condition (see find_list).
        conditions: file of conditions in the folder of lists, in place of lists.
        conversations: sets of conversations, in place of lists.
        stretches: lengths in s of speech whose talkers are compared, in place of lists.
        split: split of the corpus for conversations and stretches.
        only: corpora of the index for these; all corpora if the index has none of them.
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
    stretches: tuple[float, ...] = ()
    split: str = "test"
    only: tuple[str, ...] = ("librispeech",)
    by: Literal["gender", "level", "kind"] = "gender"
    metrics: tuple[str, ...] = ()
    systems: tuple[System, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Experiment:
        """Refuse two systems of one name."""
        names = [system.name for system in self.systems]
        if len(set(names)) < len(names):
            raise ValueError("two systems share a name")
        given = (self.lists, self.conditions, self.conversations, self.stretches)
        if sum(map(bool, given)) != 1:
            raise ValueError("give one of lists, conditions, conversations and stretches")
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
        >>> [system.name for system in read_experiment("two-speakers", ("ibm", "clean")).systems]
        ['clean', 'ibm']
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
        name: name of the list, or FILE/CONDITION for a condition of lists/FILE.yaml.
        root: folder of the corpus.
        committed: folder of frozen lists.
        drawn: folder for the list that is drawn.

    Returns:
        Rows of the list.

    Raises:
        InputError: `read_list`, `read_corpus` or `draw_list` refuses the list or the corpus, or the
            file has no such condition.
    """
    if "/" in name:
        file, condition = name.split("/")
        return condition_list(committed / f"{file}.yaml", condition)
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


class Condition(Settings):
    """Condition: a base list, the draws of it that are kept, and the values that are set."""

    name: str = Field(min_length=1)
    base: str  # name of a list beside the conditions
    title: str = ""
    room: bool = False  # keep the rooms of the list
    rt60: float | None = Field(default=None, gt=0)  # s, of all rooms; null: as drawn
    noise: Literal["drawn", "pink", "babble"] | None = None
    snr_db: float | None = None  # null: as drawn; pink noise and babble need it
    quieter_db: float | None = Field(default=None, ge=0)  # second talker below the first
    channel: str = ""  # such as band=300-3400|codec=ulaw
    microphones: int = Field(default=1, ge=1, le=64)  # of an array (see draw_array)

    @property
    def plain(self) -> bool:
        """True if the talkers of the base list are mixed without room, noise and channel."""
        return not (self.room or self.noise or self.channel or self.quieter_db is not None)

    @model_validator(mode="after")
    def _fits_together(self) -> Condition:
        parse_channel(self.channel)
        if self.rt60 is not None and not self.room:
            raise ValueError("rt60 needs room: true")
        if self.snr_db is not None and self.noise is None:
            raise ValueError("snr_db needs noise: drawn, pink or babble")
        if self.noise in ("pink", "babble") and self.snr_db is None:
            raise ValueError(f"noise: {self.noise} needs snr_db")
        if self.microphones > 1 and (not self.room or self.noise or self.channel):
            raise ValueError("microphones needs room: true, without noise and channel")
        return self


class ConditionLists(Settings):
    """Conditions of one file."""

    seed: int = Field(default=0, ge=0)  # of pink noise
    babble: str | None = None  # name of a list whose talkers are the voices of babble
    voices: int = Field(default=8, ge=1)  # talkers of a babble
    conditions: tuple[Condition, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ_and_voices_are_there(self) -> ConditionLists:
        names = [condition.name for condition in self.conditions]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two conditions are called {min(twice)}; rename one")
        if self.babble is None and any(c.noise == "babble" for c in self.conditions):
            raise ValueError("noise: babble needs the list of its voices; give `babble`")
        return self


def read_conditions(path: Path) -> ConditionLists:
    """Read a file of conditions (YAML); InputError that names the wrong key."""
    return read_settings(ConditionLists, path)


def condition_list(path: Path, name: str) -> list[MixtureRow]:
    """Return the list of one condition of a file; InputError for one that the file lacks.

    The ids of its rows begin with the condition, so that several conditions differ in them.
    """
    settings = read_conditions(path)
    chosen = tuple(c for c in settings.conditions if c.name == name)
    if not chosen:
        names = ", ".join(c.name for c in settings.conditions)
        raise InputError(f"{path}: has no condition {name!r}; choose one of {names}")
    one = settings.model_copy(update={"conditions": chosen})
    return [replace(row, id=f"{name}-{row.id}") for row in derive_lists(one, path.parent)[name]]


def derive_lists(
    settings: ConditionLists, folder: Path, limit: int | None = None
) -> dict[str, list[MixtureRow]]:
    """Derive the list of each condition from the base lists in `folder`.

    Rows keep the id of their base row, by which conditions are compared. Their `list` is the name
    of the condition.

    Args:
        settings: the conditions.
        folder: folder of the base lists.
        limit: number of mixtures of each list, from the first on; None for all.

    Returns:
        Rows by condition.

    Raises:
        InputError: A list is missing, or lacks the rooms or the noise that a condition keeps.
    """
    bases: dict[str, list[MixtureRow]] = {}
    for name in {condition.base for condition in settings.conditions}:
        bases[name] = read_list(folder / f"{name}.csv")[:limit]
    voices = []
    if settings.babble and any(c.noise == "babble" for c in settings.conditions):
        voices = read_list(folder / f"{settings.babble}.csv")
    return {
        condition.name: _derive(condition, settings, bases[condition.base], voices)
        for condition in settings.conditions
    }


def _derive(
    condition: Condition,
    settings: ConditionLists,
    base: Sequence[MixtureRow],
    voices: Sequence[MixtureRow],
) -> list[MixtureRow]:
    rows = [replace(row, list=condition.name) for row in base]
    where = f"condition {condition.name}"
    if condition.room:
        rows = [_with_rt60(row, condition.rt60, where) for row in rows]
        if condition.microphones > 1:
            rows = [
                replace(row, room=draw_array(row.room, condition.microphones, settings.seed, k))
                for k, row in enumerate(rows)
                if row.room is not None
            ]
    else:
        rows = [replace(row, room=None) for row in rows]
    if condition.noise == "drawn":
        rows = [_with_snr(row, condition.snr_db, where) for row in rows]
    else:
        rows = [replace(row, noise=None) for row in rows]
    if condition.noise is not None and condition.snr_db is not None:
        ratio = (condition.snr_db, condition.snr_db)
        if condition.noise == "pink":
            rows = draw_pink(rows, settings.seed, ratio)
        elif condition.noise == "babble":
            rows = draw_babble(rows, voices, settings.seed, ratio, settings.voices)
    if condition.quieter_db is not None:
        rows = [_with_levels(row, condition.quieter_db, where) for row in rows]
    channel: Channel = parse_channel(condition.channel)
    return [replace(row, channel=channel) for row in rows] if condition.channel else rows


def _with_rt60(row: MixtureRow, rt60: float | None, where: str) -> MixtureRow:
    if row.room is None:
        raise InputError(f"{where}: {row.id} has no room; draw them with `dpcl mix add --rooms`")
    if rt60 is None:
        return row
    if rt60 <= shortest_rt60(row.room.size):
        raise InputError(
            f"{where}: the room of {row.id} cannot have an RT60 of {rt60:g} s; give more than"
            f" {shortest_rt60(row.room.size):.2f} s"
        )
    return replace(row, room=replace(row.room, rt60=rt60))


def _with_snr(row: MixtureRow, snr_db: float | None, where: str) -> MixtureRow:
    if row.noise is None:
        raise InputError(f"{where}: {row.id} has no noise; draw it with `dpcl mix add --noise`")
    return row if snr_db is None else replace(row, noise=replace(row.noise, snr_db=snr_db))


def _with_levels(row: MixtureRow, quieter_db: float, where: str) -> MixtureRow:
    if len(row.sources) != 2:
        raise InputError(f"{where}: {row.id} does not have two talkers; omit quieter_db")
    first, second = row.sources
    half = quieter_db / 2.0
    return replace(row, sources=(replace(first, gain_db=half), replace(second, gain_db=-half)))
