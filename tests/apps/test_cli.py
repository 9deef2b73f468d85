"""The program, called as a user calls it: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from torch import Tensor

import dpcl as package
from dpcl.apps import cli
from dpcl.model import load_model
from dpcl.separators.base import Analysis
from dpcl.separators.deep_clustering import DeepClustering
from dpcl.signal.audio import read_audio

Contents = Callable[[Path], dict[str, bytes]]
Program = Callable[..., Any]
MakeRecording = Callable[..., Path]
RECIPES = Path(__file__).parents[2] / "recipes"


def program(
    *arguments: object, stdin: BinaryIO | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m dpcl ARGUMENTS` in a process of its own."""
    variables = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1]), **environment}
    command = [sys.executable, "-m", "dpcl", *map(str, arguments)]
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, check=False, stdin=stdin
    )


def assert_one_sentence(message: str) -> None:
    assert message.startswith("dpcl: "), message
    assert message.endswith("\n")
    assert message.count("\n") == 1, message
    assert "Traceback" not in message


# Bad recordings and arguments of `separate`: what is made, what is given, what is said.


def wav(samples: object, subtype: str = "FLOAT") -> Callable[[Path], object]:
    return lambda path: soundfile.write(path, np.asarray(samples), 8000, subtype)


def cut_off(path: Path) -> None:
    wav(np.full(8000, 0.1), "PCM_16")(path)
    path.write_bytes(path.read_bytes()[:5000])


BAD_RECORDINGS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("x.wav", lambda path: None, "x.wav does not exist"),
    "folder": ("x.wav", lambda path: path.mkdir(), "x.wav is a folder"),
    "empty": ("x.wav", lambda path: path.touch(), "x.wav is empty"),
    "text": ("x.wav", lambda path: path.write_text("hello\n" * 99), "x.wav cannot be read"),
    "NaN": ("x.wav", wav([0.1, np.nan, 0.1]), "x.wav holds NaN"),
    "infinite": ("x.wav", wav([0.1, 0.1, np.inf]), "x.wav holds NaN or infinite"),
    "zero length": ("x.wav", wav(np.zeros(0)), "x.wav holds no samples"),
    "odd name": ("[red]:x: %s.wav", lambda path: None, "[red]:x: %s.wav does not exist"),
    "long name": ("x" * 300 + ".wav", lambda path: None, "x.wav: File name too long"),
}


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize(("name", "make", "what"), BAD_RECORDINGS.values(), ids=BAD_RECORDINGS)
def test_bad_recordings(
    name: str,
    make: Callable[[Path], object],
    what: str,
    others: bool,
    dpcl: Program,
    folder: Path,
    make_recording: MakeRecording,
    contents: Contents,
) -> None:
    good = [make_recording("a.wav"), make_recording("b.wav")] if others else []
    make(folder / name)
    before = contents(folder)
    ran = dpcl("separate", *good[:1], name, *good[1:], "--out", "out")
    assert ran.status == 2
    assert ran.out == ""
    assert_one_sentence(ran.err)
    assert what in ran.err
    assert contents(folder) == before


def test_of_a_recording_that_is_cut_off_what_is_there_is_separated_with_a_warning(
    tiny_model: Path, dpcl: Program, folder: Path
) -> None:
    cut_off(folder / "x.wav")
    ran = dpcl("separate", "x.wav", "--out", "out", "--model", tiny_model, "--json")
    assert ran.status == 0
    assert_one_sentence(ran.err)
    assert "x.wav is cut off after 0.31 s" in ran.err
    (done,) = json.loads(ran.out)
    assert done["warnings"] == [ran.err.strip().removeprefix("dpcl: ")]
    assert {soundfile.info(path).frames for path in done["outputs"]} == {2478}


def test_standard_input_is_a_recording(
    tiny_model: Path, make_recording: MakeRecording, folder: Path
) -> None:
    make_recording("a.flac", 16000, 0.5, 2)
    with (folder / "a.flac").open("rb") as data:
        ran = program("separate", "-", "--out", "out", "--model", tiny_model, stdin=data)
    assert ran.stdout.split() == [str(Path("out") / f"stdin_s{k}.wav") for k in (1, 2)]
    assert soundfile.info(folder / "out" / "stdin_s1.wav").channels == 2


@pytest.mark.parametrize(
    ("name", "subtype", "file_format", "expected"),
    [
        ("a.flac", "PCM_24", "input", (".flac", "FLAC", "PCM_24")),
        ("a.wav", "PCM_24", "wav", (".wav", "WAV", "PCM_24")),
        ("a.mp3", None, "input", (".mp3", "MP3", "MPEG_LAYER_III")),
        ("a.ogg", None, "flac", (".flac", "FLAC", "PCM_16")),
        ("a.wav", "FLOAT", "FLAC", (".flac", "FLAC", "PCM_24")),
    ],
)
def test_formats(
    name: str,
    subtype: str | None,
    file_format: str,
    expected: tuple[str, str, str],
    tiny_model: Path,
    dpcl: Program,
    make_recording: MakeRecording,
) -> None:
    make_recording(name, 16000, 0.5, subtype=subtype)
    ran = dpcl("separate", name, "--out", "out", "--model", tiny_model, "--format", file_format)
    suffix, container, coding = expected
    assert ran.out.split() == [str(Path("out") / f"a_s{k}{suffix}") for k in (1, 2)]
    for path in ran.out.split():
        info = soundfile.info(path)
        assert (info.format, info.subtype, info.samplerate) == (container, coding, 16000)


def text_weights(folder: Path) -> None:
    (folder / "w.safetensors").write_text("no weights\n" * 99)


def foreign_weights(folder: Path) -> None:
    save_file({"a": torch.zeros(2)}, folder / "w.safetensors")


def existing_output(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "a_s2.wav").write_bytes(b"mine")


def a_file_out(folder: Path) -> None:
    (folder / "out").write_bytes(b"mine")


def b_at_11025(folder: Path) -> None:
    soundfile.write(folder / "b11.wav", np.full(800, 0.1), 11025)


def second_a(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "a.flac").write_bytes((folder / "a.wav").read_bytes())


def nothing(folder: Path) -> None:
    """The folder holds a.wav, a good recording, and nothing else."""


BAD_ARGUMENTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "unknown format": (nothing, "a.wav --out out --format exe", "a_s1.exe cannot be written"),
    "format and rate": (
        b_at_11025,
        "a.wav b11.wav --out out --format opus",
        "OGG (OPUS) does not take 1 channels at 11025 Hz",
    ),
    "a floor above 0 dB": (nothing, "a.wav --out out --floor 5", "a floor of 5.0 dB is no"),
    "no sources": (nothing, "a.wav --out out --sources 0", "cannot separate into 0 sources"),
    "11 sources": (nothing, "a.wav --out out --sources 11", "11 sources; give 1 to 10"),
    "-1 sources": (nothing, "a.wav --out out --sources -1", "-1 sources; give 1 to 10"),
    "2.5 sources": (nothing, "a.wav --out out --sources 2.5", "'--sources'"),
    "two sources": (nothing, "a.wav --out out --sources two", "'--sources'"),
    "existing output": (existing_output, "a.wav --out out", "a_s2.wav: exists; add --force"),
    "out is a file": (a_file_out, "a.wav --out out", "out: is a file, not a folder"),
    "out is a file, force": (a_file_out, "a.wav --out out --force", "is a file, not a folder"),
    "out below a file": (a_file_out, "a.wav --out out/deep", "out: is a file, not a folder"),
    "unknown model": (nothing, "a.wav --out out --model best", "unknown model 'best'"),
    "no such weights": (nothing, "a.wav --out out --model w.safetensors", "no such weights file"),
    "text weights": (
        text_weights,
        "a.wav --out out --model w.safetensors",
        "w.safetensors: not a safetensors file",
    ),
    "foreign weights": (
        foreign_weights,
        "a.wav --out out --model w.safetensors",
        "w.safetensors: safetensors, but no dpcl model",
    ),
    "recording as weights": (nothing, "a.wav --out out --model a.wav", "not a safetensors file"),
    "twice the same": (nothing, "a.wav a.wav --out out", "a.wav and a.wav would share"),
    "one stem": (second_a, "a.wav other/a.flac --out out", "would share output names"),
    "no recording": (nothing, "--out out", "Missing argument 'REC'"),
    "no such device": (nothing, "a.wav --device mps", "--device mps: torch finds no such device"),
    "unknown device": (nothing, "a.wav --device abacus", "'--device'"),
    "quiet and verbose": (nothing, "a.wav -q -v", "--quiet, --verbose: they exclude each other"),
    "unknown option": (nothing, "a.wav --out out --loud", "No such option: --loud"),
}


@pytest.mark.parametrize(
    ("make", "arguments", "what"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys()
)
def test_bad_arguments(
    make: Callable[[Path], None],
    arguments: str,
    what: str,
    dpcl: Program,
    folder: Path,
    make_recording: MakeRecording,
    contents: Contents,
) -> None:
    make_recording("a.wav")
    make(folder)
    before = contents(folder)
    ran = dpcl("separate", *arguments.split())
    assert ran.status == 2
    assert ran.out == ""
    assert_one_sentence(ran.err)
    assert what in ran.err
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("mix", "Missing command; try `dpcl mix --help`"),
        ("seperate a.wav", "No such command 'seperate'"),
        ("mix draw none --out a.csv", "none does not exist"),
        ("mix draw . --out a.csv --sources 11", "'--sources'"),
        ("mix render none.csv --root . --out out", "none.csv cannot be read"),
        ("evaluate none.csv --root . --out out", "none.csv cannot be read"),
        ("models nonsense", "no model 'nonsense' ships"),
        ("models pull nonsense", "nonsense: is no name of a model on the hub"),
        ("models push none.safetensors hf://a/b", "none.safetensors: no such weights file"),
        ("train none.yaml", "none.yaml: cannot read the recipe"),
    ],
)
def test_bad_arguments_of_the_others(
    arguments: str, what: str, dpcl: Program, folder: Path, contents: Contents
) -> None:
    ran = dpcl(*arguments.split())
    assert ran.status == 2
    assert ran.out == ""
    assert_one_sentence(ran.err)
    assert what in ran.err
    assert contents(folder) == {}


def test_the_default_of_out_is_a_folder_beside(
    tiny_model: Path, dpcl: Program, make_recording: MakeRecording
) -> None:
    make_recording("a.wav")
    ran = dpcl("separate", "a.wav", "-m", tiny_model, "-n", 2)
    assert ran.out.split() == [str(Path("separated") / f"a_s{k}.wav") for k in (1, 2)]


def test_quiet_and_verbose(
    tiny_model: Path, dpcl: Program, folder: Path, make_recording: MakeRecording
) -> None:
    cut_off(folder / "x.wav")
    arguments = ("separate", "x.wav", "-m", tiny_model, "--force")
    assert dpcl(*arguments, "-q").err == ""
    assert len(dpcl(*arguments).err.splitlines()) == 1
    lines = dpcl(*arguments, "-v").err.splitlines()
    assert len(lines) == 2 and "0.3 s at 8000 Hz in 2 files" in lines[1]
    ran = dpcl("separate", "none.wav", "-q")
    assert_one_sentence(ran.err)
    ran = dpcl("separate", "none.wav", "-v")
    assert "Traceback" in ran.err and ran.err.splitlines()[-1].startswith("dpcl: none.wav")
    assert dpcl("separate", "x.wav", "-m", tiny_model, "-o", "other").err != ""  # -q ends with it


def test_completion_is_offered(dpcl: Program) -> None:
    assert "--install-completion" in dpcl("--help").out
    ran = program(_DPCL_COMPLETE="complete_bash", COMP_WORDS="dpcl separate -m ca", COMP_CWORD="3")
    assert ran.stdout.split() == ["causal"]


BAD_RECIPES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "wrong key": ("", "unknown key learning_rat", ("--set", "learning_rat=1")),
    "wrong deep key": ("", "optimiser.learning_rat", ("--set", "optimiser.learning_rat=1")),
    "impossible value": ("", "optimiser.learning_rate", ("--set", "optimiser.learning_rate=-1")),
    "another type": ("", "seed", ("--set", "seed=tomorrow")),
    "impossible STFT": ("", "hop 100", ("--set", "model.signal.hop=100")),
    "empty": ("\n", "r.yaml", ()),
    "a list": ("[1, 2]", "r.yaml", ()),
    "no YAML": ("a: [1, 2", "r.yaml", ()),
    "binary": ("\0\1", "r.yaml", ()),
    "no value": ("", "--set seed", ("--set", "seed")),
}


@pytest.mark.parametrize(("text", "what", "changes"), BAD_RECIPES.values(), ids=BAD_RECIPES.keys())
def test_bad_recipes(
    text: str,
    what: str,
    changes: tuple[str, ...],
    dpcl: Program,
    folder: Path,
    contents: Contents,
) -> None:
    (folder / "r.yaml").write_text(text or (RECIPES / "base.yaml").read_text())
    before = contents(folder)
    ran = dpcl("train", "r.yaml", *changes)
    assert ran.status == 2
    assert_one_sentence(ran.err)
    assert what in ran.err
    assert contents(folder) == before


@pytest.mark.parametrize("arguments", [(), ("--sources", "two")])
def test_the_real_program_refuses_in_one_sentence(
    arguments: tuple[str, ...], folder: Path, contents: Contents
) -> None:
    ran = program("separate", "x.wav", "--out", "out", *arguments)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert_one_sentence(ran.stderr)
    assert contents(folder) == {}


def test_the_real_program_separates(
    tiny_model: Path, folder: Path, make_recording: MakeRecording
) -> None:
    make_recording("a.wav")
    ran = program("separate", "a.wav", "--out", "out", "--model", tiny_model)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [str(Path("out") / f"a_s{k}.wav") for k in (1, 2)]
    assert ran.stderr == ""


def test_separate_prints_the_files(
    tiny_model: Path, dpcl: Program, make_recording: MakeRecording
) -> None:
    make_recording("a.wav")
    make_recording("b.flac", 44100, channels=2)
    ran = dpcl("separate", "a.wav", "b.flac", "--out", "out", "--model", tiny_model, "--sources", 3)
    assert ran.status == 0
    assert ran.out.split() == [str(Path("out") / f"{s}_s{k}.wav") for s in "ab" for k in (1, 2, 3)]
    for name in ran.out.split():
        assert soundfile.info(name).frames


def test_separate_as_json(tiny_model: Path, dpcl: Program, make_recording: MakeRecording) -> None:
    make_recording("ä [b].wav", 44100, 0.5, 2)
    ran = dpcl("separate", "ä [b].wav", "--out", "out", "--model", tiny_model, "--json")
    assert ran.status == 0
    (done,) = json.loads(ran.out)
    assert done.pop("took") > 0
    assert done == {
        "recording": "ä [b].wav",
        "outputs": [str(Path("out") / f"ä [b]_s{k}.wav") for k in (1, 2)],
        "background": None,
        "names": ["s1", "s2"],
        "confidence": None,
        "sample_rate": 44100,
        "seconds": 0.5,
        "warnings": [],
    }
    assert all(Path(name).is_file() for name in done["outputs"])


def test_an_error_leaves_standard_output_to_programs(dpcl: Program, folder: Path) -> None:
    ran = dpcl("separate", "x.wav", "--out", "out", "--json")
    assert (ran.status, ran.out) == (2, "")


def test_progress_is_shown_on_a_screen_and_not_on_standard_output(
    tiny_model: Path,
    dpcl: Program,
    make_recording: MakeRecording,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_recording("a.wav")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(cli.screen, "_force_terminal", True)
    monkeypatch.setattr(cli.screen, "is_interactive", True)
    ran = dpcl("separate", "a.wav", "--out", "out", "--model", tiny_model, "--json")
    assert "separating" in ran.err
    assert json.loads(ran.out)
    ran = dpcl("separate", "a.wav", "--out", "out", "--model", tiny_model)
    assert "exists; add --force" in ran.err


def test_force_replaces(tiny_model: Path, dpcl: Program, make_recording: MakeRecording) -> None:
    make_recording("a.wav")
    arguments = ("separate", "a.wav", "--out", "out", "--model", tiny_model)
    assert dpcl(*arguments, "--sources", 3).status == 0
    assert dpcl(*arguments).status == 2
    assert dpcl(*arguments, "--force").status == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["a_s1.wav", "a_s2.wav"]


@pytest.mark.parametrize("out", ["out", "new/out"])
def test_ctrl_c_leaves_no_half_file(
    out: str,
    dpcl: Program,
    folder: Path,
    make_recording: MakeRecording,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(self: DeepClustering, spectra: Tensor) -> Analysis:
        raise KeyboardInterrupt

    make_recording("a.wav")
    before = contents(folder)
    monkeypatch.setattr(DeepClustering, "analyse", interrupted)
    ran = dpcl("separate", "a.wav", "--out", out)
    assert ran.status == 130
    assert "Traceback" not in ran.err
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["ibm", "psm", "nmf", "fhmm", "default:local"])
@pytest.mark.parametrize("command", ["separate", "show"])
def test_a_method_that_needs_more_than_a_recording_is_one_sentence(
    command: str,
    name: str,
    dpcl: Program,
    folder: Path,
    make_recording: MakeRecording,
    contents: Contents,
) -> None:
    make_recording("a.wav")
    before = contents(folder)
    ran = dpcl(command, "a.wav", "--out", "out", "--model", name)
    assert ran.status == 2
    assert f"{name}: needs " in ran.err and "use it with `dpcl evaluate`" in ran.err
    assert ran.err.count("\n") == 1
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["casa", "live"])
def test_other_methods_separate_files(
    name: str, dpcl: Program, folder: Path, make_recording: MakeRecording
) -> None:
    make_recording("a.wav", seconds=0.5)
    assert dpcl("separate", "a.wav", "--out", "out", "--model", name, "--sources", 3).status == 0
    assert len(list((folder / "out").iterdir())) == 3


COMMANDS = (
    "separate",
    "show",
    "mix draw",
    "mix render",
    "mix wsj0",
    "mix librimix",
    "train",
    "evaluate",
    "models pull",
    "models push",
    "models",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_works(
    command: str, dpcl: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ran = dpcl(*command.split(), "--help")
    assert ran.status == 0
    example = re.search(r"Example: dpcl (.+)", ran.out)
    assert example is not None
    words = example[1].split()
    assert " ".join(words).startswith(command)
    for option in (word for word in words if word.startswith("--")):
        assert ran.out.count(option) >= 2  # it is in the list of options, too


def test_help_names_the_commands(dpcl: Program) -> None:
    for arguments in ((), ("--help",)):
        ran = dpcl(*arguments)
        assert ran.status == 0
        for command in COMMANDS:
            assert command.split()[0] in ran.out


def test_models(dpcl: Program) -> None:
    listed = dpcl("models")
    assert listed.status == 0
    assert re.search(r"^default  [\d.]+ MB  \S", listed.out, re.MULTILINE)
    card = dpcl("models", "default")
    assert card.status == 0
    assert card.out.startswith("# ")
    models = json.loads(dpcl("models", "--json").out)
    assert "default" in [model["name"] for model in models]
    assert all(Path(model["path"]).is_file() for model in models)


# Lists: a corpus of noises, each speaker in a band of his own.


@pytest.fixture
def corpus(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    root = folder / "corpus"
    rows = []
    for speaker in range(3):
        for number in range(2):
            path = root / f"s{speaker}" / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            spectrum = np.fft.rfft(rng.standard_normal(8000))
            away = np.abs(np.fft.rfftfreq(8000) - (0.1 + 0.1 * speaker)) > 0.06
            spectrum[away] *= 0.03
            soundfile.write(path, 3 * np.fft.irfft(spectrum) / 10, 8000)
            name = path.relative_to(root).as_posix()
            rows.append(["test", "x", f"s{speaker}", "fm"[speaker % 2], name, f"{speaker}{number}"])
    with (root / "index.csv").open("w", newline="") as file:
        header = ["split", "corpus", "speaker", "gender", "path", "text"]
        csv.writer(file).writerows([header, *rows])
    return root


@pytest.fixture
def mixture_list(corpus: Path, dpcl: Program) -> Path:
    path = corpus.parent / "lists" / "tiny.csv"  # its folder is made
    ran = dpcl(
        *("mix", "draw", corpus, "--split", "test", "--out", path),
        *("--count", 3, "--shortest", 0.4, "--longest", 0.5),
    )
    assert (ran.status, ran.out.split()) == (0, [str(path)])
    return path


def test_mix_draws_the_same_list_again(mixture_list: Path, corpus: Path, dpcl: Program) -> None:
    arguments = ("mix", "draw", corpus, "--count", 3, "--shortest", 0.4, "--longest", 0.5)
    before = mixture_list.read_bytes()
    ran = dpcl(*arguments, "--out", mixture_list)
    assert ran.status == 2
    assert "tiny.csv: exists; add --force" in ran.err
    assert dpcl(*arguments, "--out", mixture_list, "--force").status == 0
    assert mixture_list.read_bytes() == before
    assert dpcl(*arguments, "--out", mixture_list, "--force", "--seed", 1).status == 0
    assert mixture_list.read_bytes() != before


def test_mix_draws_the_kinds_that_a_file_names(corpus: Path, dpcl: Program) -> None:
    from dpcl.mixtures.corpus import read_corpus
    from dpcl.mixtures.lists import read_list

    name = read_corpus(corpus).utterances[0].corpus
    kinds = Path("kinds.yaml")
    kinds.write_text(f"groups: {{x: ['{name}']}}\nmixtures: [{{of: [x]}}, {{of: [x, x]}}]\n")
    draw = ("mix", "draw", corpus, "--count", 2, "--shortest", 0.4, "--longest", 0.5)
    assert dpcl(*draw, "--out", "k.csv", "--kinds", kinds).status == 0
    assert {row.kind for row in read_list("k.csv")} == {"x+x"}
    assert dpcl(*draw, "--out", "one.csv", "--kinds", kinds, "--sources", 1).status == 0
    assert {row.kind for row in read_list("one.csv")} == {"x"}
    ran = dpcl(*draw, "--out", "l.csv", "--kinds", kinds, "--sources", 3)
    assert (ran.status, Path("l.csv").exists()) == (2, False)
    assert "are of 1 or 2 sources, not of 3" in " ".join(ran.err.split())
    kinds.write_text(f"groups: {{x: ['{name}']}}\nmixtures: [{{of: [x]}}]\n")
    assert dpcl(*draw, "--out", "ones.csv", "--kinds", kinds).status == 0
    assert {row.kind for row in read_list("ones.csv")} == {"x"}
    kinds.write_text("groups: {}\n")
    ran = dpcl(*draw, "--out", "l.csv", "--kinds", kinds)
    assert ran.status == 2 and "kinds.yaml: mixtures: Field required" in " ".join(ran.err.split())


def test_mix_renders_mixtures_and_their_sources(
    mixture_list: Path, corpus: Path, dpcl: Program
) -> None:
    arguments = ("mix", "render", mixture_list, "--root", corpus, "--out", "audio")
    ran = dpcl(*arguments)
    assert (ran.status, ran.out.split()) == (0, ["audio"])
    assert sorted(path.name for path in Path("audio").iterdir()) == ["mix", "s1", "s2"]
    for path in Path("audio", "mix").iterdir():
        mixture, rate = read_audio(path)
        assert rate == 8000
        sources = [read_audio(Path("audio", name, path.name))[0] for name in ("s1", "s2")]
        np.testing.assert_array_equal(sum(sources), mixture)
    ran = dpcl(*arguments)
    assert ran.status == 2
    assert "exists; add --force" in ran.err
    assert dpcl(*arguments, "--force", "--limit", 1).status == 0
    assert len(list(Path("audio", "mix").iterdir())) == 3


@pytest.mark.parametrize("command", ["mix render", "evaluate"])
def test_a_list_whose_file_is_missing(
    command: str,
    mixture_list: Path,
    corpus: Path,
    dpcl: Program,
    folder: Path,
    contents: Contents,
) -> None:
    """Its row is named, and the rows before it are not written either."""
    with mixture_list.open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    lost = corpus / last["paths_2"]
    lost.rename(corpus / "elsewhere.wav")
    before = contents(folder)
    separator = ("--separator", "mixture") if command == "evaluate" else ()
    ran = dpcl(*command.split(), mixture_list, "--root", corpus, "--out", "new/out", *separator)
    assert ran.status == 2
    assert_one_sentence(ran.err)
    assert re.search(r"ixture tiny-000\d of list tiny", ran.err)
    assert lost.name in ran.err
    assert contents(folder) == before


@pytest.mark.parametrize("separator", ["mixture", "ibm", "default"])
def test_evaluate(separator: str, mixture_list: Path, corpus: Path, dpcl: Program) -> None:
    pytest.importorskip("fast_bss_eval")
    arguments = ("evaluate", mixture_list, "--root", corpus, "--separator", separator)
    ran = dpcl(*arguments, "--out", "results", "--json")
    assert ran.status == 0, ran.err
    summary = json.loads(ran.out)
    assert summary == json.loads(Path("results", "summary.json").read_text())
    assert (summary["list"], summary["separator"]) == ("tiny", separator)
    assert summary["overall"]["mixtures"] == 3
    if separator == "mixture":
        assert summary["overall"]["si_sdri"] == 0
    if separator == "ibm":
        assert summary["overall"]["si_sdri"] > 5
    assert len(Path("results", "results.csv").read_text().splitlines()) == 1 + 3 * 2
    assert "exists; add --force" in dpcl(*arguments, "--out", "results").err
    ran = dpcl(*arguments, "--out", "results", "--force", "--limit", 1)
    assert ran.status == 0
    assert "| all | 1 |" in ran.out


def test_evaluate_refuses_an_unknown_separator(
    mixture_list: Path, corpus: Path, dpcl: Program, folder: Path, contents: Contents
) -> None:
    before = contents(folder)
    ran = dpcl("evaluate", mixture_list, "--root", corpus, "--out", "r", "--separator", "magic")
    assert ran.status == 2
    assert_one_sentence(ran.err)
    assert "'magic'" in ran.err
    assert contents(folder) == before


def test_train_and_separate_with_what_it_wrote(
    corpus: Path, dpcl: Program, make_recording: MakeRecording
) -> None:
    pytest.importorskip("lightning")
    Path("r.yaml").write_text(
        f"""
        model: {{network: {{layers: 1, width: 4, embedding: 3}}}}
        data: {{corpora: [{corpus}], cache: cache}}
        stages: [{{frames: 20, batch: 2, steps: 2}}]
        accelerator: cpu
        """
    )
    ran = dpcl("train", "r.yaml", "--set", "seed=1")
    assert ran.status == 0, ran.err
    weights = ran.out.splitlines()[-1]
    assert Path(weights).is_relative_to(Path("runs", "r"))
    make_recording("a.wav", 44100)
    assert dpcl("separate", "a.wav", "--out", "out", "--model", weights).status == 0
    assert dpcl("train", "r.yaml", "--set", "seed=2").status == 2  # the run is there

    ran = dpcl("train", "r.yaml", "--init", weights, "--run", "on", "--set", "stages.0.steps=1")
    assert ran.status == 0, ran.err
    assert load_model(Path(ran.out.splitlines()[-1])).notes["recipe"]["init"] == weights
    ran = dpcl("train", "r.yaml", "--init", "default", "--run", "other")
    assert ran.status == 2
    assert_one_sentence(ran.err)
    assert "default.safetensors is of another size of network" in ran.err
    ran = dpcl("train", "r.yaml", "--init", "nothing", "--run", "on", "--force")
    assert ran.status == 2
    assert "nothing: no such weights file" in ran.err
    assert list(Path("on").rglob("*.safetensors"))  # what was there is not lost for it
    assert not Path("other").exists()


def test_ctrl_c_in_training_names_the_command_that_resumes(
    corpus: Path, dpcl: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lightning")
    from dpcl.training import loop

    Path("r.yaml").write_text(
        f"""
        model: {{network: {{layers: 1, width: 4, embedding: 3}}}}
        data: {{corpora: [{corpus}], cache: cache}}
        stages: [{{frames: 20, batch: 2, steps: 2}}]
        accelerator: cpu
        """
    )

    def interrupted(*_: object) -> Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "batch_loss", interrupted)
        ran = dpcl("train", "r.yaml", "--set", "seed=1", "--run", "my run")
    assert ran.status == 130
    command = re.search(r"dpcl: stopped; resume with `dpcl (.*)`", ran.err)
    assert command is not None
    assert command[1] == "train r.yaml --run 'my run' --set seed=1 --resume"
    assert dpcl(*shlex.split(command[1])).status == 0


def test_the_version_is_that_of_the_package() -> None:
    done = program("--version")
    assert (done.returncode, done.stdout) == (0, f"dpcl {package.__version__}\n")


def test_timelines_are_evaluated(dpcl: Program, make_recording: MakeRecording) -> None:
    make_recording("a.wav", 8000, 1.0)
    Path("a.rttm").write_text("SPEAKER a 1 0.0 0.5 <NA> <NA> x <NA> <NA>\n")
    Path("b.rttm").write_text("SPEAKER a 1 0.0 1.0 <NA> <NA> y <NA> <NA>\n")
    command = ("evaluate", "a.rttm", "--timeline", "--out", "scores", "--estimates", "b.rttm")
    ran = dpcl(*command)
    assert (ran.status, ran.out) == (
        0,
        "1 recordings: DER 100.0 %, JER 50.0 %, number of talkers right in 1\n",
    )
    assert {path.name for path in Path("scores").iterdir()} == {"results.csv", "summary.json"}
    assert "exists; add --force" in dpcl(*command).err
    assert '"der": 1.0' in dpcl(*command, "--force", "--json").out
    assert dpcl("evaluate", "a.csv", "--out", "x", "--estimates", "b.rttm").status == 2


def test_a_transcript_that_cannot_be_made_stops_before_any_work(
    dpcl: Program, make_recording: MakeRecording, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_recording("a.wav")
    ran = dpcl("separate", path, "--language", "en")
    assert (ran.status, ran.out) == (2, "")
    assert "--language: is the language of a transcript; add --transcribe MODEL" in ran.err
    monkeypatch.setattr("dpcl.errors.find_spec", lambda name: None)
    ran = dpcl("separate", path, "--transcribe", "base")
    assert (ran.status, ran.out) == (2, "")
    assert 'pip install "dpcl[asr]"' in ran.err
    assert [other.name for other in path.parent.iterdir()] == ["a.wav"]
