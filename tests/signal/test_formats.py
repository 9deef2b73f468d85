from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dpcl.errors import InputError
from dpcl.signal.audio import read_audio
from dpcl.signal.formats import is_packed, sphere_fields
from dpcl.signal.reader import AudioReader

WriteSphere = Callable[..., Path]
SAMPLES = np.array([0, 1, -1, 32767, -32768, 256, -257], np.int16)
SHORTENED = "pcm,embedded-shorten-v2.00"


def test_the_header_is_read_until_its_end(write_sphere: WriteSphere, tmp_path: Path) -> None:
    path = write_sphere(tmp_path / "a.wv1", SAMPLES, 8000)
    path.write_bytes(path.read_bytes() + b"\nsample_rate -i 1\n")
    with path.open("rb") as data:
        fields = sphere_fields(data)
    assert fields["sample_rate"] == "8000" and fields["sample_count"] == "7"
    assert not is_packed(fields)


@pytest.mark.parametrize(
    "data", [b"", b"RIFF", b"NIST_1A\n", b"NIST_1A\n   many\n", b"NIST_1A\n9\n"]
)
def test_what_has_no_header_has_no_fields(data: bytes) -> None:
    assert sphere_fields(io.BytesIO(data)) == {}


def test_uncompressed_files_are_read_without_help(
    write_sphere: WriteSphere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    samples, rate = read_audio(write_sphere(tmp_path / "a.wv1", SAMPLES))
    assert rate == 16000
    np.testing.assert_array_equal(samples[0] * 32768, SAMPLES)


@pytest.mark.parametrize("kind", ["path", "bytes", "file object"])
def test_shortened_files_go_through_sph2pipe(
    write_sphere: WriteSphere, sph2pipe: None, tmp_path: Path, kind: str
) -> None:
    path = write_sphere(tmp_path / "a.wv1", SAMPLES, coding=SHORTENED)
    with path.open("rb") as data:
        source = {"path": path, "bytes": path.read_bytes(), "file object": data}[kind]
        with AudioReader(source) as reader:
            assert (reader.sample_rate, reader.frames, reader.channels) == (16000, 7, 1)
            (block,) = reader.blocks(100)
        assert not data.closed
    np.testing.assert_array_equal(block[0] * 32768, SAMPLES)


def test_without_sph2pipe_one_sentence_says_how_to_convert(
    write_sphere: WriteSphere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    path = write_sphere(tmp_path / "a.wv1", SAMPLES, coding=SHORTENED)
    with pytest.raises(InputError, match=r"a\.wv1 .*shorten; install sph2pipe, or .*-f wav IN"):
        read_audio(path)


def test_what_sph2pipe_says_is_passed_on(
    write_sphere: WriteSphere, sph2pipe: None, tmp_path: Path
) -> None:
    path = write_sphere(tmp_path / "a.wv1", SAMPLES, coding="pcm,embedded-wavpack")
    with pytest.raises(
        InputError, match=r"a\.wv1 cannot .* \(it is not shortened\); copy it again"
    ):
        read_audio(path)


def test_a_program_that_cannot_run_is_named(
    write_sphere: WriteSphere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sph2pipe").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "sph2pipe").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    path = write_sphere(tmp_path / "a.wv1", SAMPLES, coding=SHORTENED)
    with pytest.raises(InputError, match=r"a\.wv1 cannot be unpacked by .*sph2pipe \(Exec format"):
        read_audio(path)
