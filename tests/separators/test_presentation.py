"""A separation as people see it: one line, a page in a notebook, files."""

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
import torch

import dpcl
from dpcl.errors import InputError
from dpcl.separators import presentation

RATE = 8000


def separation(channels: int | None = None, background: bool = True) -> dpcl.Separation:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 4000) if channels is None else (2, channels, 4000)
    sources = 0.3 * torch.rand(shape, generator=generator) - 0.15
    return dpcl.Separation(sources, background=sources[0] if background else None, sample_rate=RATE)


def test_the_text_is_one_short_line() -> None:
    assert repr(separation()) == "Separation(2 sources, 0.50 s at 8000 Hz, background)"
    assert repr(separation(2, False)) == "Separation(2 sources, 0.50 s at 8000 Hz, 2 channels)"
    assert repr(dpcl.Separation(torch.zeros(3, 2, 8))) == "Separation(sources of shape (3, 2, 8))"


@pytest.mark.parametrize("channels", [None, 2])
def test_the_page_has_a_player_a_waveform_and_a_picture_of_each_signal(
    channels: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = separation(channels)
    page = shown._repr_html_()
    assert page is not None
    ElementTree.fromstring(page.replace(" controls", ' controls=""'))  # every tag is closed
    names = re.findall("<b>(.*?)</b>", page)
    assert names == ["Mixture", "Source 1", "Source 2", "Background"]
    sounds = re.findall('<audio.*?src="data:audio/flac;base64,(.*?)"', page)
    decoded = [soundfile.read(io.BytesIO(base64.b64decode(sound)))[0] for sound in sounds]
    assert len(decoded) == 4
    np.testing.assert_allclose(sum(decoded[1:]), decoded[0], atol=1e-4)
    assert page.count("<path d=") == 4
    assert page.count("data:image/png;base64,") == 4
    monkeypatch.setattr(presentation, "PLAYED", 0.25)
    monkeypatch.setitem(sys.modules, "matplotlib.image", None)
    page = shown._repr_html_()
    assert page is not None
    assert "players hold the first" in page and "image/png" not in page
    sound = re.findall('<audio.*?src="data:audio/flac;base64,(.*?)"', page)[0]
    assert len(soundfile.read(io.BytesIO(base64.b64decode(sound)))[0]) == 2000


def test_very_short_and_silent_signals_have_a_page() -> None:
    page = dpcl.Separation(torch.zeros(1, 3), sample_rate=RATE)._repr_html_()
    assert page is not None and "Source 1" in page


def test_files_sum_to_the_recording_and_none_is_overwritten(tmp_path: Path) -> None:
    shown = separation(2)
    paths = shown.to_files(tmp_path / "new", "talk", "flac")
    assert [path.name for path in paths] == ["talk_s1.flac", "talk_s2.flac", "talk_background.flac"]
    read = [soundfile.read(path) for path in paths]
    assert {rate for _, rate in read} == {RATE}
    np.testing.assert_allclose(read[0][0].T, shown.sources[0], atol=1e-6)
    with pytest.raises(InputError, match=r"talk_s1.flac: exists; add --force"):
        shown.to_files(tmp_path / "new", "talk", "flac")
    assert shown.to_files(tmp_path / "new", "talk", "flac", force=True) == paths
    assert len(list((tmp_path / "new").iterdir())) == 3
    with pytest.raises(InputError, match="a batch has no files"):
        dpcl.Separation(torch.zeros(3, 2, 8)).to_files(tmp_path)
