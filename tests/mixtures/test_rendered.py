from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dpcl.errors import InputError
from dpcl.mixtures.lists import read_list, rendered_root
from dpcl.mixtures.render import check_files, render_list, render_mixture


def write(path: Path, value: float, samples: int = 80, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(samples, value), rate)


@pytest.fixture
def tt(tmp_path: Path) -> Path:
    """A mixture with noise: 0.25 + 0.125 and 0.0625 that is no source."""
    for folder, value in (("mix", 0.4375), ("s1", 0.25), ("s2", 0.125)):
        write(tmp_path / "tt" / folder / "b_1_c_-1.wav", value)
        write(tmp_path / "tt" / folder / "a.wav", -value)
    (tmp_path / "tt" / "mix" / "notes.txt").touch()
    return tmp_path / "tt"


def test_a_folder_is_a_list_of_what_it_holds_as_it_is(tt: Path) -> None:
    rows = read_list(tt)
    assert [row.id for row in rows] == ["a", "b_1_c_-1"]
    assert [(row.list, row.seconds, row.genders) for row in rows] == [("tt", 0.01, "unknown")] * 2
    assert rendered_root(tt, rows) == tt
    check_files(rows, tt)
    mixture, sources = render_mixture(rows[1], tt, 8000)
    np.testing.assert_array_equal(mixture, np.full(80, 0.4375))
    np.testing.assert_array_equal(sources, np.stack([np.full(80, 0.25), np.full(80, 0.125)]))
    assert render_mixture(rows[1], tt, 16000)[1].shape == (2, 160)


def test_rendering_again_copies(tt: Path, tmp_path: Path) -> None:
    render_list(read_list(tt), tt, tmp_path / "out", 8000)
    for path in tt.rglob("*.wav"):
        again = tmp_path / "out" / path.relative_to(tt)
        np.testing.assert_array_equal(soundfile.read(path)[0], soundfile.read(again)[0])


@pytest.mark.parametrize(
    ("mixtures", "folders", "expected"),
    [
        ("mix_both", ("s1", "s2", "s3", "noise"), ["s1", "s2", "s3"]),
        ("mix_single", ("s1", "s2"), ["s1"]),
        ("mix_both_reverb", ("s1_reverb", "s2_reverb", "s1_anechoic"), ["s1_reverb", "s2_reverb"]),
    ],
)
def test_of_several_kinds_of_mixtures_one_is_chosen(
    tmp_path: Path, mixtures: str, folders: tuple[str, ...], expected: list[str]
) -> None:
    for folder in ("mix_clean", mixtures, *folders):
        write(tmp_path / "test" / folder / "a.wav", 0.1)
    (row,) = rows = read_list(tmp_path / "test" / mixtures)
    assert [source.paths for source in row.sources] == [(f"{name}/a.wav",) for name in expected]
    assert row.mixture == f"{mixtures}/a.wav"
    assert rendered_root(tmp_path / "test" / mixtures, rows) == tmp_path / "test"
    with pytest.raises(InputError, match=rf"no folder .*; give one of its .*{mixtures}"):
        read_list(tmp_path / "test")


def test_the_folder_may_be_called_mixtures_or_be_the_current_one(
    tt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixtures = tt.rename(tmp_path / "mixtures")
    expected = read_list(mixtures)
    assert rendered_root(mixtures, expected) == mixtures and expected[0].mixture == "mix/a.wav"
    monkeypatch.chdir(mixtures / "mix")
    for path in (mixtures / "mix", Path(), Path("..")):
        assert read_list(path) == expected
        assert rendered_root(path, expected) == mixtures


def test_what_does_not_belong_together_is_named(tt: Path) -> None:
    rows = read_list(tt)
    write(tt / "s2" / "a.wav", 0.1, 81)
    with pytest.raises(
        InputError, match=r"mixture a of list tt: .*s2/a\.wav has 81 samples at 8000"
    ):
        render_mixture(rows[0], tt, 8000)
    write(tt / "s2" / "a.wav", 0.1, 80, 16000)
    with pytest.raises(InputError, match=r"s2/a\.wav has 80 samples at 16000 Hz, .* at 8000 Hz"):
        render_mixture(rows[0], tt, 8000)
    soundfile.write(tt / "s2" / "a.wav", np.zeros((80, 2)), 8000)
    with pytest.raises(InputError, match=r"s2/a\.wav has 2 channels"):
        render_mixture(rows[0], tt, 8000)
    (tt / "s2" / "a.wav").unlink()
    with pytest.raises(InputError, match=r"mix/a\.wav has no source .*s2/a\.wav"):
        read_list(tt)
    (tt / "mix" / "a.wav").unlink()
    with pytest.raises(InputError, match=r"mixture a of list tt: .*mix/a\.wav does not exist"):
        check_files([replace(rows[0], sources=())], tt)
    for path in (tt / "mix").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="holds no audio"):
        read_list(tt)
