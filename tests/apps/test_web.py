"""The page in the browser: what its button does, and the server that shows it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dpcl.apps.web import MOST_SOURCES, separated

gradio = pytest.importorskip("gradio")


MakeRecording = Callable[..., Path]
Program = Callable[..., Any]


def shown(results: list[Any]) -> tuple[str, list[Path]]:
    """What is said, and the files of the players that are to be seen."""
    told, *players = results
    assert len(players) == MOST_SOURCES + 1  # the last is of the background
    return told, [Path(player.value["path"]) for player in players if player.visible]


@pytest.mark.parametrize("number", [1, 3])
def test_a_press_of_the_button_shows_a_player_for_each_source(
    number: int, make_recording: MakeRecording, tiny_model: Path
) -> None:
    recording = make_recording("talk.wav", seconds=1.0)
    moved: list[tuple[float, str]] = []
    pressed = separated(
        str(recording), number, str(tiny_model), lambda share, desc: moved.append((share, desc))
    )
    told, paths = shown(next(pressed))
    assert told.startswith(f"{number} source{'s' if number > 1 else ''} in 1.0 s, separated in ")
    assert [path.name for path in paths] == [f"talk_s{k}.wav" for k in range(1, number + 1)]
    mixture, rate = soundfile.read(recording)
    sources = [soundfile.read(path) for path in paths]
    assert {of for _, of in sources} == {rate}
    assert np.abs(sum(samples for samples, _ in sources) - mixture).max() < 1e-3
    assert moved[-1] == (1.0, "1 of 1 s")


def test_the_background_is_no_source(make_recording: MakeRecording, background_model: Path) -> None:
    told, *players = next(separated(str(make_recording()), 2, str(background_model)))
    assert told.startswith("2 sources in")
    assert [player.visible for player in players] == [True] * 2 + [False] * (MOST_SOURCES - 2) + [
        True
    ]
    assert Path(players[-1].value["path"]).name.endswith("_background.wav")


def test_what_was_written_goes_when_the_page_has_it(
    make_recording: MakeRecording, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (folder / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder / "tmp"))
    pressed = separated(str(make_recording()), 2, str(tiny_model), lambda *_, **__: None)
    next(pressed)
    assert len([*folder.glob("tmp/dpcl-web-*/*.wav")]) == 2
    assert list(pressed) == []
    assert [*folder.glob("tmp/dpcl-web-*")] == []


def test_warnings_are_told(make_recording: MakeRecording, tiny_model: Path) -> None:
    recording = make_recording("cut.wav", seconds=1.0)
    recording.write_bytes(recording.read_bytes()[:-3000])
    pressed = separated(str(recording), 2, str(tiny_model), lambda *_, **__: None)
    told, _ = shown(next(pressed))
    assert "cut off" in told and str(recording.parent) not in told


def test_wrong_input_is_one_sentence_that_does_not_tell_where_the_server_keeps_it(
    folder: Path, tiny_model: Path
) -> None:
    with pytest.raises(gradio.Error, match="no recording yet"):
        next(separated(None, 2, str(tiny_model)))
    path = folder / "hello.wav"
    path.write_text("hello\n" * 99)
    with pytest.raises(gradio.Error, match="cannot be read as audio") as caught:
        next(separated(str(path), 2, str(tiny_model)))
    assert caught.value.message.startswith("hello.wav cannot")


def test_an_address_that_is_taken_is_told(dpcl: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ran = dpcl("web", "--no-browser", "--port", port)
    assert ran.status == 2 and f"127.0.0.1:{port} cannot be used" in ran.err
    ran = dpcl("web", "--no-browser", "--host", "no.such.host.invalid")
    assert ran.status == 2 and "no.such.host.invalid:7860 cannot be used" in ran.err


def test_without_gradio_it_says_what_to_install(
    dpcl: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    ran = dpcl("web")
    assert ran.status == 2 and 'pip install "dpcl[web]"' in " ".join(ran.err.split())


def test_the_page_is_served_and_separates(make_recording: MakeRecording, folder: Path) -> None:
    from gradio_client import Client, handle_file

    recording = make_recording("talk.wav", seconds=1.0)
    command = [sys.executable, "-m", "dpcl", "web", "--no-browser", "--port", "0"]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "kept")}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as server:  # tests that run in the background ignore Ctrl-C, and so would what they start
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            client = Client(address, verbose=False, analytics_enabled=False)
            told, *players = client.predict(
                handle_file(str(recording)), 2, "default", api_name="/separate"
            )
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=60) == 0
        finally:
            server.kill()
    assert address.startswith("http://127.0.0.1:")
    assert told.startswith("2 sources in 1.0 s")
    names = [Path(player["value"]).name for player in players if player["visible"]]
    assert names == ["talk_s1.wav", "talk_s2.wav"]
