"""dpcl from Python: files, names of arguments, progress bars, public names."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress as RichBar

import dpcl
from dpcl.io import Progress, as_report

MakeRecording = Callable[..., Path]


def test_a_file_is_separated(tiny_model: Path, make_recording: MakeRecording) -> None:
    path = make_recording("a.wav", seconds=1.0)
    moved: list[tuple[float, float]] = []
    done = dpcl.separate_file(
        str(path), sources=3, model=str(tiny_model), progress=lambda *moves: moved.append(moves)
    )
    assert [str(output) for output in done.outputs] == [f"separated/a_s{k}.wav" for k in (1, 2, 3)]
    assert moved[-1] == (1.0, 1.0)
    with pytest.raises(dpcl.InputError, match="exists"):
        dpcl.separate_file(path, "separated", 3, str(tiny_model))
    assert dpcl.separate_file(path, "separated", 3, str(tiny_model), force=True).seconds == 1.0


def test_samples_report_seconds_of_audio(tiny_model: Path) -> None:
    moved: list[tuple[float, float]] = []
    found = dpcl.separate(
        torch.randn(2, 4000), 8000, 2, str(tiny_model), lambda *moves: moved.append(moves)
    )
    assert moved[-1] == (0.5, 0.5)
    assert found.sample_rate == 8000


def test_progress_moves_bars_of_tqdm_and_rich() -> None:
    tqdm = pytest.importorskip("tqdm")
    with tqdm.tqdm(disable=False, file=io.StringIO()) as bar:
        report = as_report(bar)
        report(Progress(2, 5))
        report(Progress(5, 5))
        assert (bar.n, bar.total) == (5, 5)
    rich = RichBar(disable=True)
    as_report(rich)(Progress(2, 5))
    assert (rich.tasks[0].completed, rich.tasks[0].total) == (2, 5)
    with pytest.raises(dpcl.InputError, match="progress: 7 is no progress bar"):
        as_report(7)


@pytest.mark.parametrize(
    "call",
    [
        lambda tiny, **given: dpcl.load_separator(str(tiny))(torch.zeros(800), **given),
        lambda tiny, **given: dpcl.StreamSeparator("causal", **given),
    ],
)
def test_num_sources_is_an_alias_that_warns(call: Callable[..., Any], tiny_model: Path) -> None:
    call(tiny_model, sources=3)
    with pytest.warns(DeprecationWarning, match="num_sources is deprecated; use sources"):
        call(tiny_model, num_sources=3)
    with pytest.raises(dpcl.InputError, match="old name of sources"):
        call(tiny_model, num_sources=3, sources=3)


def test_dir_shows_the_public_names_only() -> None:
    names = dir(dpcl)
    assert set(dpcl.__all__) | {"clustering", "objectives", "__version__"} == set(names)
    for name in names:
        assert getattr(dpcl, name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dpcl.separate_file(None), "path: NoneType is no path; give a str or Path"),
        (lambda: dpcl.separate_file("a\0b.wav"), "path: 'a\\x00b.wav' holds a NUL byte"),
        (lambda: dpcl.separate_file("a.wav", 3), "out: int is no path"),
        (lambda: dpcl.load_separator(None), "model: NoneType is no path"),
        (lambda: dpcl.load_separator(["default"]), "model: list is no path"),
        (lambda: dpcl.load_separator("x" * 5000), "… is too long for the name of a file"),
        (lambda: dpcl.StreamSeparator(None), "model: NoneType is no path"),
        (lambda: dpcl.separate(torch.zeros(9, device="meta"), 8000), "meta; give a dense one"),
        (
            lambda: dpcl.separate(torch.zeros(9).to_sparse(), 8000),
            "sparse_coo, torch.float32",
        ),
        (lambda: dpcl.separate(torch.zeros(9), 8000, floor=1), "a floor of 1 dB is no attenuation"),
        (lambda: dpcl.separate(torch.zeros(9), 8000, voices="a.wav"), "voices: str is no mapping"),
        (lambda: dpcl.separate_file("a.wav", voices={1: "b.wav"}), "voices: int is no name"),
        (lambda: dpcl.separate_file("a.wav", voices={"Ann": 3}), "voices: Ann: int is no path"),
        (lambda: dpcl.separate_file("a.wav", transcribe=3), "transcribe: int is no path"),
    ],
)
def test_arguments_of_other_types_are_one_sentence(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(dpcl.InputError) as caught:
        call()
    assert message in str(caught.value)


def test_paths_are_accepted_as_bytes_and_path_objects(
    tiny_model: Path, make_recording: MakeRecording
) -> None:
    path = bytes(make_recording("a.wav"))
    done = dpcl.separate_file(path, Path("out"), 2, tiny_model)  # type: ignore[arg-type]
    assert [output.name for output in done.outputs] == ["a_s1.wav", "a_s2.wav"]
