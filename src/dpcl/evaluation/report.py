"""Tables of an experiment, and its report as HTML, Markdown and CSV."""

from __future__ import annotations

import base64
import csv
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from dpcl.evaluation.descriptions import Experiment, System
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


READING = (
    "Means over all sources of all mixtures in dB, with 95 % bootstrap intervals over mixtures in"
    " brackets; in the heads, the number of mixtures. SDRi: BSS Eval, 512 taps; SI-SDRi: scale-"
    "invariant; both over the mixture itself. Published figures are on WSJ0 mixtures, other data:"
    " they show the order of things, not a race."
)
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem;
  color: #1c1c1c; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: right;
  vertical-align: top; }
th:first-child, th:last-child:not(:first-child), td:last-child { text-align: left; }
tr:first-child th { border-bottom: 2px solid #888; vertical-align: bottom; }
tr > th:first-child { font-weight: 600; min-width: 11rem; }
small, .note { color: #666; } small { white-space: nowrap; }
.players { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .2rem 0 .4rem; }
.players label { display: inline-flex; align-items: center; gap: .4rem; }
audio { height: 2rem; width: 15rem; }
img { max-width: 100%; height: auto; display: block; }
"""


@dataclass(frozen=True)
class Example:
    """A mixture of a list as every system separates it: folders of sounds and pictures."""

    list: str
    title: str
    truth: Path
    systems: Sequence[tuple[str, Path]]  # title and folder


def report_files(
    experiment: Experiment, tables: Sequence[Table], examples: Sequence[Example], command: str
) -> dict[str, str]:
    """report.md, report.csv and report.html by name; `command` is what makes them again."""
    return {
        "report.md": _markdown(experiment, tables, command),
        "report.csv": tables_csv(tables),
        "report.html": _page(experiment, tables, examples, command),
    }


def _markdown(experiment: Experiment, tables: Sequence[Table], command: str) -> str:
    parts = [f"# {experiment.title}", experiment.about.strip(), READING, f"    {command}"]
    for table in tables:
        parts += [f"## {table.list}", table_markdown(table).rstrip()]
    return "\n\n".join(parts) + "\n"


def _page(
    experiment: Experiment, tables: Sequence[Table], examples: Sequence[Example], command: str
) -> str:
    text = html.escape
    body = [
        f"<h1>{text(experiment.title)}</h1>",
        f"<p>{text(experiment.about.strip())}</p>",
        f"<p class=note>{text(READING)}</p><pre>{text(command)}</pre>",
    ]
    for table in tables:
        body += [f"<h2>{text(table.list)}</h2>", table_html(table)]
        body += [_example(example) for example in examples if example.list == table.list]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(experiment.title)}</title><style>{STYLE}</style></head>\n<body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def _example(example: Example) -> str:
    parts = [f"<h2>{html.escape(example.title)}</h2>"]
    parts.append(_folder("Mixture and references", example.truth, "mixture", "reference"))
    parts += [_folder(title, folder, "", "estimate") for title, folder in example.systems]
    return "\n".join(parts)


def _folder(title: str, folder: Path, mixture: str, kind: str) -> str:
    """Players and pictures of a folder of dpcl.evaluation.examples."""
    sounds = sorted(folder.glob("*.flac"))
    players = "".join(
        f"<label>{mixture if path.stem == 'mixture' else f'{kind} {path.stem[1:]}'}"
        f'<audio controls preload="metadata" src="{_data(path, "audio/flac")}"></audio></label>'
        for path in sounds
    )
    pictures = "".join(
        f'<img loading="lazy" alt="{name}" src="{_data(path, "image/png")}">'
        for name in ("strip", "embeddings")
        if (path := folder / f"{name}.png").is_file()
    )
    return f"<h3>{html.escape(title)}</h3><div class=players>{players}</div>{pictures}"


def _data(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
