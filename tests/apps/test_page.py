"""The page in headless Chromium: upload, play, solo, save, cancel, close; accessibility."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

import dpcl as package
from dpcl.apps.jobs import PREFIX

aiohttp = pytest.importorskip("aiohttp")
MakeRecording = Callable[..., Path]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


class Tab:
    """A tab of Chromium, driven by its protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.number = socket, 0
        self.answers: dict[int, asyncio.Future[Any]] = {}
        self.events: list[Any] = []

    async def read(self) -> None:
        async for message in self.socket:
            found = message.json()
            if found.get("id") in self.answers:
                self.answers.pop(found["id"]).set_result(found)
            else:
                self.events.append(found)

    async def call(self, method: str, **parameters: Any) -> Any:
        self.number += 1
        answer = self.answers[self.number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        return (await asyncio.wait_for(answer, 60)).get("result", {})

    async def run(self, script: str) -> Any:
        found = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        return found["result"].get("value")

    async def until(self, script: str) -> None:
        end = time.monotonic() + 200
        while not await self.run(f"Boolean(document.body && ({script}))"):
            assert time.monotonic() < end, script
            await asyncio.sleep(0.05)

    async def choose(self, path: Path, selector: str = "#file") -> None:
        document = await self.call("DOM.getDocument")
        root = document["root"]["nodeId"]
        field = await self.call("DOM.querySelector", nodeId=root, selector=selector)
        await self.call("DOM.setFileInputFiles", nodeId=field["nodeId"], files=[str(path)])


SAYS = "document.getElementById('message').textContent"
TRACKS = "[...document.querySelectorAll('source-track')]"


@asynccontextmanager
async def opened(address: str, port: str) -> AsyncIterator[Tab]:
    async with aiohttp.ClientSession() as session:
        async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
            target = await answer.json()
        tab = Tab(await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0))
        reading = asyncio.create_task(tab.read())
        for domain in ("Page", "Runtime", "Network", "Log"):
            await tab.call(f"{domain}.enable")
        await tab.call("Page.navigate", url=address)
        await tab.until("document.documentElement.dataset.ready")
        yield tab
        reading.cancel()


async def visit(address: str, port: str, short: Path, long: Path, server: Path) -> None:
    async with opened(address, port) as tab:
        await tab.run("document.getElementById('sources').value = '2'")
        await tab.choose(short)
        await tab.until("!document.getElementById('result').hidden")
        assert (await tab.run(SAYS)).startswith("2 sources in 0:02 min")
        await tab.run("document.getElementById('play').click()")
        await tab.until(f"{TRACKS}.every((track) => track.sound.currentTime > 0.2)")
        times = await tab.run(f"{TRACKS}.map((track) => track.sound.currentTime)")
        assert abs(times[0] - times[1]) < 0.1
        await tab.run("document.querySelectorAll('.solo')[1].click()")
        assert await tab.run(f"{TRACKS}.map((track) => track.sound.volume)") == [0, 1, 0]
        packed = "fetch(document.getElementById('zip').href).then((r) => r.blob())"
        assert await tab.run(f"{packed}.then((data) => data.size)") > 2 * 2 * 8000
        wide = "document.documentElement.scrollWidth <= innerWidth"
        await tab.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True},
        )
        assert await tab.run(wide), "the page is wider than a phone"
        nameless = "[...document.querySelectorAll('button, input, select, a')].filter((e) => "
        nameless += "!(e.ariaLabel || e.labels?.length || e.textContent.trim())).length"
        assert await tab.run(nameless) == 0

        await tab.choose(long)
        await tab.until(f"{SAYS}.startsWith('Separates')")
        begun = time.monotonic()
        await tab.run("document.getElementById('cancel').click()")
        await tab.until(f"{SAYS} === 'Cancelled.'")
        assert time.monotonic() - begun < 3  # on a busy machine
        assert [path.name for path in server.glob(f"{PREFIX}*/*")] == ["lock"]

        asked = [e["params"]["request"]["url"] for e in tab.events if "request" in e["params"]]
        assert asked and all(url.startswith((address, "data:", "blob:")) for url in asked)
        assert [e for e in tab.events if e["method"] == "Runtime.exceptionThrown"] == []
        await tab.choose(long)
        await tab.until(f"{SAYS}.startsWith('Separates')")
        await tab.call("Page.close")
        begun = time.monotonic()
        while len(list(server.glob(f"{PREFIX}*/*"))) > 1:
            assert time.monotonic() - begun < 10
            await asyncio.sleep(0.05)


async def look(address: str, port: str, axe: str, recording: Path, broken: Path) -> None:
    """Let axe look at the page without a recording, with its sources, and with an error."""
    async with opened(address, port) as tab:
        await tab.run(axe)
        await tab.run("document.getElementById('known').open = true")
        await tab.until("document.querySelector('#voices li')")
        await violations(tab)
        await tab.run("document.getElementById('sources').value = '2'")
        await tab.choose(recording)
        await tab.until("!document.getElementById('result').hidden")
        await tab.run("document.querySelector('.picture').click()")
        await tab.run("document.querySelector('.solo').click()")
        await violations(tab)
        await tab.until("document.querySelector('.track img').naturalWidth > 0")
        assert await tab.run("document.querySelector('.drawing')") is None
        await tab.choose(broken)
        await tab.until("document.getElementById('message').className === 'error'")
        await violations(tab)
        voice = broken.rename(broken.with_name("ann.wav"))
        await tab.choose(voice, "#voices input[type=file]")
        await tab.choose(recording)
        await tab.until(f"{SAYS}.startsWith('ann.wav cannot be read')")
        assert await tab.run("document.querySelector('#voices input').value") == "ann"


async def violations(tab: Tab) -> None:
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = "({violations}) => violations.map(({id, nodes}) => [id, ...nodes.map((n) => n.html)])"
    for scheme in ("light", "dark"):
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        await tab.call("Emulation.setEmulatedMedia", features=media)
        assert await tab.run(f"axe.run({{runOnly: {tags}}}).then({found})") == [], scheme


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Run the page and Chromium; yield address, port of Chromium, and the server's folder."""
    assert CHROMIUM is not None
    temporary = folder / "tmp"
    temporary.mkdir()
    source = str(Path(package.__file__).parents[1])
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": source}
    command = [sys.executable, "-m", "dpcl", "web", "--no-browser", "--port", "0"]
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    options += [
        f"--user-data-dir={folder / 'profile'}",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with (
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server,
        subprocess.Popen([CHROMIUM, *options], stderr=subprocess.PIPE, text=True) as browser,
    ):
        try:
            assert server.stdout is not None and browser.stderr is not None
            lines = iter(browser.stderr.readline, "")
            port = next(m[1] for line in lines if (m := re.search(r"ws://[\d.]+:(\d+)/", line)))
            threading.Thread(target=browser.stderr.read, daemon=True).start()
            yield server.stdout.readline().strip(), port, temporary
        finally:
            browser.kill()
            server.kill()


@pytest.mark.timeout(900)  # on a busy machine
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_visit_from_upload_to_the_closing_of_the_tab(
    make_recording: MakeRecording, folder: Path
) -> None:
    short, long = make_recording("short.wav", seconds=2.0), make_recording("long.wav", seconds=900)
    with running(folder) as (address, port, temporary):
        asyncio.run(visit(address, port, short, long, temporary))


def find_axe() -> Path | None:
    """The file of axe-core: DPCL_AXE, of `npm install axe-core`, or of axe-playwright-python."""
    places = [Path(os.environ.get("DPCL_AXE", "node_modules/axe-core/axe.min.js"))]
    for name in ("axe_playwright_python", "axe_core_python"):
        if spec := importlib.util.find_spec(name):
            places += Path(str(spec.origin)).parent.glob("axe*.js")
    return next((path.resolve() for path in places if path.is_file()), None)


AXE = find_axe()


@pytest.mark.timeout(900)  # on a busy machine
@pytest.mark.skipif(CHROMIUM is None or AXE is None, reason="no Chromium, or no axe-core")
def test_axe_finds_no_violation(make_recording: MakeRecording, folder: Path) -> None:
    assert AXE is not None
    pytest.importorskip("matplotlib")  # for the spectrogram
    recording, broken = make_recording("a.wav", seconds=1.0), folder / "broken.wav"
    broken.write_text("no audio")
    with running(folder) as (address, port, _):
        asyncio.run(look(address, port, AXE.read_text(encoding="utf-8"), recording, broken))
