"""Outputs of any recording: whose files stay, their coding, metadata and names; pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dpcl.apps import files as module
from dpcl.apps.console import expand_wildcards
from dpcl.apps.files import Separated, is_ours, separate_files
from dpcl.errors import InputError
from dpcl.signal.audio import read_audio

MakeRecording = Callable[..., Path]
Contents = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def separate(tiny_model: Path) -> Callable[..., list[Separated]]:
    """`separate_files` with the small network."""

    def run(
        recordings: list[Path],
        out: Path,
        sources: int = 2,
        force: bool = False,
        file_format: str = "wav",
        resume: bool = False,
    ) -> list[Separated]:
        finished: list[Separated] = []
        separate_files(
            recordings, out, str(tiny_model), sources, force, finished.append, file_format,
            resume=resume,
        )  # fmt: skip
        return finished

    return run


Separate = Callable[..., list[Separated]]


@pytest.mark.parametrize("file_format", ["wav", "flac", "ogg", "mp3", "aiff", "caf"])
def test_force_removes_only_what_dpcl_wrote(
    file_format: str, make_recording: MakeRecording, separate: Separate, folder: Path
) -> None:
    recording, out = make_recording(), folder / "out"
    separate([recording], out, 4, file_format=file_format)
    assert all(is_ours(path) for path in out.iterdir())
    mine = out / f"a_s3.{file_format}"
    mine.unlink()
    soundfile.write(mine, np.zeros(800), 8000)
    before = mine.read_bytes()
    (done,) = separate([recording], out, 2, True, file_format)
    assert sorted(path.name for path in out.iterdir()) == [
        f"a_s{k}.{file_format}" for k in (1, 2, 3)
    ]
    assert mine.read_bytes() == before
    assert any("a_s3" in warning and "stays" in warning for warning in done.warnings)


def test_resuming_replaces_only_what_dpcl_wrote(
    make_recording: MakeRecording, separate: Separate, folder: Path
) -> None:
    recording, out = make_recording(), folder / "out"
    separate([recording], out, 2)
    separate([recording], out, 3, resume=True)
    soundfile.write(out / "a_s1.wav", np.zeros(800), 8000)
    before = (out / "a_s1.wav").read_bytes()
    with pytest.raises(InputError, match=r"a_s1\.wav: exists"):
        separate([recording], out, 3, resume=True)
    assert (out / "a_s1.wav").read_bytes() == before


@pytest.mark.parametrize("force", [False, True])
def test_a_failure_while_renaming_leaves_what_was_there(
    force: bool,
    make_recording: MakeRecording,
    separate: Separate,
    folder: Path,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recording, out = make_recording(), folder / "out"
    if force:
        separate([recording], out, 3)
    before = contents(folder)
    move = module.move_new

    def broken(source: Path, path: Path) -> None:
        if "_s2" in path.name:
            raise KeyboardInterrupt
        move(source, path)

    monkeypatch.setattr(module, "move_new", broken)
    with pytest.raises(KeyboardInterrupt):
        separate([recording], out, 2, force)
    assert contents(folder) == before


def test_of_two_runs_at_once_one_is_refused(
    make_recording: MakeRecording,
    separate: Separate,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other run finishes between the checks and the writing of this one."""
    recording, out = make_recording(), folder / "out"
    check = module._check_outputs
    (folder / "b").mkdir()
    other = folder / "b" / "a.wav"
    soundfile.write(other, np.zeros(800), 8000)
    written: dict[str, bytes] = {}

    def overtaken(*arguments: Any) -> None:
        check(*arguments)
        monkeypatch.setattr(module, "_check_outputs", check)
        separate([other], out, 3)
        written.update({path.name: path.read_bytes() for path in out.iterdir()})

    monkeypatch.setattr(module, "_check_outputs", overtaken)
    with pytest.raises(InputError, match=r"a_s\d\.wav: exists"):
        separate([recording], out, 2)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == written
    assert len(written) == 3


def test_two_processes_at_once_leave_one_whole_set(
    make_recording: MakeRecording, folder: Path, tiny_model: Path
) -> None:
    recording = make_recording(seconds=1.0)
    command = [sys.executable, "-m", "dpcl", "separate", str(recording), "--out", "out", "--model"]
    runs = [
        subprocess.Popen([*command, str(tiny_model), "--sources", n], stderr=subprocess.PIPE)
        for n in ("2", "3")
    ]
    ends = {n: (run.wait(), run.communicate()[1]) for n, run in zip((2, 3), runs, strict=True)}
    assert sorted(status for status, _ in ends.values()) == [0, 2], ends
    (number,) = [n for n, (status, _) in ends.items() if status == 0]
    assert len([*(folder / "out").iterdir()]) == number
    sources = sum(read_audio(path)[0] for path in (folder / "out").iterdir())
    np.testing.assert_allclose(sources, read_audio(recording)[0], atol=2e-4)


@pytest.mark.parametrize("file_format", ["wav", "aiff", "w64"])
def test_all_outputs_have_one_coding_and_a_sentence_says_which(
    file_format: str, separate: Separate, folder: Path
) -> None:
    rng = np.random.default_rng(0)
    samples = np.repeat(np.sign(rng.standard_normal((16000, 1))) * 0.999, 2, axis=1)
    soundfile.write(folder / "a.wav", samples, 16000, "PCM_16")
    (done,) = separate([folder / "a.wav"], folder / "out", 3, file_format=file_format)
    codings = {soundfile.info(path).subtype for path in done.outputs}
    assert len(codings) == 1
    assert codings == {"FLOAT"}
    assert any("FLOAT" in warning and "PCM_16" in warning for warning in done.warnings)


def test_metadata_is_kept(separate: Separate, folder: Path) -> None:
    tags = {"title": "Größe 大", "artist": "A. Jones", "comment": "second take", "date": "2024"}
    samples = 0.1 * np.random.default_rng(0).standard_normal(8000)
    with soundfile.SoundFile(folder / "a.flac", "w", 8000, 1, "PCM_16") as file:
        for name, value in tags.items():
            setattr(file, name, value)
        file.write(samples)
    for file_format in ("wav", "flac", "ogg", "mp3"):
        (done,) = separate([folder / "a.flac"], folder / file_format, file_format=file_format)
        for path in done.outputs:
            with soundfile.SoundFile(path) as file:
                found = file.copy_metadata()
            assert {name: found[name] for name in tags} == tags, file_format


@pytest.mark.parametrize("file_format", ["sd2", "sds", "paf", "raw", "m4a", "xyz"])
def test_a_format_that_cannot_be_read_again_is_refused_before_the_work(
    file_format: str,
    make_recording: MakeRecording,
    separate: Separate,
    folder: Path,
    contents: Contents,
) -> None:
    recording = make_recording(rate=44100)
    before = contents(folder)
    with pytest.raises(InputError, match=r"cannot be written; end its name in \.wav"):
        separate([recording], folder / "out", file_format=file_format)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "file_format",
    ["au", "avr", "caf", "htk", "ircam", "mat4", "mat5", "mpc2k", "nist", "pvf", "rf64", "svx",
     "voc", "w64", "wavex", "wve", "xi"],
)  # fmt: skip
def test_every_other_format_is_refused_or_can_be_read_again(
    file_format: str, make_recording: MakeRecording, separate: Separate, folder: Path
) -> None:
    recording = make_recording(rate=8000)
    try:
        (done,) = separate([recording], folder / "out", file_format=file_format)
    except InputError as error:
        assert "cannot be written" in str(error)
        assert not (folder / "out").exists()
        return
    total = sum(read_audio(path)[0] for path in done.outputs)
    np.testing.assert_allclose(total, read_audio(recording)[0], atol=2e-3)


@pytest.mark.parametrize("letter", ["a", "ü"])
def test_the_longest_names_are_written_and_longer_ones_refused(
    letter: str, make_recording: MakeRecording, separate: Separate, folder: Path
) -> None:
    width = len(letter.encode())
    longest = (255 - len("_background.wav")) // width
    recording = make_recording(f"{letter * longest}.wav")
    (done,) = separate([recording], folder / "out")
    assert all(path.is_file() for path in done.outputs)
    recording = recording.rename(folder / f"{letter * (longest + 1)}.wav")
    with pytest.raises(InputError, match="bytes, and 255 is the limit; rename the recording"):
        separate([recording], folder / "more")
    assert not (folder / "more").exists()


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e30, 1e36])
def test_any_level_is_separated(scale: float, separate: Separate, folder: Path) -> None:
    samples = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    samples *= np.float32(scale)
    soundfile.write(folder / "a.wav", samples, 8000, "FLOAT")
    (done,) = separate([folder / "a.wav"], folder / "out")
    total = sum(read_audio(path)[0][0].astype(np.float64) for path in done.outputs)
    peak = float(np.abs(samples).max())
    np.testing.assert_allclose(total / peak, samples.astype(np.float64) / peak, atol=1e-4)


def test_pipes_are_read_once_and_separated(
    make_recording: MakeRecording, separate: Separate, folder: Path
) -> None:
    recording = make_recording()
    data = recording.read_bytes()
    pipes = [folder / "one.wav", folder / "two.wav"]
    for pipe in pipes:
        os.mkfifo(pipe)

    def write() -> None:
        for pipe in pipes:
            pipe.write_bytes(data)

    threading.Thread(target=write, daemon=True).start()
    for done in separate(pipes, folder / "out"):
        total = sum(read_audio(path)[0] for path in done.outputs)
        np.testing.assert_allclose(total, read_audio(recording)[0], atol=1e-4)


@pytest.mark.parametrize(
    "given", ["<(cat a.wav)", "/dev/stdin < a.wav", "/dev/stdin < <(cat a.wav)"]
)
def test_what_a_shell_hands_over_is_separated(
    given: str, make_recording: MakeRecording, folder: Path, tiny_model: Path
) -> None:
    make_recording()
    program = f"{sys.executable} -m dpcl separate --out out --sources 2 --model {tiny_model}"
    ran = subprocess.run(
        ["bash", "-c", f"{program} {given}"], capture_output=True, text=True, timeout=200
    )
    assert ran.returncode == 0, ran.stderr
    outputs = [Path(line) for line in ran.stdout.splitlines()]
    total = sum(read_audio(path)[0] for path in outputs)
    np.testing.assert_allclose(total, read_audio("a.wav")[0], atol=1e-4)


def test_names_that_are_not_unicode_are_printed_in_any_locale(
    make_recording: MakeRecording, folder: Path, tiny_model: Path
) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    try:
        make_recording().rename(folder / name)
    except OSError:
        pytest.skip("this file system takes Unicode only")
    program = [sys.executable, "-m", "dpcl", "separate", name, "--sources", "2"]
    program += ["--model", str(tiny_model), "--force", "--out", "out"]
    for encoding in ("utf-8", "ascii", "cp1252"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        ran = subprocess.run(program, capture_output=True, env=environment, timeout=200)
        assert ran.returncode == 0, ran.stderr
        assert b"caf" in ran.stdout and ran.stdout.count(b"\n") == 2
        ran = subprocess.run([*program, "--json"], capture_output=True, env=environment)
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)[0]["seconds"] == 0.25


def test_mp3_outputs_come_without_lines_of_libmpg123(
    make_recording: MakeRecording, folder: Path, tiny_model: Path
) -> None:
    make_recording(rate=16000, seconds=2.0)
    program = [sys.executable, "-m", "dpcl", "separate", "a.wav", "--out", "out", "--sources", "2"]
    for more in ((), ("--force",)):  # with the second, outputs are also read
        command = [*program, "--format", "mp3", "--model", str(tiny_model), *more]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert ran.returncode == 0
        assert "mpg123" not in ran.stderr and "Xing" not in ran.stderr
        assert all(line.startswith("dpcl: ") for line in ran.stderr.splitlines())


def test_wildcards_that_the_shell_left_are_expanded(tmp_path: Path) -> None:
    for name in ("b.wav", "a.wav", "[c].wav", "d.txt"):
        (tmp_path / name).touch()
    expanded = expand_wildcards([tmp_path / "*.wav", tmp_path / "[c].wav", tmp_path / "x*.wav"])
    assert [path.name for path in expanded] == ["[c].wav", "a.wav", "b.wav", "[c].wav", "x*.wav"]
