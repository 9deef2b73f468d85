from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dpcl.errors import InputError
from dpcl.signal.audio import Part, parse_part, read_part


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("a/b.wav", Part(Path("r/a/b.wav"))),
        ("a/b.wav#t=1.5,4", Part(Path("r/a/b.wav"), 1.5, 2.5)),
        ("b.wav#t=0,0.25&channel=1", Part(Path("r/b.wav"), 0.0, 0.25, 1)),
        ("b.wav#t=0.000001,100000", Part(Path("r/b.wav"), 1e-6, 99999.999999)),
        ("take #t=1.wav", Part(Path("r/take #t=1.wav"))),
    ],
)
def test_names_are_read_as_they_are_written(name: str, part: Part) -> None:
    assert part.name(Path("r")) == name
    found = parse_part(name, "r")
    assert (found.path, found.start, found.channel) == (part.path, part.start, part.channel)
    assert found.seconds == pytest.approx(part.seconds)


@pytest.mark.parametrize("name", ["a.wav#t=2,2", "a.wav#t=2,1", "a.wav#t=1.2.3,4"])
def test_a_stretch_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        parse_part(name)


def test_the_stretch_of_the_channel_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    left, right = np.arange(8000) / 8000, -np.arange(8000) / 16000
    soundfile.write(path, np.stack([left, right], axis=1), 8000, "FLOAT")
    for channel, expected in ((0, left), (1, right), (None, (left + right) / 2)):
        found = read_part(Part(path, 0.25, 0.5, channel), 8000)
        np.testing.assert_allclose(found, expected[2000:6000], atol=1e-6)
    assert len(read_part(Part(path), 16000)) == 16000
    # 1 s less a tenth of a sample begins at sample 1 and would end at sample 8001
    assert len(read_part(Part(path, 0.0000625001, 0.99999), 8000)) == 7999
    with pytest.raises(InputError, match=r"no part from 0\.500 s to 1\.100 s"):
        read_part(Part(path, 0.5, 0.6), 8000)
    with pytest.raises(InputError, match="2 channels, but no channel 2"):
        read_part(Part(path, 0.0, 0.6, 2), 8000)


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for value, time in ((0.25, 1), (0.5, 2)):
        soundfile.write(path, np.full(80, value), 8000)

        os.utime(path, ns=(time, time))
        np.testing.assert_array_equal(read_part(Part(path, 0.0, 0.005), 8000), np.full(40, value))
