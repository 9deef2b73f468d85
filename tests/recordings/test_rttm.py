"""Timelines as RTTM, labels and JSON: what is written is read, and wrong files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpcl.errors import InputError
from dpcl.recordings.timeline import (
    check_timeline,
    json_text,
    label_text,
    read_timelines,
    rttm_text,
)
from dpcl.separators.base import Segment, Timeline

TIMELINE = Timeline(
    (Segment(0.0, 1.5, "s1"), Segment(1.0, 2.25, "s2"), Segment(2.0, 3.0, "s1")), 4.0, ("s1", "s2")
)


def write(folder: Path, text: str | bytes, name: str = "a.rttm") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("suffix", [".rttm", ".txt", ".json"])
def test_what_is_written_is_read(suffix: str, tmp_path: Path) -> None:
    text = {
        ".rttm": rttm_text({"a": TIMELINE}),
        ".txt": label_text(TIMELINE),
        ".json": json_text("a", TIMELINE),
    }[suffix]
    (read,) = read_timelines(write(tmp_path, text, f"a{suffix}")).items()
    assert read[0] == "a"
    assert read[1].segments == TIMELINE.segments
    assert (read[1].seconds, read[1].names) == (
        (4.0, ("s1", "s2")) if suffix == ".json" else (None, ())
    )


def test_labels_mark_overlapped_speech() -> None:
    assert label_text(TIMELINE).splitlines()[3:] == [
        "1.000000\t1.500000\toverlap",
        "2.000000\t2.250000\toverlap",
    ]


def test_names_with_spaces_remain_one_field(tmp_path: Path) -> None:
    text = rttm_text({"my file": Timeline((Segment(0, 1, "Ann B"),))})
    (found,) = read_timelines(write(tmp_path, text)).items()
    assert found[0] == "my_file"
    assert found[1].talkers == ("Ann_B",)


def test_other_lines_and_a_byte_order_mark_are_accepted(tmp_path: Path) -> None:
    text = (
        "\ufeff;; comment\nSPKR-INFO a 1 <NA> <NA> <NA> unknown x <NA>\n\n"
        "SPEAKER a 1 0 1 <NA> <NA> x\r\nSPEAKER b 1 0.5 1 <NA> <NA> Zoë <NA> <NA>\n"
    )
    found = read_timelines(write(tmp_path, text))
    assert {name: x.segments for name, x in found.items()} == {
        "a": (Segment(0, 1, "x"),),
        "b": (Segment(0.5, 1.5, "Zoë"),),
    }


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("SPEAKER a 1 0 1 <NA> <NA>", "a.rttm, line 1: has 7 fields"),
        ("SPEAKER a 1 zero 1 <NA> <NA> x", "line 1: 'zero' is no time"),
        ("SPEAKER a 1 nan 1 <NA> <NA> x", "line 1: 'nan' is no time"),
        ("SPEAKER a 1 0 0 <NA> <NA> x", "from 0 to 0 s is empty"),
        ("SPEAKER a 1 -1 2 <NA> <NA> x", "begins before the recording"),
        (
            "SPEAKER a 1 0 2 <NA> <NA> x\nSPEAKER a 1 1 2 <NA> <NA> x",
            "a.rttm, a: x overlaps with themselves at 1.00 s; join",
        ),
        (
            "SPEAKER a 1 0 9 <NA> <NA> x\nSPEAKER a 1 1 1 <NA> <NA> x\nSPEAKER a 1 5 2 <NA> <NA> x",
            "x overlaps with themselves at 1.00 s",
        ),
        ("SPEAKER a 1 0 1 <NA> <NA> Zo\u00eb".encode("latin-1"), "is not UTF-8 text; save it"),
        ("SPEAKER a 1 0 1 <NA> <NA> x".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
    ],
)
def test_a_wrong_rttm_is_one_sentence(line: str | bytes, problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_timelines(write(tmp_path, line))
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "name", "problem"),
    [
        ("0.5\t1.5", "a.txt", "line 1: has 2 fields; give start, end and label"),
        ("0\t1\t ", "a.txt", "names no talker"),
        ("[]", "a.json", "is no timeline in JSON"),
        ('{"segments": [{"start": 0}]}', "a.json", "is no timeline in JSON"),
        ('{"segments": [{"start": 2, "end": 1, "talker": "x"}]}', "a.json", "is empty"),
    ],
)
def test_wrong_labels_and_json(text: str, name: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=problem):
        read_timelines(write(tmp_path, text, name))


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b.rttm: cannot be read"):
        read_timelines(tmp_path / "b.rttm")


def test_segments_beyond_the_end_are_refused() -> None:
    check_timeline(TIMELINE, "a.rttm, a", 2.95)  # times are rounded
    with pytest.raises(InputError, match=r"a: s1 speaks until 3.00 s, .* ends at 2.50 s"):
        check_timeline(TIMELINE, "a.rttm, a", 2.5)
