from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dpcl.errors import InputError
from dpcl.mixtures.lists import read_list, write_list
from dpcl.mixtures.noise import add_noise, draw_noise
from dpcl.mixtures.render import check_files, render_list, render_mixture
from dpcl.mixtures.rows import MixtureRow, NoiseRow, SourceRow
from dpcl.signal.level import active_level_db


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two talkers of 2 s and noises of 0.5, 3 and 4 s, a ramp each so that a sample says when."""
    rng = np.random.default_rng(0)
    root = tmp_path / "corpus"
    (root / "noise" / "deep").mkdir(parents=True)
    for name in ("a", "b"):
        soundfile.write(root / f"{name}.wav", 0.1 * rng.standard_normal(16000), 8000)
    for name, seconds in (("noise/0", 0.5), ("noise/1", 3.0), ("noise/deep/2", 4.0)):
        ramp = (np.arange(round(seconds * 8000)) + 800) / 64000
        soundfile.write(root / f"{name}.wav", ramp, 8000, "FLOAT")
    return root


@pytest.fixture
def rows() -> list[MixtureRow]:
    sources = (SourceRow("a", ("a.wav",), 0.0, 1.0), SourceRow("b", ("b.wav",), 0.0, -1.0))
    row = MixtureRow("m1", "m", 0, 2.0, "within", "same", sources)
    return [replace(row, id=f"m{k}") for k in range(30)]


def test_noises_are_drawn_evenly_and_the_same_again(root: Path, rows: list[MixtureRow]) -> None:
    noisy = draw_noise(rows, root / "noise", root, 3, (0.0, 10.0))
    assert noisy == draw_noise(rows, root / "noise", root, 3, (0.0, 10.0))
    assert noisy != draw_noise(rows, root / "noise", root, 4, (0.0, 10.0))
    assert [replace(row, noise=None) for row in noisy] == rows
    noises = [row.noise for row in noisy if row.noise]
    used = {noise.path for noise in noises}
    assert used == {"noise/0.wav", "noise/1.wav", "noise/deep/2.wav"}
    assert all(sum(noise.path == path for noise in noises) == 10 for path in used)
    latest = {"noise/0.wav": 0.0, "noise/1.wav": 1.0, "noise/deep/2.wav": 2.0}
    assert all(0.0 <= noise.start <= latest[noise.path] for noise in noises)
    assert max(noise.start for noise in noises) > 1.0
    ratios = [noise.snr_db for noise in noises]
    assert 0.0 <= min(ratios) < 2.0 and 8.0 < max(ratios) <= 10.0


def test_noise_may_be_a_link_into_the_corpus_and_hidden_files_are_none(
    root: Path, rows: list[MixtureRow], tmp_path: Path
) -> None:
    (root / "noise").rename(tmp_path / "wham")
    (tmp_path / "wham" / "._0.wav").write_bytes(b"what a Mac leaves behind")
    (root / "noise").symlink_to(tmp_path / "wham")
    noisy = draw_noise(rows, root / "noise", root, 0)
    check_files(noisy, root)
    used = {row.noise.path for row in noisy if row.noise}
    assert used == {"noise/0.wav", "noise/1.wav", "noise/deep/2.wav"}


def test_a_noisy_list_comes_back_and_is_rendered(
    root: Path, rows: list[MixtureRow], tmp_path: Path
) -> None:
    noisy = [
        replace(rows[0], noise=NoiseRow("noise/deep/2.wav", 1.5, 4.0)),
        replace(rows[1], noise=NoiseRow("noise/0.wav", 0.0, -6.0)),
        rows[2],
    ]
    write_list(noisy, tmp_path / "m.csv")
    assert read_list(tmp_path / "m.csv") == noisy
    mixture, references = render_mixture(noisy[0], root, 8000)
    noise = mixture - references.sum(axis=0)
    # The louder of the two by 2 dB, 4 dB above the noise's power.
    level = 10 * np.log10(np.mean(noise.astype(np.float64) ** 2))
    assert active_level_db(references[0], 8000) - level == pytest.approx(4.0, abs=0.01)
    assert active_level_db(references[1], 8000) - level == pytest.approx(2.0, abs=0.2)
    # From 1.5 s on the ramp goes from 12800 to 28799 steps.
    assert noise[0] / noise[-1] == pytest.approx(12800 / 28799, abs=1e-3)
    peak = max(np.abs(mixture).max(), np.abs(noise).max(), np.abs(references).max())
    assert peak == pytest.approx(0.9, abs=1e-5)

    render_list(noisy, root, tmp_path / "out", 8000)
    for name, kinds in (("m0", ("s1", "s2", "noise")), ("m1", ("s1", "s2", "noise"))):
        parts = [soundfile.read(tmp_path / "out" / k / f"{name}.wav", dtype="int16") for k in kinds]
        mixed, _ = soundfile.read(tmp_path / "out" / "mix" / f"{name}.wav", dtype="int16")
        np.testing.assert_array_equal(sum(part for part, _ in parts), mixed)
    assert not (tmp_path / "out" / "noise" / "m2.wav").exists()


def test_short_noise_goes_on_without_a_click() -> None:
    rng = np.random.default_rng(0)
    sources = rng.standard_normal((1, 40000)).astype(np.float32)
    noise = np.full(6000, 0.5, np.float32)
    together = add_noise(sources, noise, 0.0, 8000)
    assert together.shape == (2, 40000)
    # Two halves of a Hann window add up to one.
    assert np.ptp(together[1]) < 1e-3 * together[1].max()
    for length in (1, 2, 3):
        assert np.ptp(add_noise(sources, noise[:length], 0.0, 8000)[1]) < 1e-3


def test_wrong_noise_is_named(root: Path, rows: list[MixtureRow], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(InputError, match="lies outside of"):
        draw_noise(rows, tmp_path / "elsewhere", root, 0)
    (root / "empty").mkdir()
    with pytest.raises(InputError, match="holds no recordings"):
        draw_noise(rows, root / "empty", root, 0)
    with pytest.raises(InputError, match=r"cannot lie 3\.0 to 1\.0 dB"):
        draw_noise(rows, root / "noise", root, 0, (3.0, 1.0))
    rendered = [replace(rows[0], mixture="mix/m.wav")]
    with pytest.raises(InputError, match="mixture m0 of list m is rendered"):
        draw_noise(rendered, root / "noise", root, 0)
    noisy = replace(rows[0], noise=NoiseRow("noise/1.wav", 3.0, 0.0))
    with pytest.raises(InputError, match=r"mixture m0 of list m: noise/1\.wav: .*ends before"):
        render_mixture(noisy, root, 8000)
    soundfile.write(root / "noise" / "1.wav", np.zeros(32000), 8000)
    with pytest.raises(InputError, match=r"mixture m0 of list m: noise/1\.wav: .*silent"):
        render_mixture(noisy, root, 8000)
    (root / "noise" / "1.wav").unlink()
    with pytest.raises(InputError, match=r"mixture m0 of list m: .*1\.wav does not exist"):
        check_files([noisy], root)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("noise", "/etc/noise.wav"),
        ("noise", "a.wav|b.wav"),
        ("noise_start", "-1"),
        ("noise_start", ""),
        ("snr_db", "inf"),
    ],
)
def test_a_wrong_field_is_named(
    rows: list[MixtureRow], tmp_path: Path, column: str, value: str
) -> None:
    write_list([replace(rows[0], noise=NoiseRow("n.wav", 7.5, 8.25))], tmp_path / "m.csv")
    known = {"noise": "n.wav", "noise_start": "7.5", "snr_db": "8.25"}
    text = (tmp_path / "m.csv").read_text()
    (tmp_path / "m.csv").write_text(text.replace(known[column], value))
    with pytest.raises(InputError, match=rf"row 2, column {column}: "):
        read_list(tmp_path / "m.csv")
