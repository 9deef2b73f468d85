"""The service: jobs from upload to files, limits, keys, streams, metrics; and its real server."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fastapi import testclient
from starlette.websockets import WebSocketDisconnect

import dpcl as package
from dpcl.apps.jobs import PREFIX, Jobs, remove_leftovers
from dpcl.apps.serve import is_error
from dpcl.apps.service import Limits, make_app
from dpcl.apps.worker import Order, follow_orders, separate_job
from dpcl.errors import InputError

MakeRecording = Callable[..., Path]
Program = Callable[..., Any]


class ThreadJobs(Jobs):
    """Jobs whose workers are threads: they start at once, and end when they look at `stop`."""

    def _start(self) -> Any:
        own, other = Pipe()
        thread = threading.Thread(target=follow_orders, args=(other, self.work), daemon=True)
        thread.start()
        process: Any = thread
        process.kill = own.close
        return process, own


def slow(order: Order, folder: Path, report: Callable[[float], None]) -> dict[str, Any]:
    """Work until it is stopped, except for some names."""
    if order.name == "bad.wav":
        raise InputError(f"{folder / 'recording' / order.name} cannot be read as audio; convert it")
    if order.name == "defect.wav":
        raise RuntimeError("secret")
    while order.name.startswith("slow"):
        report(0.5)
        time.sleep(0.02)
    for name, file in order.voices:
        if (folder / file).read_bytes() == b"noise":
            raise InputError(f"--voice {name}: {folder / file} has 0.0 s of speech; give another")
    (folder / "outputs").mkdir()
    (folder / "outputs" / "a_s1.wav").write_bytes(b"sound")
    (folder / "outputs" / "a_timeline.json").write_text("{}")
    documents = {"documents": ["a_timeline.json"], "timeline": []}
    return {"files": ["a_s1.wav"], **documents, "seconds": 2.0, "took": 0.1, "warnings": []}


def client_of(jobs: Jobs, *arguments: Any, **options: Any) -> Any:
    return testclient.TestClient(make_app(jobs, *arguments, **options))


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = ThreadJobs(1, waiting=2, work=slow)
    yield made
    made.close()
    assert not made.root.exists()


def wait(client: Any, name: str, *states: str, **options: Any) -> Any:
    for _ in range(500):
        found = client.get(f"/v1/jobs/{name}", **options).json()
        if found["state"] in states:
            return found
        time.sleep(0.01)
    raise AssertionError(found)


def test_a_job_from_upload_to_files(jobs: Jobs) -> None:
    client = client_of(jobs)
    query = "name=a.wav&sources=2&spatial=false&floor=-20"
    sent = client.post(f"/v1/jobs?{query}", content=b"data")
    assert sent.status_code == 202
    ordered = jobs.find(sent.json()["id"], "")
    assert ordered is not None and (ordered.order.spatial, ordered.order.floor) == (False, -20.0)
    job = wait(client, sent.json()["id"], "done")
    assert (job["share"], job["position"], job["seconds"]) == (1.0, 0, 2.0)
    assert client.get(job["files"]["a_s1.wav"]).content == b"sound"
    packed = zipfile.ZipFile(io.BytesIO(client.get(job["zip"]).content))
    assert packed.namelist() == ["a_s1.wav", "a_timeline.json"]
    assert client.get(job["documents"]["a_timeline.json"]).content == b"{}"
    events = client.get(f"/v1/jobs/{job['id']}/events").text
    assert json.loads(events.removeprefix("data: "))["state"] == "done"
    assert client.get(f"/v1/jobs/{job['id']}/files/other.wav").status_code == 404
    (folder,) = [path for path in jobs.root.iterdir() if path.is_dir()]
    assert jobs.root.stat().st_mode & 0o777 == 0o700
    assert (folder / "recording" / "a.wav").stat().st_mode & 0o777 == 0o600
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert not folder.exists()
    assert client.get(f"/v1/jobs/{job['id']}").status_code == 404
    metrics = client.get("/metrics").text
    assert 'dpcl_jobs_total{state="done"} 1' in metrics
    assert "dpcl_audio_seconds_total 2.000" in metrics
    assert client.get("/health").json()["status"] == "ok"
    page = client.get("/docs")
    assert "POST /v1/jobs" in page.text and "default-src 'self'" in str(page.headers)


def test_the_queue_has_places_and_an_end_and_cancel_is_quick(jobs: Jobs) -> None:
    client = client_of(jobs)
    names = []
    for _ in range(3):
        names.append(client.post("/v1/jobs?name=slow.wav", content=b"data").json()["id"])
        wait(client, names[0], "running")
    assert client.get(f"/v1/jobs/{names[2]}").json()["position"] == 2
    full = client.post("/v1/jobs?name=slow.wav", content=b"data")
    assert full.status_code == 503 and full.headers["retry-after"] == "60"
    assert "jobs are waiting" in full.json()["detail"]
    assert client.get(f"/v1/jobs/{names[2]}/zip").status_code == 409
    begun = time.monotonic()
    client.delete(f"/v1/jobs/{names[0]}")
    wait(client, names[1], "running")
    assert time.monotonic() - begun < 1
    client.delete(f"/v1/jobs/{names[2]}")
    assert 'dpcl_jobs{state="running"} 1' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("query", "content", "status", "message"),
    [
        ("name=a.wav", b"", 422, "a.wav: is empty"),
        ("name=a.wav&sources=11", b"x", 422, "cannot separate into 11 sources; give 1 to 10"),
        ("name=a.wav&model=/etc/passwd", b"x", 422, "unknown model '/etc/passwd'"),
        ("name=a.wav&floor=1", b"x", 422, "a floor of 1.0 dB is no attenuation"),
        ("name=../../a.wav", b"x" * 2000, 413, "a.wav: is larger than 0.001 MB"),
    ],
)
def test_bad_orders_are_one_sentence_and_leave_nothing(
    query: str, content: bytes, status: int, message: str, jobs: Jobs
) -> None:
    client = client_of(jobs, Limits(megabytes=0.001))
    for body in (content, iter([content])):  # with and without Content-Length
        answer = client.post(f"/v1/jobs?{query}", content=body)
        assert answer.status_code == status and message in answer.json()["detail"]
    assert [path for path in jobs.root.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("%C3%A9" * 250 + ".wav", "é" * 98 + ".wav"),
        ("a%00b%0A.wav", "ab.wav"),
        ("%00", "recording"),
        ("..%2F..%2Fb.wav", "b.wav"),
    ],
)
def test_recordings_of_any_name_are_taken(name: str, expected: str, jobs: Jobs) -> None:
    answer = client_of(jobs).post(f"/v1/jobs?name={name}", content=b"data")
    assert (answer.status_code, answer.json()["name"]) == (202, expected)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "touch", full)
    answer = client_of(jobs).post("/v1/jobs?name=a.wav", content=b"data")
    assert answer.status_code == 507
    assert "a.wav: cannot be stored (No space left on device)" in answer.json()["detail"]
    assert [path for path in jobs.root.iterdir() if path.is_dir()] == []


def test_a_job_that_fails_says_why_without_folders_and_defects_keep_their_secrets(
    jobs: Jobs,
) -> None:
    client = client_of(jobs)
    for name, error in (("bad.wav", "bad.wav cannot be read"), ("defect.wav", "(RuntimeError)")):
        sent = client.post(f"/v1/jobs?name={name}", content=b"data").json()
        failed = wait(client, sent["id"], "failed")
        assert error in failed["error"]
        assert str(jobs.root) not in failed["error"] and "secret" not in failed["error"]


def test_keys_and_other_peoples_jobs(jobs: Jobs) -> None:
    client = client_of(jobs, keys=("one", "two"))
    for headers in ({}, {"Authorization": "Bearer three"}, {"Authorization": "one"}):
        answer = client.get("/v1/models", headers=headers)
        assert (
            answer.status_code == 401 and "API key is missing or wrong" in answer.json()["detail"]
        )
    one, two = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
    sent = client.post("/v1/jobs?name=a.wav", content=b"data", headers=one).json()
    wait(client, sent["id"], "done", headers=one)
    answer = client.get(f"/v1/jobs/{sent['id']}", headers=two)
    assert answer.status_code == 404
    assert answer.json()["detail"].endswith("does not exist here; create one with POST /v1/jobs")
    assert client.get("/health").status_code == 200


def test_known_voices_are_sent_once_and_lent_to_jobs(jobs: Jobs) -> None:
    client = client_of(jobs)
    ids = {}
    for name, content in (("Ann", b"speech"), ("Bob", b"noise")):
        sent = client.post(f"/v1/voices?name={name}&file=../{name}.m4a", content=content)
        assert (sent.status_code, sent.json()["name"]) == (201, name)
        ids[name] = sent.json()["id"]
    job = client.post(f"/v1/jobs?name=a.wav&voice={ids['Ann']}&only=Ann", content=b"data").json()
    ordered = jobs.find(job["id"], "")
    assert ordered is not None
    assert (ordered.order.voices, ordered.order.only) == ((("Ann", "voice0/Ann.m4a"),), "Ann")
    wait(client, job["id"], "done")
    assert client.delete(f"/v1/voices/{ids['Ann']}").status_code == 204
    assert (ordered.folder / "voice0" / "Ann.m4a").read_bytes() == b"speech"
    failed = client.post(f"/v1/jobs?name=a.wav&voice={ids['Bob']}", content=b"data").json()
    error = wait(client, failed["id"], "failed")["error"]
    assert error == "voice Bob: Bob.m4a has 0.0 s of speech; give another"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("jobs?voice=other", "voice other: does not exist here"),
        ("jobs?voice={0}&voice={0}", "voice Ann: is given twice"),
        ("jobs?voice={0}&voice={1}", "voice ann: the name occurs twice"),
        ("jobs?voice={0}&only=Bob", "only Bob: is no voice of this job"),
        ("voices?name=s1", "voice s1: is the name of another output"),
        ("voices?name=..", "voice ..: '..' is no part of a file name"),
    ],
)
def test_wrong_voices_are_one_sentence_and_leave_nothing(
    query: str, message: str, jobs: Jobs
) -> None:
    client = client_of(jobs)
    names = ("Ann", "ann")
    ids = [client.post(f"/v1/voices?name={n}", content=b"x").json()["id"] for n in names]
    answer = client.post("/v1/" + query.format(*ids), content=b"data")
    assert (answer.status_code, answer.json()["detail"].count(";")) == (422, 1)
    assert message in answer.json()["detail"]
    assert len([path for path in jobs.root.iterdir() if path.is_dir()]) == 2


def test_voices_belong_to_their_key_and_go_after_their_time(jobs: Jobs) -> None:
    client = client_of(jobs, keys=("one", "two"))
    one, two = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
    voice = client.post("/v1/voices?name=Ann", content=b"x", headers=one).json()["id"]
    assert client.delete(f"/v1/voices/{voice}", headers=two).status_code == 404
    answer = client.post(f"/v1/jobs?voice={voice}", content=b"data", headers=two)
    assert answer.status_code == 422
    jobs.keep = 0.0
    soon = client_of(jobs)
    voice = soon.post("/v1/voices?name=Ann", content=b"x").json()["id"]
    assert soon.delete(f"/v1/voices/{voice}").status_code == 404
    empty = soon.post("/v1/voices?name=Ann&file=a.wav", content=b"")
    assert "a.wav: is empty" in empty.json()["detail"]


def test_finished_jobs_go_after_their_time(jobs: Jobs) -> None:
    client = client_of(jobs)
    sent = client.post("/v1/jobs?name=a.wav", content=b"data").json()
    wait(client, sent["id"], "done")
    jobs.keep = 0.0
    assert client.get(f"/v1/jobs/{sent['id']}").status_code == 404
    assert [path for path in jobs.root.iterdir() if path.is_dir()] == []


def test_a_stream_is_separated_block_by_block(jobs: Jobs) -> None:
    client = client_of(jobs)
    samples = np.random.default_rng(0).standard_normal(4000).astype("<f4") / 10
    found = []
    with client.websocket_connect("/v1/stream?rate=8000&sources=3") as stream:
        for block in np.split(samples, 4):
            stream.send_bytes(block.tobytes())
            found.append(np.frombuffer(stream.receive_bytes(), "<f4").reshape(-1, 3))
        stream.send_text("end")
        found.append(np.frombuffer(stream.receive_bytes(), "<f4").reshape(-1, 3))
    np.testing.assert_allclose(np.concatenate(found).sum(1), samples, atol=1e-4)
    with client.websocket_connect("/v1/stream?sources=11") as stream:
        assert "11 sources" in stream.receive_json()["detail"]
    with client.websocket_connect("/v1/stream") as stream:
        stream.send_bytes(b"abc")
        assert "within a sample" in stream.receive_json()["detail"]


def test_the_work_of_a_job_reads_separates_and_draws(
    make_recording: MakeRecording, tiny_model: Path, tmp_path: Path
) -> None:
    recording = make_recording("a.wav", seconds=1.0)
    (tmp_path / "recording").mkdir()
    recording.rename(tmp_path / "recording" / "a.wav")
    moved: list[float] = []
    order = Order("a.wav", 2, str(tiny_model))
    result = separate_job(order, tmp_path, moved.append)
    assert result["files"] == ["a_s1.wav", "a_s2.wav"]
    assert result["names"] == ["s1", "s2"]
    assert [len(peaks) for peaks in result["peaks"]] == [2000, 2000]
    assert sorted(Path(name).suffix for name in result["documents"]) == [".json", ".rttm", ".txt"]
    assert {segment["talker"] for segment in result["timeline"]} <= {"s1", "s2"}
    assert moved[-1] == 1.0 and max(map(max, result["peaks"])) == 255
    with pytest.raises(InputError, match=r"lasts 1 s, and 0 s is the limit"):
        separate_job(Order("a.wav", seconds=0.4), tmp_path, moved.append)


def test_warnings_of_a_job_name_no_folder(
    make_recording: MakeRecording, nobody_model: Path, tmp_path: Path
) -> None:
    recording = make_recording("a.wav", seconds=1.0)
    (tmp_path / "recording").mkdir()
    recording.rename(tmp_path / "recording" / "a.wav")
    order = Order("a.wav", None, str(nobody_model))
    warnings = separate_job(order, tmp_path, lambda share: None)["warnings"]
    assert warnings and warnings[0].startswith("a.wav: no talker was found")
    assert str(tmp_path) not in " ".join(warnings)


def test_folders_of_crashed_servers_are_removed(tmp_path: Path, jobs: Jobs) -> None:
    left = tmp_path / f"{PREFIX}left"
    left.mkdir()
    (left / "recording.wav").write_bytes(b"private")
    other = tmp_path / "other"
    other.mkdir()
    assert remove_leftovers(tmp_path) == [left]
    assert jobs.root.exists() and other.exists()


def test_requests_that_the_end_of_the_server_cancels_are_not_logged() -> None:
    def logged(message: str, error: BaseException | None) -> bool:
        caught = None if error is None else (type(error), error, None)
        record = logging.LogRecord("uvicorn.error", 40, "", 0, message, (), caught)
        return is_error(record)

    assert not logged("Exception in ASGI application", asyncio.CancelledError())
    assert not logged("Cancel 1 running task(s), timeout graceful shutdown exceeded", None)
    assert logged("Exception in ASGI application", ValueError())


def test_an_empty_key_is_no_key(dpcl: Program) -> None:
    ran = dpcl("serve", "--port", 0, "--key", "")
    assert ran.status == 2 and ran.err == "dpcl: --key: is empty; give a key, or omit the option\n"


@pytest.mark.parametrize("command", ["serve", "web"])
def test_an_address_that_cannot_be_used_is_one_sentence(command: str, dpcl: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ran = dpcl(command, "--port", port)
    assert ran.status == 2 and f"127.0.0.1:{port} cannot be used" in ran.err
    ran = dpcl(command, "--host", "no.such.host.invalid")
    assert ran.status == 2 and "no.such.host.invalid" in ran.err


def test_without_fastapi_one_sentence_says_what_to_install(
    dpcl: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpcl.errors.find_spec", lambda name: None)
    ran = dpcl("web")
    assert ran.status == 2 and 'pip install "dpcl[web]"' in " ".join(ran.err.split())


def test_a_machine_without_processes_fails_each_job_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exhausted:
        def Pipe(self) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("multiprocessing.get_context", lambda method: Exhausted())
    jobs = Jobs(1, work=slow)
    client = client_of(jobs)
    for name in ("a.wav", "b.wav"):  # the second one shows that the thread still runs
        sent = client.post(f"/v1/jobs?name={name}", content=b"data").json()
        assert "could not start a process" in wait(client, sent["id"], "failed")["error"]
    jobs.close()
    assert not jobs.root.exists()


def test_the_real_server_separates_and_sigterm_removes_everything(
    make_recording: MakeRecording, folder: Path
) -> None:
    recording = make_recording("talk.wav", seconds=1.0)
    (folder / "tmp").mkdir()
    command = [sys.executable, "-m", "dpcl", "web", "--no-browser", "--port", "0"]
    source = str(Path(package.__file__).parents[1])
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": source}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:")
            page = urllib.request.urlopen(f"{address}/").read().decode()
            assert '<script type="module" src="page.js">' in page
            sent = urllib.request.urlopen(
                f"{address}/v1/jobs?name=talk.wav&sources=2", recording.read_bytes()
            )
            name = json.load(sent)["id"]
            events = (
                urllib.request.urlopen(f"{address}/v1/jobs/{name}/events").read().split(b"\n\n")
            )
            state = json.loads(events[-2].removeprefix(b"data: "))
            assert state["state"] == "done", state
            sound = urllib.request.urlopen(f"{address}/{state['files']['talk_s1.wav']}").read()
            assert soundfile.read(io.BytesIO(sound))[1] == 8000
            assert list((folder / "tmp").glob(f"{PREFIX}*"))
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)
        finally:
            server.kill()
    assert list((folder / "tmp").glob(f"{PREFIX}*")) == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:80"}, 200),
        ({"host": "[::1]:80", "origin": "http://[::1]:80"}, 200),
        ({"host": "127.0.0.1", "origin": "http://127.0.0.1"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "[::1"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:81"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_pages_of_other_hosts_are_refused(headers: dict[str, str], status: int, jobs: Jobs) -> None:
    client = testclient.TestClient(make_app(jobs, local=True), base_url="http://127.0.0.1")
    answer = client.get("/v1/models", headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["detail"].count(";") == 1
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("/v1/stream", headers=headers) as socket,
        ):
            socket.receive_json()


def test_another_host_is_accepted_by_its_name_or_with_a_key(jobs: Jobs) -> None:
    own = {"host": "studio.example", "origin": "http://studio.example"}
    other = {"host": "studio.example", "origin": "http://evil.example"}
    client = client_of(jobs)
    assert client.get("/v1/models", headers=own).status_code == 200
    assert client.get("/v1/models", headers=other).status_code == 403
    key = {"authorization": "Bearer one"}
    with_key = client_of(jobs, keys=("one",), local=True)
    assert with_key.get("/v1/models", headers=other | key).status_code == 200
