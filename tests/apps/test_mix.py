"""Published mixtures from the command line: rendered, and scored as they lie on disk."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dpcl.signal.audio import read_audio

Contents = Callable[[Path], dict[str, bytes]]
Program = Callable[..., Any]
WriteSphere = Callable[..., Path]


@pytest.fixture
def wsj0(folder: Path, write_sphere: WriteSphere) -> Path:
    """Half a second each of three talkers, noise in bands of their own, and a list of two lines."""
    rng = np.random.default_rng(0)
    for number in range(3):
        spectrum = np.fft.rfft(rng.standard_normal(8000 + 100 * number))
        frequencies = np.linspace(0, 1, len(spectrum))
        spectrum[np.abs(frequencies - (0.1 + 0.1 * number)) > 0.06] *= 0.03
        samples = 9000 * np.fft.irfft(spectrum) / np.abs(np.fft.irfft(spectrum)).max()
        write_sphere(folder / "wsj0" / "si_et_05" / f"44{number}" / f"44{number}c0201.wv1", samples)
    lines = [
        f"wsj0/si_et_05/44{a}/44{a}c0201.wav 0.5 wsj0/si_et_05/44{b}/44{b}c0201.wav -0.5"
        for a, b in ((0, 1), (2, 1))
    ]
    (folder / "mix_2_spk_tt.txt").write_text("\n".join(lines))
    (folder / "wsj0" / "spkrinfo.txt").write_text("440 F\n441 F\n442 M\n")
    return folder / "wsj0"


def test_wsj0_mix_is_rendered_and_scored(wsj0: Path, dpcl: Program) -> None:
    pytest.importorskip("fast_bss_eval")
    arguments = ("mix", "wsj0", "wsj0", "--lists", ".", "--split", "tt", "--out", "min")
    ran = dpcl(*arguments)
    assert (ran.status, ran.out.split()) == (0, ["min/tt.csv"]), ran.err
    names = ["440c0201_0.5_441c0201_-0.5.wav", "442c0201_0.5_441c0201_-0.5.wav"]
    for kind in ("mix", "s1", "s2"):
        assert sorted(path.name for path in Path("min", "tt", kind).iterdir()) == names
    mixture, rate = read_audio(Path("min", "tt", "mix", names[0]))
    assert rate == 8000 and mixture.shape == (1, 4000)
    assert np.abs(mixture).max() <= 0.9

    scored = {}
    for name in ("min/tt.csv", "min/tt"):
        ran = dpcl("evaluate", name, "--separator", "ibm", "--out", "scores", "--force", "--json")
        assert ran.status == 0, ran.err
        scored[name] = json.loads(ran.out)["overall"]
        with Path("scores", "results.csv").open(newline="") as file:
            genders = [row["genders"] for row in csv.DictReader(file)]
        known = ["same", "same", "different", "different"]
        assert genders == (known if name == "min/tt.csv" else ["unknown"] * 4)
    assert scored["min/tt.csv"] == scored["min/tt"]
    assert scored["min/tt"]["si_sdri"] > 10

    assert "min/tt: exists; add --force" in dpcl(*arguments).err
    assert dpcl(*arguments, "--force", "--limit", 1).status == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("--split cv", "mix_2_spk_cv.txt cannot be read (No such file or directory)"),
        ("--split tt --sources 3", "mix_3_spk_tt.txt cannot be read"),
        ("--split tt --rate 44100", "at 8000 and 16000 Hz, not at 44100"),
        ("--split tt --mode mean", "'mean' is not one of 'min', 'max'"),
        ("--split tt --levels .", "has no activlev*.txt"),
    ],
)
def test_what_cannot_be_rendered_leaves_nothing(
    arguments: str, what: str, wsj0: Path, folder: Path, dpcl: Program, contents: Contents
) -> None:
    before = contents(folder)
    ran = dpcl("mix", "wsj0", wsj0, "--lists", ".", "--out", "out", *arguments.split())
    assert ran.status == 2 and ran.out == ""
    assert what in ran.err and ran.err.count("\n") == 1
    assert contents(folder) == before


def test_an_utterance_that_is_missing_or_compressed_leaves_nothing(
    wsj0: Path,
    folder: Path,
    dpcl: Program,
    write_sphere: WriteSphere,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    last = wsj0 / "si_et_05" / "442" / "442c0201.wv1"
    write_sphere(last, [1, 2], coding="pcm,embedded-shorten-v2.00")
    arguments = ("mix", "wsj0", wsj0, "--lists", ".", "--split", "tt", "--out", "out")
    before = contents(folder)
    assert "install sph2pipe" in dpcl(*arguments).err
    assert contents(folder) == before
    last.unlink()
    ran = dpcl(*arguments)
    assert f"mix_2_spk_tt.txt line 2: {wsj0} has no wsj0/si_et_05/442/442c0201.wav" in ran.err
    assert not (folder / "out").exists()


@pytest.mark.parametrize("name", ["tt", "tt.csv", "tt/mix"])
def test_what_stands_in_the_way_of_a_forced_output_stays_and_nothing_is_written(
    name: str, wsj0: Path, folder: Path, dpcl: Program, contents: Contents
) -> None:
    place = folder / "out" / name
    place.parent.mkdir(parents=True)
    if name == "tt.csv":
        place.mkdir()
    else:
        place.write_text("a file")
    before = contents(folder)
    arguments = ("--lists", ".", "--split", "tt", "--out", "out", "--force", "--limit", 1)
    ran = dpcl("mix", "wsj0", wsj0, *arguments)
    assert ran.status == 2 and f"out/{name} is in the way" in ran.err
    assert contents(folder) == before


def test_a_rendered_list_names_no_talkers_to_learn(wsj0: Path, dpcl: Program) -> None:
    dpcl("mix", "wsj0", wsj0, "--lists", ".", "--split", "tt", "--out", "min", "--mode", "max")
    ran = dpcl("evaluate", "min/tt", "--separator", "nmf", "--out", "scores")
    assert ran.status == 2
    assert "nmf learns the talkers from a corpus" in ran.err
    assert not Path("scores").exists()


def test_librimix_is_rendered_and_scored(folder: Path, dpcl: Program, contents: Contents) -> None:
    pytest.importorskip("fast_bss_eval")
    rng = np.random.default_rng(0)
    for name in ("test-clean/1/2/1-2-0.flac", "test-clean/3/4/3-4-0.flac", "tt/n.wav"):
        path = folder / "audio" / name
        path.parent.mkdir(parents=True)
        soundfile.write(path, 0.1 * rng.standard_normal(12000), 16000)
    header = "mixture_ID,source_1_path,source_1_gain,source_2_path,source_2_gain"
    paths = "test-clean/1/2/1-2-0.flac,0.5,test-clean/3/4/3-4-0.flac,0.4"
    (folder / "m.csv").write_text(f"{header},noise_path,noise_gain\nx,{paths},tt/n.wav,0.3\n")
    arguments = ("mix", "librimix", "audio", "--metadata", "m.csv", "--out", "test")
    before = contents(folder)
    assert "give the folder wham_noise with --wham" in dpcl(*arguments, "--kind", "both").err
    assert "not at 11025" in dpcl(*arguments, "--rate", 11025).err
    assert contents(folder) == before
    ran = dpcl(*arguments, "--kind", "both", "--wham", "audio")
    assert (ran.status, ran.out.split()) == (0, ["test/mix_both.csv"]), ran.err
    for name in ("test/mix_both.csv", "test/mix_both"):
        ran = dpcl("evaluate", name, "--separator", "mixture", "--out", name[-4:], "--json")
        assert ran.status == 0, ran.err
        # 0.5 against 0.4 and 0.3, which is 0 dB, and 0.4 against 0.5 and 0.3, -3.3 dB
        assert json.loads(ran.out)["overall"]["si_sdr"] == pytest.approx(-1.6, abs=0.3)


def test_noise_and_rooms_are_added_to_a_list(folder: Path, dpcl: Program) -> None:
    rng = np.random.default_rng(0)
    for name in ("ann/hello.wav", "bob/world.wav", "noise/rain.wav"):
        path = folder / "corpus" / name
        path.parent.mkdir(parents=True)
        soundfile.write(path, 0.1 * rng.standard_normal(8000), 8000)
    (folder / "corpus" / "index.csv").write_text(
        "split,corpus,speaker,gender,path\n,,ann,f,ann/hello.wav\n,,bob,m,bob/world.wav\n"
    )
    arguments = ("mix", "draw", "corpus", "--shortest", 0.5, "--longest", 0.6, "--count", 3)
    assert dpcl(*arguments, "--out", "dry.csv").status == 0
    arguments = ("mix", "add", "dry.csv", "--root", "corpus", "--out", "wet.csv")
    assert "nothing to add" in dpcl(*arguments).err
    ran = dpcl(*arguments, "--noise", "corpus/noise", "--snr-db", 5, 10, "--rooms")
    assert (ran.status, ran.out.split()) == (0, ["wet.csv"]), ran.err
    with Path("wet.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with Path("dry.csv").open(newline="") as file:
        dry = list(csv.DictReader(file))
    for row, before in zip(rows, dry, strict=True):
        assert before.items() - row.items() == {("list", "dry")}
        assert row["noise"] == "noise/rain.wav" and 5 <= float(row["snr_db"]) <= 10
        assert len(row["room"].split()) == len(row["position_2"].split()) == 3
    first = Path("wet.csv").read_bytes()
    assert "exists; add --force" in dpcl(*arguments, "--rooms").err
    again = ("--noise", "corpus/noise", "--snr-db", 5, 10, "--rooms", "--force")
    assert dpcl(*arguments, *again).status == 0 and Path("wet.csv").read_bytes() == first

    ran = dpcl(*arguments[:-1], "noisy.csv", "--noise", "corpus/noise")
    ran = dpcl("mix", "render", "noisy.csv", "--root", "corpus", "--out", "audio")
    assert ran.status == 0, ran.err
    assert sorted(path.name for path in Path("audio").iterdir()) == ["mix", "noise", "s1", "s2"]


def test_a_channel_pink_noise_and_babble_are_added_to_a_list(folder: Path, dpcl: Program) -> None:
    rng = np.random.default_rng(0)
    lines = ["split,corpus,speaker,gender,path"]
    for split, names in (("test", "abc"), ("other", "de"), ("noise", "z")):
        for name in names:
            path = folder / "corpus" / "x" / name / f"text-{name}.wav"
            path.parent.mkdir(parents=True)
            soundfile.write(path, 0.1 * rng.standard_normal(8000), 8000)
            lines.append(f"{split},x,{name},f,x/{name}/text-{name}.wav")
    (folder / "corpus" / "index.csv").write_text("\n".join(lines) + "\n")
    lengths = ("--shortest", 0.5, "--longest", 0.6, "--count", 2)
    for split in ("test", "other"):
        drawn = dpcl("mix", "draw", "corpus", "--split", split, *lengths, "--out", f"{split}.csv")
        assert drawn.status == 0, drawn.err

    def add(*arguments: object) -> Any:
        return dpcl("mix", "add", "test.csv", "--root", "corpus", "--out", "out.csv", *arguments)

    def fields() -> list[dict[str, str]]:
        with Path("out.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    ran = add("--pink", "--snr", 3, 3, "--band", "300-3400", "--codec", "gsm", "--clip", 2)
    assert (ran.status, ran.out.split()) == (0, ["out.csv"]), ran.err
    assert {row["channel"] for row in fields()} == {"band=300-3400|clip=2|codec=gsm"}
    assert [row["noise"] for row in fields()] == ["pink=0", "pink=1"]
    ran = dpcl("mix", "render", "out.csv", "--root", "corpus", "--out", "audio")
    assert ran.status == 0, ran.err
    assert sorted(path.name for path in Path("audio").iterdir()) == ["mix", "noise", "s1", "s2"]
    assert add("--babble", "other.csv", "--agc", 9, "--rt60", 0.3, 0.4, "--force").status == 0
    for row in fields():
        assert row["noise"].startswith("babble=x/") and 0.3 <= float(row["rt60"]) <= 0.4
        assert row["channel"] == "agc=9"
    assert add("--highpass", 200, "--force").status == 0
    assert {row["channel"] for row in fields()} == {"highpass=200"}
    # z is the only recording of its split.
    assert add("--noise", "corpus/x", "--split", "noise", "--force").status == 0
    assert {row["noise"] for row in fields()} == {"x/z/text-z.wav"}
    before = Path("out.csv").read_bytes()
    for arguments, what in (
        (("--noise", "corpus/x"), "is of a talker of the mixtures"),
        (("--noise", "corpus/x", "--pink"), "a mixture has one noise"),
        (("--babble", "test.csv"), "is also a talker of the mixtures"),
        (("--codec", "amrx"), "'amrx' is no codec"),
        (("--band", "3000"), "'band=3000' is no part of a channel"),
        (("--rt60", 0.05, 0.1), "not all of the rooms can have this RT60"),
    ):
        ran = add(*arguments, "--force")
        assert ran.status == 2 and what in ran.err and ran.err.count("\n") == 1
    assert Path("out.csv").read_bytes() == before
