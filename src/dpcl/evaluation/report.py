"""The report of an experiment: Markdown, CSV, and one page that needs nothing beside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpcl.evaluation.experiment import Experiment
from dpcl.evaluation.table import Table, table_html, table_markdown, tables_csv

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
