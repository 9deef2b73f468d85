"""wsj0-mix from a tiny WSJ0 of SPHERE files, against samples worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from dpcl.errors import InputError
from dpcl.mixtures.corpus import pack_corpus, read_corpus
from dpcl.mixtures.lists import read_list, write_list
from dpcl.mixtures.render import render_mixture
from dpcl.mixtures.wsj0 import (
    WSJ0,
    ListedMixture,
    check_utterances,
    mix_listed,
    read_levels,
    read_published,
    render_published,
)
from dpcl.signal.level import activlev_db

WriteSphere = Callable[..., Path]
LINE = "wsj0/si_tr_s/40n/40na010x.wav 6.0206 wsj0/si_dt_05/050/050a0501.wav -6.0206"


@pytest.fixture
def discs(tmp_path: Path, write_sphere: WriteSphere) -> Path:
    """Two utterances as on two of the LDC's discs, one in capitals, and a second microphone."""
    root = tmp_path / "LDC93S6A"
    a = [8192, 4096, -4096, 0]
    write_sphere(root / "11-1.1" / "WSJ0" / "SI_TR_S" / "40N" / "40NA010X.WV1", a)
    write_sphere(root / "11-1.1" / "WSJ0" / "SI_TR_S" / "40N" / "40NA010X.WV2", [1])
    b = [1024, -2048, 2048, 4096, 4096, -1024]
    write_sphere(root / "11-6.1" / "wsj0" / "si_dt_05" / "050" / "050a0501.wv1", b)
    doc = root / "11-1.1" / "wsj0" / "doc" / "spkrinfo.txt"
    doc.parent.mkdir(parents=True)
    doc.write_text("; ID SEX\n40N M somewhere\n050 F\n--- - \n")
    return root


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "mix_2_spk_tr.txt").write_text(LINE + "\n")
    (folder / "activlev_tr.txt").write_text("40na010x 0.0625\n050a0501 1.5625e-02\n")
    return folder


@pytest.fixture
def listed(lists: Path) -> ListedMixture:
    (found,) = read_published(lists, "tr", 2)
    return found


def test_a_published_line_is_read_and_named_as_matlab_names_it(listed: ListedMixture) -> None:
    assert listed.gains_db == (6.0206, -6.0206)
    assert listed.name == "40na010x_6.0206_050a0501_-6.0206"
    gains = (0.450124, -0.059714, 0.0, -0.0)
    line = ListedMixture("", ("a/b/x.wav",) * 4, gains)
    assert line.name == "x_0.45012_x_-0.059714_x_0_x_0"


@pytest.mark.parametrize("mode", ["min", "max"])
def test_samples_are_those_worked_out_by_hand(
    discs: Path, lists: Path, listed: ListedMixture, mode: str
) -> None:
    # Levels of 1/16 and 1/64 of power divide by 1/4 and 1/8; the gains double and halve:
    # the first is 8 times its samples, the second 4 times.
    first = np.array([2.0, 1.0, -1.0, 0.0, 0.0, 0.0])
    second = np.array([0.125, -0.25, 0.25, 0.5, 0.5, -0.125])
    length = 4 if mode == "min" else 6
    # Their sum is 2.125 at its loudest, which becomes 0.9.
    expected = np.stack([first, second])[:, :length] * 0.9 / 2.125
    mixture, sources = mix_listed(listed, WSJ0(discs), 16000, mode, read_levels(lists))  # type: ignore[arg-type]
    np.testing.assert_allclose(sources, expected, atol=1e-5)
    np.testing.assert_allclose(mixture, expected.sum(axis=0), atol=1e-5)


def test_a_source_louder_than_the_mixture_sets_the_scale(
    discs: Path, write_sphere: WriteSphere, lists: Path, listed: ListedMixture
) -> None:
    path = discs / "11-6.1" / "wsj0" / "si_dt_05" / "050" / "050a0501.wv1"
    write_sphere(path, [-8192, 0, 0, 0])  # -1 after its level and gain, against 2 of the first
    mixture, sources = mix_listed(listed, WSJ0(discs), 16000, "min", read_levels(lists))
    np.testing.assert_allclose(sources[0], [0.9, 0.45, -0.45, 0], atol=1e-5)
    np.testing.assert_allclose(mixture, [0.45, 0.45, -0.45, 0], atol=1e-5)


@pytest.fixture
def noises(
    tmp_path: Path, write_sphere: WriteSphere
) -> tuple[WSJ0, ListedMixture, list[np.ndarray]]:
    """Two seconds of noise below and above 4 kHz, which have other levels at 8 kHz; odd lengths."""
    rng = np.random.default_rng(0)
    signals = [np.rint(3000 * rng.standard_normal(length)) for length in (32001, 30001)]
    signals[1] = np.rint(np.convolve(signals[1], [0.5, 0.5], "same"))
    for name, signal in zip("ab", signals, strict=True):
        write_sphere(tmp_path / "wsj0" / "si_tr_s" / name / f"{name}1.wv1", signal)
    utterances = ("wsj0/si_tr_s/a/a1.wav", "wsj0/si_tr_s/b/b1.wav")
    return WSJ0(tmp_path / "wsj0"), ListedMixture("", utterances, (1.0, -1.0)), signals


def test_levels_are_those_at_8_khz_at_either_rate(
    noises: tuple[WSJ0, ListedMixture, list[np.ndarray]],
) -> None:
    copy, listed, signals = noises
    narrow = [resample_poly(signal / 32768, 1, 2) for signal in signals]
    gains = [
        10 ** ((gain - activlev_db(x, 8000)) / 20)
        for x, gain in zip(narrow, (1.0, -1.0), strict=True)
    ]
    for rate, inputs in ((8000, narrow), (16000, [signal / 32768 for signal in signals])):
        mixture, sources = mix_listed(listed, copy, rate, "max")
        assert sources.shape == (2, 16001 if rate == 8000 else 32001)
        for source, x, gain in zip(sources, inputs, gains, strict=True):
            scale = source[: len(x)] @ x / (x @ x)
            np.testing.assert_allclose(source[: len(x)], scale * x, atol=1e-6)
            assert scale / gain == pytest.approx(0.9 / np.abs(mixture * gain / scale).max())
        assert np.abs(mixture).max() == pytest.approx(0.9)
    minimum, _ = mix_listed(listed, copy, 8000, "min")
    assert len(minimum) == 15001


def test_what_is_rendered_is_a_list_too(
    discs: Path, lists: Path, listed: ListedMixture, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    rows = render_published([listed], WSJ0(discs), out, "tr", 16000, "min", read_levels(lists))
    name = "40na010x_6.0206_050a0501_-6.0206.wav"
    mix, s1, s2 = (
        soundfile.read(out / "tr" / folder / name, dtype="int16")[0]
        for folder in ("mix", "s1", "s2")
    )
    # round(32768 * 0.9 * x / 2.125) of the samples above
    np.testing.assert_array_equal(s1, [27756, 13878, -13878, 0])
    np.testing.assert_array_equal(s2, [1735, -3470, 3470, 6939])
    np.testing.assert_array_equal(mix, [29491, 10409, -10409, 6939])
    write_list(rows, out / "tr.csv")
    (row,) = read_list(out / "tr.csv")
    assert row == rows[0]
    assert [source.speaker for source in row.sources] == ["40n", "050"]
    assert row.genders == "different" and row.list == "tr"
    mixture, sources = render_mixture(row, out, 16000)
    np.testing.assert_array_equal(mixture * 32768, mix)
    np.testing.assert_array_equal(sources * 32768, [s1, s2])


def test_a_converted_copy_is_preferred_and_found_below_its_parent(
    tmp_path: Path, write_sphere: WriteSphere
) -> None:
    path = write_sphere(tmp_path / "si_tr_s" / "40n" / "40na010x.wv1", [1, 2])
    assert WSJ0(tmp_path).find("wsj0/si_tr_s/40n/40na010x.wav") == path
    soundfile.write(path.with_suffix(".wav"), np.zeros(4), 16000)
    assert WSJ0(tmp_path).find("wsj0/si_tr_s/40n/40na010x.wav") == path.with_suffix(".wav")


@pytest.mark.parametrize(
    "line",
    [LINE.rsplit(" ", 1)[0], LINE + " x 1", LINE.replace("-6.0206", "loud"), LINE[:-7] + " nan"],
)
def test_a_wrong_line_is_named(lists: Path, line: str) -> None:
    (lists / "mix_2_spk_tr.txt").write_text(f"{LINE}\n{line}\n")
    with pytest.raises(InputError, match=r"mix_2_spk_tr\.txt line 2 is not 2 times a path and"):
        read_published(lists, "tr", 2)


def test_a_mixture_that_is_listed_twice_is_named(lists: Path) -> None:
    (lists / "mix_2_spk_tr.txt").write_text(f"{LINE}\n\n{LINE}\n")
    with pytest.raises(InputError, match=r"mix_2_spk_tr\.txt line 3 lists 40na010x_6\.0206_050a"):
        read_published(lists, "tr", 2)


@pytest.mark.parametrize("line", ["050a0501", "050a0501 loud", "050a0501 0", "050a0501 -1"])
def test_a_level_that_is_none_is_named(lists: Path, line: str) -> None:
    (lists / "activlev_tr.txt").write_text(f"40na010x 0.0625\n{line}\n")
    with pytest.raises(InputError, match=r"activlev_tr\.txt line 2 is no name and power"):
        read_levels(lists)


def test_missing_lists_levels_and_utterances_are_named(
    discs: Path, lists: Path, listed: ListedMixture, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"mix_3_spk_tt\.txt cannot be read"):
        read_published(lists, "tt", 3)
    (lists / "mix_2_spk_tt.txt").touch()
    with pytest.raises(InputError, match="lists no mixtures"):
        read_published(lists, "tt", 2)
    with pytest.raises(InputError, match=r"has no activlev\*\.txt"):
        read_levels(discs)
    with pytest.raises(InputError, match="give your copy of WSJ0"):
        WSJ0(tmp_path / "none")
    copy = WSJ0(discs)
    check_utterances([listed], copy)
    gone = ListedMixture("LIST line 7", ("wsj0/si_et_05/440/440c0201.wav",), (0.0,))
    with pytest.raises(InputError, match=r"LIST line 7: .* has no wsj0/si_et_05/440/440c0201\.wav"):
        check_utterances([listed, gone], copy)


@pytest.mark.parametrize(
    ("samples", "rate", "what"), [([0] * 99, 16000, "silent"), ([9], 8000, "16000")]
)
def test_silent_and_converted_utterances_are_refused(
    discs: Path,
    write_sphere: WriteSphere,
    listed: ListedMixture,
    samples: list[int],
    rate: int,
    what: str,
) -> None:
    write_sphere(discs / "11-6.1" / "wsj0" / "si_dt_05" / "050" / "050a0501.wv1", samples, rate)
    with pytest.raises(InputError, match=rf"050a0501\.wv1 .*{what}"):
        mix_listed(listed, WSJ0(discs), 8000, "max")


def test_a_part_of_wsj0_is_a_corpus_of_a_folder_per_speaker(
    tmp_path: Path, write_sphere: WriteSphere, sph2pipe: None
) -> None:
    part = tmp_path / "si_tr_s"
    write_sphere(part / "01t" / "01to030v.wv1", 1000 * np.ones(1600))
    coding = "pcm,embedded-shorten-v2.00"
    write_sphere(part / "02d" / "02do030w.wv1", -1000 * np.ones(3200), coding=coding)
    corpus = read_corpus(part)
    assert [(u.speaker, u.seconds) for u in corpus.utterances] == [("01t", 0.1), ("02d", 0.2)]
    packed = pack_corpus(corpus, 16000, tmp_path / "cache")
    assert packed.offsets.tolist() == [0, 1600, 4800]
    assert packed.samples[0] == -packed.samples[-1] == round(0.9 * 32768)


def test_a_shortened_file_without_a_rate_is_no_audio(
    tmp_path: Path, write_sphere: WriteSphere
) -> None:
    write_sphere(tmp_path / "01t" / "a.wv1", [1], rate=0, coding="pcm,embedded-shorten-v2.00")
    with pytest.raises(InputError, match=r"a\.wv1 cannot be read as audio"):
        read_corpus(tmp_path)
