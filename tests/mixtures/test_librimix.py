"""LibriMix from a tiny LibriSpeech, against samples worked out by hand and the script's own way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from dpcl.errors import InputError
from dpcl.mixtures.librimix import (
    MetadataRow,
    check_metadata,
    mix_metadata,
    read_metadata,
    render_metadata,
)
from dpcl.mixtures.lists import read_list
from dpcl.mixtures.render import render_mixture

HEADER = "mixture_ID,source_1_path,source_1_gain,source_2_path,source_2_gain,noise_path,noise_gain"
LINE = "1-2-0_3-4-0,test-clean/1/2/1-2-0.flac,0.5,test-clean/3/4/3-4-0.flac,2.0,tt/n.wav,0.25"


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    """Two utterances of 4 and 6 samples."""
    root = tmp_path / "LibriSpeech"
    for name, samples in (("1/2/1-2-0", [0.5, 0.25, -0.5, 0]), ("3/4/3-4-0", [0.125] * 6)):
        path = root / "test-clean" / f"{name}.flac"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.array(samples), 16000)
    (root / "SPEAKERS.TXT").write_text(
        ";ID  |SEX| SUBSET |\n1 | F | test-clean | 8 | A\n3|M|x|8|B\n"
    )
    return root


@pytest.fixture
def wham(tmp_path: Path) -> Path:
    """Noise in the first of two channels, longer than the utterances."""
    (tmp_path / "wham_noise" / "tt").mkdir(parents=True)
    noise = np.stack([np.full(9, 0.5), np.full(9, -0.5)], axis=1)
    soundfile.write(tmp_path / "wham_noise" / "tt" / "n.wav", noise, 16000)
    return tmp_path / "wham_noise"


@pytest.fixture
def row(tmp_path: Path) -> MetadataRow:
    (tmp_path / "libri2mix_test-clean.csv").write_text(f"{HEADER}\n{LINE}\n")
    (found,) = read_metadata(tmp_path / "libri2mix_test-clean.csv")
    return found


FIRST, SECOND = [0.25, 0.125, -0.25, 0, 0, 0], [0.25] * 6


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("kind", ["clean", "both", "single"])
def test_samples_are_those_worked_out_by_hand(
    librispeech: Path, wham: Path, row: MetadataRow, mode: Any, kind: Any
) -> None:
    mixture, sources, noise = mix_metadata(row, librispeech, wham, 16000, mode, kind)
    length = 4 if mode == "min" else 6
    talkers = np.array([FIRST] if kind == "single" else [FIRST, SECOND])[:, :length]
    np.testing.assert_allclose(sources, talkers, atol=1e-4)
    noisy = 0.0 if kind == "clean" else 0.125
    np.testing.assert_allclose(mixture, talkers.sum(axis=0) + noisy, atol=1e-4)
    if kind == "clean":
        assert noise is None
    else:
        np.testing.assert_allclose(noise, np.full(length, 0.125), atol=1e-4)


def test_short_noise_goes_on_as_in_the_script(
    librispeech: Path, wham: Path, row: MetadataRow
) -> None:
    """extend_noise of create_librimix_from_metadata.py, step by step; then 8 kHz."""
    rng = np.random.default_rng(0)
    short = 0.1 * rng.standard_normal(20000)
    soundfile.write(wham / "tt" / "n.wav", short, 16000, "FLOAT")
    soundfile.write(librispeech / "test-clean/3/4/3-4-0.flac", np.zeros(50000), 16000)
    _, sources, noise = mix_metadata(row, librispeech, wham, 8000, "max", "both")
    assert sources.shape == (2, 25000)
    short = short.astype(np.float32)
    window = np.hanning(16001)
    rise, fall = window[:8001], window[8000::-1]
    longer = short
    while len(longer) < 50000:
        crossed = longer[-8001:] * fall + short[:8001] * rise
        longer = np.concatenate([longer[:-8001], crossed, short[8001:]])
    expected = resample_poly(0.25 * longer[:50000], 1, 2)
    assert noise is not None
    np.testing.assert_allclose(noise, expected, atol=1e-7)


def test_what_is_rendered_is_a_list_too(
    librispeech: Path, wham: Path, row: MetadataRow, tmp_path: Path
) -> None:
    out = tmp_path / "test"
    rows = render_metadata([row], librispeech, wham, out, 16000, "max", "both")
    assert sorted(path.name for path in out.iterdir()) == ["mix_both", "noise", "s1", "s2"]
    assert rows[0].genders == "different"
    assert [source.speaker for source in rows[0].sources] == ["1", "3"]
    assert rows[0].seconds == 0.0004  # 6 samples, to 0.1 ms
    (found,) = read_list(out / "mix_both")
    assert (found.id, found.mixture) == (row.name, rows[0].mixture)
    mixture, sources = render_mixture(found, out, 16000)
    np.testing.assert_allclose(sources, [FIRST, SECOND], atol=1e-4)
    np.testing.assert_allclose(mixture, np.add(FIRST, SECOND) + 0.125, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f"{HEADER}\n{LINE}\n{LINE.replace('2.0', 'loud')}\n", "row 3 lacks a name, path or gain"),
        (f"{HEADER}\n{LINE.replace('1-2-0_', '../')}\n", "row 2 lacks a name"),
        (f"{HEADER}\n{LINE.rsplit(',', 1)[0]}\n", "row 2 lacks a name, path or gain"),
        (f"{HEADER}\n{LINE}\n{LINE}\n", "row 3 repeats 1-2-0_3-4-0"),
        (f"{HEADER}\n", "lists no mixtures"),
        ("mixture_ID,source_1_path\n", "it has no column source_1_gain"),
        (HEADER.replace("noise_gain", "noise") + f"\n{LINE}\n", "it has no column noise_gain"),
    ],
)
def test_what_is_wrong_is_named(text: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "libri2mix.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=what):
        read_metadata(path)


def test_missing_and_converted_files_are_named(
    librispeech: Path, wham: Path, row: MetadataRow, tmp_path: Path
) -> None:
    check_metadata([row], librispeech, wham)
    (wham / "tt" / "n.wav").unlink()
    check_metadata([row], librispeech, None)
    with pytest.raises(InputError, match=r"row 2: .*n\.wav does not exist"):
        check_metadata([row], librispeech, wham)
    with pytest.raises(InputError, match=r"row 2: .*1-2-0\.flac does not exist"):
        check_metadata([row], tmp_path, None)
    soundfile.write(librispeech / row.paths[1], np.ones(9), 8000)
    with pytest.raises(InputError, match="at 8000 Hz, where LibriMix needs 16000"):
        mix_metadata(row, librispeech, None, 8000, "min", "clean")
