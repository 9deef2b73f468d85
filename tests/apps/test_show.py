"""`dpcl show`: pictures of any recording, what it says, and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.figure import Figure

from dpcl.evaluation.figures import STYLE
from dpcl.evaluation.picture import picture_of
from dpcl.recordings.recording import InMemory
from dpcl.separators.registry import build
from dpcl.signal.audio import read_audio

pytest.importorskip("matplotlib")


Contents = Callable[[Path], dict[str, bytes]]
Program = Callable[..., Any]
MakeRecording = Callable[..., Path]
BEGINNINGS = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "jpg": b"\xff\xd8"}


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of few pixels: they take most of the time."""
    monkeypatch.setitem(STYLE, "savefig.dpi", 30)


@pytest.mark.parametrize("suffix", BEGINNINGS)
def test_the_suffix_chooses_the_format(
    suffix: str, tiny_model: Path, dpcl: Program, make_recording: MakeRecording
) -> None:
    make_recording("a.wav")
    out = Path("new") / f"b.{suffix}"
    ran = dpcl("show", "a.wav", "--out", out, "--model", tiny_model)
    assert (ran.status, ran.out, ran.err) == (0, f"{out}\n", "")
    assert out.read_bytes().startswith(BEGINNINGS[suffix])
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("rate", "channels", "seconds", "sources"),
    [(44100, 2, 0.1, 2), (8000, 1, 1 / 8000, 1), (4000, 3, 0.1, 3)],
)
def test_any_recording(
    rate: int,
    channels: int,
    seconds: float,
    sources: int,
    tiny_model: Path,
    dpcl: Program,
    make_recording: MakeRecording,
) -> None:
    make_recording("a.wav", rate, seconds, channels)
    arguments = ("a.wav", "--out", "out", "--model", tiny_model, "--sources", sources)
    ran = dpcl("show", *arguments)
    assert (ran.status, ran.out) == (0, f"{Path('out') / 'a.png'}\n"), ran.err
    again = dpcl("show", *arguments)
    assert again.status == 2
    assert "a.png: exists; add --force" in again.err
    assert dpcl("show", *arguments, "--force").status == 0


def test_silence(tiny_model: Path, dpcl: Program, folder: Path) -> None:
    soundfile.write("a.wav", np.zeros(4000), 16000)
    assert dpcl("show", "a.wav", "--out", ".", "--model", tiny_model).status == 0
    assert Path("a.png").is_file()


def drawn_page(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved from now on."""
    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *arguments: Any, **named: Any) -> None:
        drawn.append(self)
        save(self, *arguments, **named)

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn


def test_a_recording_without_talkers(
    nobody_model: Path, dpcl: Program, make_recording: MakeRecording, folder: Path
) -> None:
    make_recording("wind.wav")
    ran = dpcl("show", "wind.wav", "--out", "wind.png", "--model", nobody_model)
    assert ran.status == 2
    assert "wind.wav: no talker was found; give --sources 1 to show the recording" in ran.err
    assert not (folder / "wind.png").exists()
    ran = dpcl("show", "wind.wav", "--out", "wind.png", "--model", nobody_model, "--sources", 1)
    assert ran.status == 0 and (folder / "wind.png").exists()


def test_the_whole_recording_is_shown_and_all_panels_have_one_frequency_axis(
    tiny_model: Path, dpcl: Program, make_recording: MakeRecording, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = drawn_page(monkeypatch)
    make_recording("a.wav", 8000, 17.0)  # several windows, and more frames than columns
    ran = dpcl("show", "a.wav", "--out", "a.png", "--model", tiny_model, "--sources", 2)
    assert (ran.status, ran.err) == (0, "")
    planes = [axes for axes in drawn[0].subfigs[0].axes if axes.get_label() != "<colorbar>"]
    assert {axes.get_ylim() for axes in planes} == {(0, 4)}
    whole = [axes for axes in planes if axes.get_xlim() == (0, 17)]
    assert len(whole) == 5
    (embedded,) = (axes for axes in planes if axes not in whole)
    left, right = embedded.get_xlim()
    assert 7.9 < right - left < 8.2  # s


def test_the_axes_have_the_times_of_the_recording(
    tiny_model: Path, dpcl: Program, make_recording: MakeRecording, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = drawn_page(monkeypatch)
    make_recording("a.wav", 8000, 3.0)
    cut = ("--start", 1.5, "--seconds", 0.75)
    assert dpcl("show", "a.wav", "--out", "a.png", "--model", tiny_model, *cut).status == 0
    (figure,) = drawn
    timed = [axes for axes in figure.axes if axes.get_ylim() == (0, 4)]
    assert len(timed) == 6
    assert all(axes.get_xlim() == (1.5, 2.25) for axes in timed)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("none.wav --out a.png", "none.wav does not exist"),
        ("text.wav --out a.png", "text.wav cannot be read"),
        ("slow.wav --out a.png", "slow.wav: a sample rate of 500 Hz"),
        ("a.wav --out a.docx", "a.docx: no picture is written as '.docx'; end its name in .png"),
        ("a.wav --out a.wav", "a.wav: no picture is written as '.wav'"),
        ("a.wav --out mine.png", "mine.png: exists; add --force"),
        ("a.wav --out mine.png/deep/b.png", "mine.png: is a file, not a folder"),
        ("a.wav --out deep.png.d/b.png --start 0.25", "a.wav lasts 0.25 s: nothing starts at 0.25"),
        ("a.wav --out a.png --start 99", "a.wav lasts 0.25 s: nothing starts at 99"),
        ("a.wav --out a.png --start -1", "nothing starts at -1"),
        ("a.wav --out a.png --start nan", "nothing starts at nan"),
        ("a.wav --out a.png --seconds 0", "cannot show 0.0 seconds"),
        ("a.wav --out a.png --seconds nan", "cannot show nan seconds"),
        ("a.wav --out a.png --device cuda", "--device cuda: torch finds no such device"),
        ("a.wav --out a.png --sources 0", "cannot separate into 0 sources"),
        ("a.wav --out a.png --sources 11", "cannot separate into 11 sources"),
        ("a.wav --out a.png --model best", "unknown model 'best'"),
        ("a.wav --out a.png --model none.safetensors", "no such weights file"),
        ("--out a.png", "Missing argument 'REC'"),
    ],
)
def test_bad_input(
    arguments: str, what: str, dpcl: Program, make_recording: MakeRecording, contents: Contents
) -> None:
    folder = make_recording("a.wav").parent
    (folder / "text.wav").write_text("hello\n" * 99)
    soundfile.write(folder / "slow.wav", np.ones(100) / 2, 500)
    (folder / "mine.png").write_bytes(b"mine")
    before = contents(folder)
    ran = dpcl("show", *arguments.split())
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("dpcl: ")
    assert ran.err.count("\n") == 1, ran.err
    assert what in ran.err
    assert contents(folder) == before


def test_without_matplotlib_one_sentence_says_what_to_install(
    dpcl: Program,
    make_recording: MakeRecording,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make_recording("a.wav").parent
    before = contents(folder)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = dpcl("show", "a.wav", "--out", "a.png")
    assert ran.status == 2
    told = 'matplotlib, which is not installed; install it with `pip install "dpcl[show]"`'
    assert told in " ".join(ran.err.split())
    assert contents(folder) == before


@pytest.mark.parametrize("reason", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_stopped_while_drawing_it_leaves_what_was_there(
    reason: BaseException,
    tiny_model: Path,
    dpcl: Program,
    make_recording: MakeRecording,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make_recording("a.wav").parent
    (folder / "a.png").write_bytes(b"mine")
    before = contents(folder)

    def stop(self: Figure, path: Path) -> None:
        path.write_bytes(b"half")
        raise reason

    monkeypatch.setattr(Figure, "savefig", stop)
    ran = dpcl("show", "a.wav", "--out", "a.png", "--model", tiny_model, "--force")
    assert ran.status == (2 if isinstance(reason, OSError) else 130)
    assert "Traceback" not in ran.err
    assert contents(folder) == before


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_on_the_networks_grid_the_bins_are_those_of_the_recording(
    rate: int, tiny_model: Path, folder: Path
) -> None:
    """A tone that sets in halfway stands at its time and frequency on both grids."""
    t = np.arange(rate) / rate
    tone = (0.5 * np.sin(2 * np.pi * 1000 * t) * (t > 0.5)).astype(np.float32)
    separator = build(str(tiny_model))
    silence = np.zeros(2 * rate, np.float32)
    recording = InMemory(np.stack([np.concatenate([silence, tone])] * 2), rate)
    made = picture_of(recording, separator, 2, start=2.0)
    assert made.embedded is not None
    assert made.embedded.vectors.shape[:2] == made.embedded.magnitude.shape
    for magnitude, grid in (
        (made.mixture, made.grid),
        (made.embedded.magnitude, made.embedded.grid),
    ):
        assert grid.start == 2.0
        assert float(magnitude.sum(0).argmax()) * grid.step == pytest.approx(1000, abs=20)
        heard = (magnitude.amax(1) > magnitude.max() / 2).nonzero()
        assert float(heard[0]) * grid.hop == pytest.approx(0.5, abs=0.01)


def test_of_a_recording_that_is_cut_off_what_could_be_read_is_shown(
    tiny_model: Path, dpcl: Program, make_recording: MakeRecording
) -> None:
    path = make_recording("a.wav", 8000, 1.0, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:-8000])
    ran = dpcl("show", "a.wav", "--out", "a.png", "--model", tiny_model)
    assert ran.status == 0
    assert ran.err == "dpcl: a.wav is cut off after 0.50 s; only this part is shown\n"


def test_without_the_spatial_stage_the_masks_are_those_of_the_model(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, dpcl: Program, make_recording: MakeRecording
) -> None:
    from dpcl.separators import spatial

    used: list[torch.Tensor] = []

    def refine(masks: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        used.append(masks)
        return masks

    monkeypatch.setattr(spatial, "refine", refine)
    make_recording("a.wav", 8000, channels=2)
    for option, times in (("--no-spatial", 0), ("--spatial", 1)):
        ran = dpcl("show", "a.wav", "--out", f"{times}.png", "-m", tiny_model, "-n", 2, option)
        assert ran.status == 0 and len(used) == times


def test_the_channels_root_mean_square_is_shown(
    tiny_model: Path, make_recording: MakeRecording
) -> None:
    """Channels that cancel in the mean are heard, and so they are seen."""
    samples, rate = read_audio(make_recording("a.wav", 8000))
    separator = build(str(tiny_model))
    one = picture_of(InMemory(samples, rate), separator)
    two = picture_of(InMemory(np.concatenate([samples, -samples]), rate), separator)
    torch.testing.assert_close(one.mixture, two.mixture)
    torch.testing.assert_close(one.masks.sum(0), torch.ones_like(one.mixture))
