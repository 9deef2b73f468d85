"""Many recordings: which they are, what the journal says of them, and that a stop loses nothing."""

from __future__ import annotations

import csv
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpcl.apps import bulk
from dpcl.apps.console import find_recordings
from dpcl.errors import InputError
from dpcl.mixtures.index import Omitted

pytest.importorskip("ray")

from dpcl.apps.bulk import Order, Outcome

MakeRecording = Callable[..., Path]
Program = Callable[..., Any]


def test_the_background_is_no_source_in_the_journal(
    make_recording: MakeRecording, background_model: Path, folder: Path
) -> None:
    recording, order = make_recording("talk.wav", seconds=0.5), Order("", 2, 4, "wav")
    outcome = bulk.separate_one(
        str(recording), str(folder / "out"), str(background_model), order, False, False
    )
    assert outcome.sources == 2
    assert len([*(folder / "out").iterdir()]) == 3


def test_a_recording_without_talkers_is_done(
    make_recording: MakeRecording, nobody_model: Path, folder: Path, dpcl: Program, separated: Any
) -> None:
    recording = make_recording("wind.wav", seconds=0.5)
    (folder / "in").mkdir()
    recording.rename(folder / "in" / "wind.wav")
    command = ("bulk", "in", "--out", "out", "--model", nobody_model)
    assert dpcl(*command).status == 0
    assert [path.name for path in (folder / "out").glob("*.wav")] == ["wind_background.wav"]
    separated.clear()
    assert dpcl(*command).status == 0
    assert separated == []  # the journal has it


@pytest.fixture
def separated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Work is done here, one after the other, and the last handed out is the first to come back.

    Gives the recordings that were worked on.
    """
    names: list[str] = []

    def remote(**resources: Any) -> Callable[..., Any]:
        assert resources == {"num_cpus": 1}

        def of(function: Callable[..., Any]) -> Any:
            def run(recording: str, *arguments: Any) -> Any:
                names.append(Path(recording).name)
                return function(recording, *arguments)

            return SimpleNamespace(remote=run)

        return of

    @contextmanager
    def two_cores(address: str | None) -> Iterator[int]:
        yield 2

    def wait(out: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        assert num_returns == 1 and len(out) <= 2 * bulk.AHEAD
        return out[-1:], out[:-1]

    here = SimpleNamespace(remote=remote, wait=wait, get=lambda outcome: outcome, __spec__="found")
    monkeypatch.setitem(sys.modules, "ray", here)
    monkeypatch.setattr(bulk, "_cluster", two_cores)
    return names


@pytest.fixture
def recordings(make_recording: MakeRecording) -> Path:
    """A folder of three recordings, one of them in a folder, and a text that is none."""
    for name in ("a", "b", "c"):
        make_recording(f"{name}.wav")
    inside = Path("in", "deep")
    inside.mkdir(parents=True)
    Path("a.wav").rename("in/a.wav")
    Path("b.wav").rename("in/b.wav")
    Path("c.wav").rename("in/deep/a.wav")
    Path("in/notes.txt").write_text("hello")
    return Path("in")


def journal(path: Path = Path("out/bulk.csv")) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


@pytest.mark.parametrize("name", ["casa", "causal:live"])
def test_a_method_keeps_its_name_on_every_machine(
    name: str,
    recordings: Path,
    dpcl: Program,
    separated: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the path of a weights file is made whole: a name as a path would be no file."""
    given: list[str] = []

    def one(
        recording: str, place: str, model: str, order: Order, force: bool, resume: bool
    ) -> Outcome:
        given.append(model)
        return Outcome(recording, 2, 1.0, 1.0, "")

    monkeypatch.setattr(bulk, "separate_one", one)
    assert dpcl("bulk", recordings, "--out", "out", "--model", name).status == 0
    assert given == [name] * 3


def test_settings_reach_every_recording_and_the_journal(
    recordings: Path, dpcl: Program, separated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import dpcl.apps.files as files

    given: list[tuple[bool, float]] = []

    def separate_files(*arguments: Any, spatial: bool, floor: float, **others: Any) -> None:
        given.append((spatial, floor))
        raise InputError("enough")

    monkeypatch.setattr(files, "separate_files", separate_files)
    ran = dpcl("bulk", recordings, "--out", "out", "--no-spatial", "--floor", -20)
    assert ran.status == 2 and "3 of 3 recordings" in ran.err
    assert given == [(False, -20.0)] * 3
    order = "default, up to 4 sources, wav, no spatial stage, floor -20 dB"
    assert {row["order"] for row in journal()} == {order}
    assert str(Order("default", 2, 4, "wav")) == "default, 2 sources, wav"


def test_a_method_that_needs_references_is_refused_before_anything_is_written(
    recordings: Path, dpcl: Program, separated: list[str]
) -> None:
    ran = dpcl("bulk", recordings, "--out", "out", "--model", "ibm")
    assert ran.status == 2
    assert "ibm: needs the references" in ran.err
    assert not Path("out").exists()
    assert not separated


def test_sources_lie_as_their_recordings_do(
    recordings: Path, dpcl: Program, tiny_model: Path, separated: list[str]
) -> None:
    ran = dpcl("bulk", "in", "--out", "out", "--model", tiny_model, "--sources", 2)
    assert (ran.status, ran.err.splitlines()[0]) == (0, "omitted 1: no audio file by its name")
    assert sorted(separated) == ["a.wav", "a.wav", "b.wav"]
    written = sorted(str(path) for path in Path("out").rglob("*.wav"))
    names = [f"{name}_s{k}.wav" for name in ("a", "b", "deep/a") for k in (1, 2)]
    assert written == [f"out/{name}" for name in names]
    rows = journal()
    assert {row["recording"] for row in rows} == {
        str(path.resolve()) for path in recordings.rglob("*.wav")
    }
    assert {(row["sources"], row["seconds"], row["told"]) for row in rows} == {("2", "0.25", "")}


@pytest.mark.parametrize("begun", ["", "recording,ord"])
def test_killed_before_its_first_line_it_starts_again(
    recordings: Path, dpcl: Program, tiny_model: Path, separated: list[str], begun: str
) -> None:
    path = Path("out/bulk.csv")
    path.parent.mkdir()
    path.write_text(begun)
    assert dpcl("bulk", "in", "--out", "out", "--model", tiny_model, "--sources", 2).status == 0
    assert len(separated) == len(journal()) == 3


def test_stopped_it_goes_on_with_what_is_left(
    recordings: Path, dpcl: Program, tiny_model: Path, separated: list[str]
) -> None:
    command = ("bulk", "in", "--out", "out", "--model", tiny_model, "--sources", 2)
    assert dpcl(*command).status == 0
    path = Path("out/bulk.csv")
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:2]) + whole[2][:-9])  # killed in the middle of a line
    separated.clear()
    assert dpcl(*command).status == 0
    assert len(separated) == 2
    assert sorted(path.read_bytes().splitlines()[:2]) == sorted(line.strip() for line in whole[:2])
    assert len({row["recording"] for row in journal()}) == len(journal()) == 3
    separated.clear()
    assert dpcl(*command).status == 0 and separated == []
    # asked for something else, it is done again
    assert dpcl(*command[:-1], 3).status == 0
    assert len(separated) == 3 and Path("out/deep/a_s3.wav").exists()
    separated.clear()
    assert dpcl(*command, "--force").status == 0
    assert len(separated) == len(journal()) == 3 and not Path("out/deep/a_s3.wav").exists()


def test_a_recording_that_cannot_be_separated_does_not_stop_the_others(
    recordings: Path, dpcl: Program, tiny_model: Path, separated: list[str]
) -> None:
    command = ("bulk", "in", "--out", "out", "--model", tiny_model, "--sources", 2)
    whole = Path("in/a.wav").read_bytes()
    Path("in/a.wav").write_text("hello\n" * 99)
    ran = dpcl(*command)
    assert ran.status == 2
    assert "1 of 3 recordings could not be separated; see out/bulk.csv" in ran.err
    (told,) = [row["told"] for row in journal() if row["sources"] == "0"]
    assert "a.wav cannot be read as audio" in told
    Path("in/a.wav").write_bytes(whole)
    separated.clear()
    assert dpcl(*command).status == 0
    assert separated == ["a.wav"] and Path("out/a_s2.wav").exists()


def test_what_lies_in_the_folder_already_is_not_replaced(
    recordings: Path, dpcl: Program, tiny_model: Path, separated: list[str]
) -> None:
    Path("out").mkdir()
    Path("out/b_s1.wav").write_text("mine")
    ran = dpcl("bulk", "in", "--out", "out", "--model", tiny_model, "--sources", 2)
    assert ran.status == 2 and Path("out/b_s1.wav").read_text() == "mine"
    (told,) = [row["told"] for row in journal() if row["sources"] == "0"]
    assert "b_s1.wav: exists" in told


def test_outputs_below_the_recordings_are_none(recordings: Path) -> None:
    out = recordings / "separated"
    before = find_recordings([recordings], out)
    out.mkdir()
    (recordings / "b.wav").rename(out / "b_s1.wav")
    assert find_recordings([recordings], out).keys() == before.keys() - {
        str((recordings / "b.wav").resolve())
    }
    again = find_recordings([recordings], out.resolve())  # called by another of its names
    assert again.keys() == find_recordings([recordings], out).keys()


def test_hidden_files_are_no_recordings(recordings: Path) -> None:
    before = find_recordings([recordings], Path("out"))
    (recordings / "._b.wav").write_bytes(b"what a Macintosh leaves beside b.wav")
    assert find_recordings([recordings], Path("out")) == before


def test_wrong_arguments_are_told_before_anything_is_written(
    recordings: Path, dpcl: Program, tiny_model: Path, separated: list[str]
) -> None:
    Path("empty").mkdir()
    Path("more").mkdir()
    Path("more/a.flac").touch()
    Path("other").mkdir()
    Path("other/bulk.csv").write_text("mine\n")
    for arguments, told in [
        (["empty"], "empty: holds no recordings"),
        (["none.wav"], "none.wav: does not exist"),
        (["in", "more"], "would share output names"),
        (["in", "--sources", "11"], "cannot separate into 11 sources"),
        (["in", "--floor", "1"], "a floor of 1.0 dB is no attenuation"),
        (["in", "--model", "nobody"], "unknown model 'nobody'"),
        (["in", "--out", "other"], "other/bulk.csv: is not a journal of `dpcl bulk`"),
    ]:
        ran = dpcl("bulk", "--out", "out", *arguments)
        assert ran.status == 2 and told in " ".join(ran.err.split()), arguments
    assert separated == [] and not Path("out").exists()
    assert Path("other/bulk.csv").read_text() == "mine\n"


def test_without_ray_it_says_what_to_install(
    dpcl: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = dpcl("bulk", "in", "--out", "out")
    assert ran.status == 2 and 'pip install "dpcl[bulk]"' in " ".join(ran.err.split())


def test_ray_separates(recordings: Path, dpcl: Program, tiny_model: Path) -> None:
    Path("in/b.wav").write_text("hello\n" * 99)
    ran = dpcl("bulk", "in", "--out", "out", "--model", tiny_model, "--sources", 2)
    assert ran.status == 2 and "1 of 3 recordings" in ran.err
    assert sorted(row["sources"] for row in journal()) == ["0", "2", "2"]
    assert Path("out/deep/a_s2.wav").exists()


def test_ray_takes_no_signal_from_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler of SIGTERM printed addresses of its code, and the status was not 143."""
    before = signal.getsignal(signal.SIGTERM)
    ray = SimpleNamespace(
        init=lambda *_, **__: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        cluster_resources=dict,
        shutdown=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    with bulk._cluster(None) as cores:
        assert cores == 1 and signal.getsignal(signal.SIGTERM) is before


def test_a_cluster_that_is_not_there_is_told(
    recordings: Path, dpcl: Program, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ran = dpcl("bulk", "in", "--out", "out", "--model", tiny_model, "--address", "auto")
    assert ran.status == 2 and "no Ray cluster at auto" in ran.err
    assert not Path("out").exists()


def test_find_recordings_refuses_names_that_would_meet(make_recording: MakeRecording) -> None:
    make_recording("a.wav")
    make_recording("a.flac")
    with pytest.raises(InputError, match="share output names"):
        find_recordings([Path("a.wav"), Path("a.flac")], Path("out"))
    assert len(find_recordings([Path("a.wav"), Path("a.wav")], Path("out"))) == 1


def test_a_defect_or_a_killed_process_is_the_row_of_its_recording(
    recordings: Path,
    dpcl: Program,
    tiny_model: Path,
    separated: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import dpcl.apps.files as files

    usual = files.separate_files

    def fails(recordings: list[Path], *arguments: Any, **others: Any) -> None:
        if recordings[0].name == "b.wav":
            raise ZeroDivisionError("by accident")
        usual(recordings, *arguments, **others)

    def killed(outcome: Any) -> Any:
        if outcome.recording.endswith("deep/a.wav"):
            raise RuntimeError("The worker died unexpectedly\nwhile executing this task.")
        return outcome

    monkeypatch.setattr(files, "separate_files", fails)
    monkeypatch.setattr(sys.modules["ray"], "get", killed)
    ran = dpcl("bulk", "in", "--out", "out", "--model", tiny_model, "--sources", 2)
    assert ran.status == 2 and "2 of 3 recordings" in ran.err and "Traceback" not in ran.err
    told = {Path(row["recording"]).name: row["told"] for row in journal() if row["sources"] == "0"}
    assert "failed (ZeroDivisionError: by accident)" in told["b.wav"]
    assert "failed (RuntimeError: The worker died unexpectedly)" in told["a.wav"]


@pytest.mark.parametrize("data", [b"NIST_1A\n      0\n", b"NIST_1A\n   1", b"RIFF", b""])
def test_a_broken_header_is_the_row_of_its_recording(
    data: bytes, recordings: Path, dpcl: Program, tiny_model: Path, separated: list[str]
) -> None:
    Path("in/b.wav").write_bytes(data)
    ran = dpcl("bulk", "in", "--out", "out", "--model", tiny_model, "--sources", 2)
    assert ran.status == 2 and "1 of 3 recordings" in ran.err
    assert sorted(row["sources"] for row in journal()) == ["0", "2", "2"]


def test_omitted_files_are_listed_with_their_reason(
    recordings: Path, dpcl: Program, tiny_model: Path, separated: list[str]
) -> None:
    Path("in/._b.wav").write_bytes(b"of a Macintosh")
    Path("in/gone.wav").symlink_to("nowhere.wav")
    ran = dpcl("bulk", "in", "--out", "out", "--model", tiny_model, "--sources", 2)
    assert ran.status == 0
    assert "omitted 1: no audio file by its name\n  in/notes.txt\n" in ran.err
    with Path("out/bulk-omitted.csv").open(newline="") as file:
        rows = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert rows == {
        "in/notes.txt": "no audio file by its name",
        "in/._b.wav": "hidden",
        "in/gone.wav": "link to a file that does not exist",
    }


def test_links_are_followed_without_loops(recordings: Path, make_recording: MakeRecording) -> None:
    before = find_recordings([recordings], Path("out"))
    Path("elsewhere").mkdir()
    make_recording("d.wav")
    Path("d.wav").rename("elsewhere/d.wav")
    (recordings / "link").symlink_to(Path("elsewhere").resolve())
    (recordings / "deep" / "loop").symlink_to(recordings.resolve())
    (recordings / "same.wav").symlink_to((recordings / "b.wav").resolve())
    omitted = Omitted()
    found = find_recordings([recordings], Path("out"), omitted)
    assert found.keys() - before.keys() == {str(Path("elsewhere/d.wav").resolve())}
    assert omitted.files["link to a folder that is already listed"] == ["in/deep/loop"]
    assert omitted.files["the same recording as another one"] == ["in/same.wav"]


def test_resumed_it_replaces_no_file_of_others(
    recordings: Path, dpcl: Program, tiny_model: Path, separated: list[str]
) -> None:
    command = ("bulk", "in", "--out", "out", "--model", tiny_model, "--sources", 2)
    assert dpcl(*command).status == 0
    Path("out/b_s1.wav").write_text("mine")
    assert dpcl(*command[:-1], 3).status == 2
    assert Path("out/b_s1.wav").read_text() == "mine"
    assert Path("out/a_s3.wav").exists()


def test_known_voices_reach_every_recording(
    recordings: Path, tiny_model: Path, dpcl: Program, separated: list[str]
) -> None:
    command = ("bulk", recordings, "--out", "out", "--model", tiny_model)
    ran = dpcl(*command, "--voice", "Ann=missing.wav")
    assert ran.status == 2 and "missing.wav" in ran.err and not Path("out").exists()
    ran = dpcl(*command, "--voice", "Ann=in/a.wav", "--only", "Bob")
    assert ran.status == 2 and "--only Bob: has no recording" in ran.err
    ran = dpcl(*command, "--voice", "Ann=in/a.wav", "--only", "Ann")
    assert ran.status == 2 and len(separated) == 3
    for row in journal():  # this model has no voices
        assert row["order"].endswith("voice Ann, only Ann") and "finds no talkers" in row["told"]
