"""The rows of a mixture list, and the fields that they are read from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dpcl.errors import InputError
from dpcl.mixtures.parts import parse_part

COLUMNS = ("id", "list", "seed", "seconds", "corpora", "genders")
SOURCE_COLUMNS = ("speaker", "paths", "start", "gain_db")  # each with _1, _2, … behind it
OPTIONAL_COLUMNS = ("mixture",)  # only in lists that need them
CONDITIONS = {"corpora": ("within", "across"), "genders": ("same", "different", "unknown")}


@dataclass(frozen=True)
class SourceRow:
    """One talker of a mixture: files joined in this order, cut from `start`, at a gain."""

    speaker: str
    paths: tuple[str, ...]  # or parts of them; relative to the corpus root, with forward slashes
    start: float  # s, in the joined files
    gain_db: float  # over an active level of 0 dB


@dataclass(frozen=True)
class MixtureRow:
    """One mixture of a list; it lasts `seconds`, and so does each of its sources."""

    id: str
    list: str
    seed: int
    seconds: float
    corpora: str  # "within" one or "across" several
    genders: str  # "same", "different" or "unknown"
    sources: tuple[SourceRow, ...]
    # Where the mixture was rendered before, its file: it and its sources are taken as they are.
    mixture: str = ""


def gender_condition(genders: Iterable[str]) -> str:
    """What a row says of its talkers' genders, "f", "m" or ""."""
    found = set(genders)
    return "unknown" if "" in found else "same" if len(found) == 1 else "different"


@dataclass(frozen=True)
class Fields:
    """The fields of one row, each read with a sentence that says where it went wrong."""

    where: str
    values: dict[str, str]

    def wrong(self, column: str, wanted: str) -> InputError:
        return InputError(
            f"{self.where}, column {column}: {self.values[column]!r} is not {wanted}."
        )

    def text(self, column: str) -> str:
        if not self.values[column]:
            raise self.wrong(column, "a name")
        return self.values[column]

    def has(self, column: str) -> bool:
        return bool(self.values.get(column))

    def number(self, column: str, low: float = -math.inf) -> float:
        try:
            value = float(self.values[column])
        except ValueError:
            value = math.nan
        if not low <= value < math.inf or value == -math.inf:
            raise self.wrong(column, f"a number{'' if low == -math.inf else f' from {low:g} on'}")
        return value

    def choice(self, column: str) -> str:
        if self.values[column] not in CONDITIONS[column]:
            raise self.wrong(column, " or ".join(CONDITIONS[column]))
        return self.values[column]

    def path(self, column: str) -> str:
        (path, *more) = self.paths(column)
        if more:
            raise self.wrong(column, "one path")
        return path

    def paths(self, column: str) -> tuple[str, ...]:
        paths = tuple(self.values[column].split("|"))
        for path in map(PurePosixPath, paths):
            if not path.name or path.is_absolute() or ".." in path.parts:
                raise self.wrong(column, "paths relative to the corpus, joined by |")
        try:
            for name in paths:
                parse_part(name)
        except ValueError as error:
            raise self.wrong(column, "parts of recordings that end after they begin") from error
        return paths


def parse_row(fields: Fields, num_sources: int) -> MixtureRow:
    identity = fields.text("id")
    if identity != Path(identity).name or identity == "..":
        raise fields.wrong("id", "a file name")  # it becomes one when the list is rendered
    seed = fields.number("seed", 0)
    if seed != int(seed):
        raise fields.wrong("seed", "a whole number")
    seconds = fields.number("seconds")
    if seconds <= 0:
        raise fields.wrong("seconds", "a positive number")
    sources = tuple(
        SourceRow(
            speaker=fields.text(f"speaker_{k}"),
            paths=fields.paths(f"paths_{k}"),
            start=fields.number(f"start_{k}", 0),
            gain_db=fields.number(f"gain_db_{k}"),
        )
        for k in range(1, num_sources + 1)
    )
    return MixtureRow(
        id=identity,
        list=fields.text("list"),
        seed=int(seed),
        seconds=seconds,
        corpora=fields.choice("corpora"),
        genders=fields.choice("genders"),
        sources=sources,
        mixture=fields.path("mixture") if fields.has("mixture") else "",
    )


def optional_fields(row: MixtureRow) -> dict[str, object]:
    """What stands in the OPTIONAL_COLUMNS of a row, as far as it has them."""
    return {"mixture": row.mixture} if row.mixture else {}
