"""Tables of an experiment, and its report in HTML, Markdown and CSV."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from dpcl.evaluation.descriptions import Experiment, System
from dpcl.evaluation.summary import Means, SourceResult, cell, means, title
from dpcl.mixtures.rows import MixtureRow

ALL = "all"  # name of the group of all results
LEVELS = (-5.0, -3.0, -1.0, 1.0, 3.0, 5.0)  # edges of the bins of relative levels, dB
GENDERS = {"f": "female", "m": "male"}  # names by gender of a corpus

Group = Callable[[SourceResult], str]  # maps the result of a source to the name of its group


@dataclass(frozen=True)
class Line:
    """Means of one system by group.

    Attributes:
        system: description of the system.
        means: means by group; None if the system has no weights yet.
    """

    system: System
    means: Mapping[str, Means] | None


@dataclass(frozen=True)
class Table:
    """Means of all systems on the same mixtures of one list.

    Attributes:
        list: name of the list.
        lines: one line per system.
        groups: names of the groups, ALL first.
        metrics: metrics with columns besides SDRi and SI-SDRi.
        notes: sentences below the table; Markdown.
    """

    list: str
    lines: Sequence[Line]
    groups: Sequence[str]
    metrics: tuple[str, ...]
    notes: Sequence[str]


def group_by(by: str, rows: Sequence[MixtureRow], genders: Mapping[str, str]) -> Group:
    """Return the function that names the group of a source's result.

    Args:
        by: "gender" groups by the genders of all talkers of the mixture; "level" groups by the
            level of the source relative to the mean of the others, dB; "kind" by the kind of the
            mixture in a list of kinds.
        rows: rows of the list.
        genders: gender, f or m, by path of the recording. The list's own column is used where the
            gender of a talker is unknown.
    """
    by_id = {row.id: row for row in rows}

    def gender_group(result: SourceResult) -> str:
        """Return the genders of a mixture, such as female + male."""
        talkers = [genders.get(source.paths[0], "") for source in by_id[result.id].sources]
        if not set(talkers) <= set(GENDERS):
            return result.genders
        return " + ".join(GENDERS[talker] for talker in sorted(talkers))

    def level_group(result: SourceResult) -> str:
        """Return the bin of a relative level, such as +1 to +3 dB."""
        gains = [source.gain_db for source in by_id[result.id].sources]
        own = gains.pop(result.source - 1)
        difference = own - sum(gains) / len(gains) if gains else 0.0
        low, high = min(
            pairwise(LEVELS),
            key=lambda edges: abs(difference - sum(edges) / 2),
        )
        return f"{low:+.0f} to {high:+.0f} dB".replace("-", "−")

    groups: dict[str, Group] = {"gender": gender_group, "level": level_group}
    return groups.get(by, lambda result: result.kind)


def make_table(
    list_name: str,
    lines: Sequence[tuple[System, Sequence[SourceResult] | None]],
    group: Group,
    metrics: tuple[str, ...] = (),
    notes: Sequence[str] = (),
) -> Table:
    """Average the results of every system by group.

    Args:
        list_name: name of the list.
        lines: every system with its results; None for a system without weights.
        group: function that names the group of a result.
        metrics: metrics besides SDRi and SI-SDRi.
        notes: sentences below the table; Markdown.
    """
    columns = ("sdri", "si_sdri", *(f"{metric}i" for metric in metrics))
    groups: set[str] = set()
    averaged = []
    for system, results in lines:
        if results is None:
            averaged.append(Line(system, None))
            continue
        parts: dict[str, list[SourceResult]] = {ALL: list(results)}
        for result in results:
            parts.setdefault(group(result), []).append(result)
        groups |= parts.keys()
        averaged.append(Line(system, {name: means(part, columns) for name, part in parts.items()}))
    ordered = sorted(groups - {ALL}, key=_order)
    return Table(list_name, averaged, [ALL, *ordered], metrics, notes)


def _order(group: str) -> tuple[float, str]:
    """Return the sort key of a group: levels by number, genders by letter."""
    number = group.split(" ")[0].replace("−", "-")
    try:
        return float(number), group
    except ValueError:
        return 0.0, group


def grid(table: Table) -> list[list[str]]:
    """Return the cells of a table by line, the header first."""
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
    """Return the metrics that are averaged over all groups only."""
    return ["si_sdri", *(f"{metric}i" for metric in table.metrics)]


def _published(system: System, list_name: str) -> str:
    """Return the published scores of a system on a list, with the paper; empty if none."""
    figure = system.published.get(list_name)
    if figure is None:
        return ""
    parts = [("SDRi", figure.sdri), ("SI-SDRi", figure.si_sdri)]
    numbers = ", ".join(f"{value:.1f} {name}" for name, value in parts if value is not None)
    return f"{numbers} ({figure.paper})"


def table_markdown(table: Table) -> str:
    """Return a table and its notes in Markdown, ending in a newline."""
    head, *lines = grid(table)
    rule = "|---|" + "--:|" * (len(head) - 2) + "---|"
    text = [
        "| " + " | ".join(value.replace("|", r"\|") for value in line) + " |"
        for line in (head, *lines)
    ]
    notes = [f"\n{note}" for note in table.notes]
    return "\n".join([text[0], rule, *text[1:], *notes]) + "\n"


def table_html(table: Table) -> Markup:
    """Return a table and its notes in HTML."""
    return Markup(_environment().get_template("table.html").render(table=table, grid=grid(table)))


def tables_csv(tables: Sequence[Table]) -> str:
    """Return all means in CSV, one per line, with their intervals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["list", "system", "group", "mixtures", "sources", "metric", "mean", "low", "high"]
    )
    for table in tables:
        for line in table.lines:
            name = line.system.name
            for group, averages in (line.means or {}).items():
                for column in ("sdri", *_columns(table)):
                    counts = (averages.mixtures, averages.sources)
                    mean = averages.value(column)
                    interval = averages.intervals.get(column, ("", ""))
                    writer.writerow([table.list, name, group, *counts, column, mean, *interval])
            for column in ("sdri", "si_sdri"):
                figure = line.system.published.get(table.list)
                if figure and (value := getattr(figure, column)) is not None:
                    source = f"published, WSJ0: {figure.paper}"
                    writer.writerow([table.list, name, source, "", "", column, value, "", ""])
    return text.getvalue()


# Explanation of the tables, in every report.
READING = (
    "Means over all sources of all mixtures in dB, with 95 % bootstrap intervals over mixtures in"
    " brackets. The column heads give the number of mixtures. SDRi: BSS Eval, 512 taps; SI-SDRi:"
    " scale-invariant; both are improvements over the mixture. Published figures are on"
    " other data, WSJ0 mixtures: they serve as orientation, not as a comparison."
)


@dataclass(frozen=True)
class Example:
    """Mixture of a list with the estimates of every system.

    Attributes:
        list: name of the list.
        title: heading in the report.
        truth: folder with sounds and pictures of the mixture and its references.
        systems: title of each system, and folder of its sounds and pictures.
    """

    list: str
    title: str
    truth: Path
    systems: Sequence[tuple[str, Path]]


def report_files(
    experiment: Experiment, tables: Sequence[Table], examples: Sequence[Example], command: str
) -> dict[str, str]:
    """Return the texts of report.md, report.csv and report.html by file name.

    Args:
        experiment: description of the experiment.
        tables: one table per list.
        examples: mixtures with sounds and pictures, for report.html.
        command: command that reproduces the report.
    """
    return {
        "report.md": _markdown(experiment, tables, command),
        "report.csv": tables_csv(tables),
        "report.html": _page(experiment, tables, examples, command),
    }


def _markdown(experiment: Experiment, tables: Sequence[Table], command: str) -> str:
    """Return the text of report.md."""
    parts = [f"# {experiment.title}", experiment.about.strip(), READING, f"    {command}"]
    for table in tables:
        parts += [f"## {table.list}", table_markdown(table).rstrip()]
    return "\n\n".join(parts) + "\n"


def _page(
    experiment: Experiment, tables: Sequence[Table], examples: Sequence[Example], command: str
) -> str:
    """Return the text of report.html, with all sounds and pictures inside."""
    return (
        _environment()
        .get_template("report.html")
        .render(
            experiment=experiment,
            tables=tables,
            examples=examples,
            command=command,
            reading=READING,
            table_html=table_html,
        )
    )


@cache
def _environment() -> Environment:
    """Return the templates of this package, which escape all values."""
    environment = Environment(
        loader=PackageLoader("dpcl.evaluation"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = _code
    environment.filters["data"] = _data
    environment.filters["sounds"] = lambda folder: sorted(folder.glob("*.flac"))
    environment.filters["pictures"] = lambda folder: [
        path for name in ("strip", "embeddings") if (path := folder / f"{name}.png").is_file()
    ]
    return environment


def _code(markdown: str) -> Markup:
    """Convert a sentence with `code` from Markdown to HTML."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(markdown))))


def _data(path: Path) -> str:
    """Return a .flac or .png file as a data URL."""
    kind = {".flac": "audio/flac", ".png": "image/png"}[path.suffix]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
