"""A table of an experiment: systems by groups of mixtures, as Markdown, HTML and CSV."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dpcl.evaluation.experiment import System
from dpcl.evaluation.summary import Means, SourceResult, cell, means, title
from dpcl.mixtures.lists import MixtureRow

ALL = "all"
LEVELS = (-5.0, -3.0, -1.0, 1.0, 3.0, 5.0)  # dB, the edges of the bins
GENDERS = {"f": "female", "m": "male"}

Group = Callable[[SourceResult], str]


@dataclass(frozen=True)
class Line:
    """A system and its means by group; none where there are no weights yet."""

    system: System
    means: Mapping[str, Means] | None


@dataclass(frozen=True)
class Table:
    """All systems on one list, each on the same mixtures."""

    list: str
    lines: Sequence[Line]
    groups: Sequence[str]  # ALL first
    metrics: tuple[str, ...]  # columns beyond SDRi and SI-SDRi
    notes: Sequence[str]  # sentences; Markdown


def group_by(by: str, rows: Sequence[MixtureRow], genders: Mapping[str, str]) -> Group:
    """What puts a source's result into a group.

    by: "gender", of all talkers of the mixture, from `genders` (by recording) or, where those are
    not known, as the list has them; or "level", of the source over the mean of the others, dB.
    """
    by_id = {row.id: row for row in rows}

    def pair(result: SourceResult) -> str:
        talkers = [genders.get(source.paths[0], "") for source in by_id[result.id].sources]
        if not set(talkers) <= set(GENDERS):
            return result.genders
        return " + ".join(GENDERS[talker] for talker in sorted(talkers))

    def level(result: SourceResult) -> str:
        gains = [source.gain_db for source in by_id[result.id].sources]
        own = gains.pop(result.source - 1)
        difference = own - sum(gains) / len(gains) if gains else 0.0
        low, high = min(
            pairwise(LEVELS),
            key=lambda edges: abs(difference - sum(edges) / 2),
        )
        return f"{low:+.0f} to {high:+.0f} dB".replace("-", "−")

    return pair if by == "gender" else level


def make_table(
    list_name: str,
    lines: Sequence[tuple[System, Sequence[SourceResult] | None]],
    group: Group,
    metrics: tuple[str, ...] = (),
    notes: Sequence[str] = (),
) -> Table:
    """Average the results of every system by group; None for a system without weights."""
    columns = ("sdri", "si_sdri", *(f"{metric}i" for metric in metrics))
    groups: set[str] = set()
    made = []
    for system, results in lines:
        if results is None:
            made.append(Line(system, None))
            continue
        parts: dict[str, list[SourceResult]] = {ALL: list(results)}
        for result in results:
            parts.setdefault(group(result), []).append(result)
        groups |= parts.keys()
        made.append(Line(system, {name: means(part, columns) for name, part in parts.items()}))
    ordered = sorted(groups - {ALL}, key=_order)
    return Table(list_name, made, [ALL, *ordered], metrics, notes)


def _order(group: str) -> tuple[float, str]:
    """Levels by number, genders by letter."""
    number = group.split(" ")[0].replace("−", "-")
    try:
        return float(number), group
    except ValueError:
        return 0.0, group


def grid(table: Table) -> list[list[str]]:
    """The cells of a table, its header first."""
    counted = next((line.means for line in table.lines if line.means), None)
    head = ["system"]
    for group in table.groups:
        number = counted[group].mixtures if counted and group in counted else 0
        head.append(f"SDRi, {group} ({number})")
    head += [f"{title(column)}, {ALL}" for column in _columns(table)]
    lines = [[*head, "published, WSJ0"]]
    for line in table.lines:
        name = line.system.title or line.system.name
        if line.means is None:
            cells = ["not trained"] + ["–"] * (len(head) - 2)
        else:
            cells = [
                cell(line.means[group], "sdri") if group in line.means else "–"
                for group in table.groups
            ]
            cells += [cell(line.means[ALL], column) for column in _columns(table)]
        lines.append([name, *cells, _published(line.system, table.list)])
    return lines


def _columns(table: Table) -> list[str]:
    return ["si_sdri", *(f"{metric}i" for metric in table.metrics)]


def _published(system: System, list_name: str) -> str:
    figure = system.published.get(list_name)
    if figure is None:
        return ""
    parts = [("SDRi", figure.sdri), ("SI-SDRi", figure.si_sdri)]
    numbers = ", ".join(f"{value:.1f} {name}" for name, value in parts if value is not None)
    return f"{numbers} ({figure.paper})"


def table_markdown(table: Table) -> str:
    """The table with its notes, ending in a newline."""
    head, *lines = grid(table)
    rule = "|---|" + "--:|" * (len(head) - 2) + "---|"
    text = [
        "| " + " | ".join(value.replace("|", r"\|") for value in line) + " |"
        for line in (head, *lines)
    ]
    notes = [f"\n{note}" for note in table.notes]
    return "\n".join([text[0], rule, *text[1:], *notes]) + "\n"


def table_html(table: Table) -> str:
    """The table with its notes."""
    head, *lines = grid(table)
    text = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    rows = [f"<tr>{text}</tr>"]
    for first, *cells in lines:
        text = "".join(f"<td>{_cell_html(value)}</td>" for value in cells)
        rows.append(f"<tr><th>{html.escape(first)}</th>{text}</tr>")
    notes = "".join(f"<p class=note>{_prose(note)}</p>" for note in table.notes)
    return f"<div class=wide><table>{''.join(rows)}</table></div>{notes}"


def _prose(markdown: str) -> str:
    """A sentence with `code` in it."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(markdown))


def _cell_html(value: str) -> str:
    """The interval under its mean, smaller."""
    mean, bracket, interval = html.escape(value).partition(" [")
    return f"{mean}<br><small>[{interval}</small>" if bracket else mean


def tables_csv(tables: Sequence[Table]) -> str:
    """All means, one a line, with their intervals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["list", "system", "group", "mixtures", "sources", "metric", "mean", "low", "high"]
    )
    for table in tables:
        for line in table.lines:
            name = line.system.name
            for group, of in (line.means or {}).items():
                for column in ("sdri", *_columns(table)):
                    counts = (of.mixtures, of.sources)
                    mean, interval = getattr(of, column), of.intervals.get(column, ("", ""))
                    writer.writerow([table.list, name, group, *counts, column, mean, *interval])
            for column in ("sdri", "si_sdri"):
                figure = line.system.published.get(table.list)
                if figure and (value := getattr(figure, column)) is not None:
                    source = f"published, WSJ0: {figure.paper}"
                    writer.writerow([table.list, name, source, "", "", column, value, "", ""])
    return text.getvalue()
