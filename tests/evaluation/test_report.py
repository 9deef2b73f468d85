"""Tables: who stands in which column, what is left empty, what papers say."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

from dpcl.evaluation.descriptions import Published, System
from dpcl.evaluation.report import group_by, make_table, table_html, table_markdown, tables_csv
from dpcl.evaluation.summary import SourceResult
from dpcl.mixtures.rows import MixtureRow, SourceRow

GENDERS = {"ann": "f", "bob": "m", "cy": "m"}


def _row(number: int, first: str, second: str, level: float = 0.0) -> MixtureRow:
    sources = (
        SourceRow(first, (first,), 0.0, level / 2),
        SourceRow(second, (second,), 0.0, -level / 2),
    )
    return MixtureRow(f"m{number}", "open2", 0, 1.0, "within", "different", sources)


def _results(row: MixtureRow, *sdri: float) -> list[SourceResult]:
    return [
        SourceResult(row.id, row.corpora, row.genders, k, "x", v, v, v, v, False)
        for k, v in enumerate(sdri, 1)
    ]


ROWS = [_row(1, "ann", "bob", 4.9), _row(2, "bob", "cy", -2.0), _row(3, "cy", "ann", 0.1)]
RESULTS = [s for row, v in zip(ROWS, (1.0, 2.0, 5.0), strict=True) for s in _results(row, v, v + 1)]


def test_groups_are_the_genders_of_all_talkers_in_either_order() -> None:
    group = group_by("gender", ROWS, GENDERS)
    assert [group(result) for result in RESULTS[::2]] == [
        "female + male",
        "male + male",
        "female + male",
    ]
    unknown = group_by("gender", ROWS, {"ann": "f"})
    assert unknown(RESULTS[0]) == "different"  # what the list says


def test_groups_of_levels_are_of_each_source_beside_the_other() -> None:
    group = group_by("level", ROWS, {})
    assert [group(result) for result in RESULTS] == [
        "+3 to +5 dB", "−5 to −3 dB", "−3 to −1 dB", "+1 to +3 dB", "−1 to +1 dB", "−1 to +1 dB",
    ]  # fmt: skip


SYSTEMS = [
    (System(name="a", title="A | <b>"), RESULTS),
    (System(name="b", published={"open2": Published(paper="X 2016", sdri=6.0)}), None),
]


def test_markdown_has_a_line_a_system_with_what_is_missing_and_published() -> None:
    table = make_table("open2", SYSTEMS, group_by("gender", ROWS, GENDERS), notes=["So it is."])
    lines = table_markdown(table).splitlines()
    assert lines[0] == (
        "| system | SDRi, all (3) | SDRi, female + male (2) | SDRi, male + male (1)"
        " | SI-SDRi, all | published, WSJ0 |"
    )
    # 1, 2, 2, 3, 5 and 6 by hand; the intervals lie around them.
    assert lines[2].startswith(r"| A \| <b> | 3.17 [")
    assert "| 2.50 | 3.17 [" in lines[2]  # of one mixture there is no interval
    assert lines[3] == "| b | not trained | – | – | – | 6.0 SDRi (X 2016) |"
    assert lines[-1] == "So it is."


def test_kinds_of_mixtures_are_groups() -> None:
    kinds = [replace(result, kind="speech+other") for result in RESULTS]
    assert {group_by("kind", ROWS, {})(result) for result in kinds} == {"speech+other"}


def test_levels_stand_in_their_order() -> None:
    table = make_table("open2", SYSTEMS, group_by("level", ROWS, {}))
    assert table.groups == [
        "all", "−5 to −3 dB", "−3 to −1 dB", "−1 to +1 dB", "+1 to +3 dB", "+3 to +5 dB",
    ]  # fmt: skip


def test_html_shows_names_as_they_are_and_commands_as_code() -> None:
    group = group_by("gender", ROWS, GENDERS)
    page = table_html(make_table("open2", SYSTEMS, group, notes=["Say `dpcl <x>`."]))
    assert "A | &lt;b&gt;" in page
    assert "<b>" not in page
    assert "<code>dpcl &lt;x&gt;</code>" in page


def test_csv_has_every_mean_and_every_published_figure() -> None:
    table = make_table("open2", SYSTEMS, group_by("gender", ROWS, GENDERS))
    lines = list(csv.DictReader(io.StringIO(tables_csv([table]))))
    found = {(line["system"], line["group"], line["metric"]): line for line in lines}
    assert float(found["a", "male + male", "sdri"]["mean"]) == 2.5
    assert float(found["a", "all", "si_sdri"]["mean"]) == 3.1667
    assert found["a", "male + male", "sdri"]["low"] == ""
    published = found["b", "published, WSJ0: X 2016", "sdri"]
    assert (published["mean"], published["mixtures"]) == ("6.0", "")
    assert len(lines) == 2 * 3 + 1
