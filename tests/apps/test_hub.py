"""Models of the hub, against a server of this process: download, upload, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from dpcl.catalogue import cached_models, fetch, parse_name
from dpcl.errors import InputError
from dpcl.separators.registry import load_network

constants = pytest.importorskip("huggingface_hub.constants")

Program = Callable[..., Any]


class FakeHub(ThreadingHTTPServer):
    """Repositories in memory: commits of files; the newest commit is `main`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.requests: list[str] = []

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        commits = self.repositories.setdefault(repository, [])
        name = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        before = commits[-1][1] if commits else {}
        commits.append((name, {**before, **files}))
        return name


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def found(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.server.repositories.get(repository)
        if not commits:
            self.answer(404, b"{}", X_Error_Code="RepoNotFound")
            return None
        if revision == "main":
            return commits[-1]
        match = [commit for commit in commits if commit[0] == revision]
        if not match:
            self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
        return match[0] if match else None

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if part := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)", self.path):
            commit = self.found(part[1], part[2])
            if commit is None:
                return
            data = commit[1].get(part[3])
            if data is None:
                self.answer(404, b"{}", X_Error_Code="EntryNotFound", X_Repo_Commit=commit[0])
                return
            tag = f'"{hashlib.sha256(data).hexdigest()}"'
            self.answer(200, data, ETag=tag, X_Repo_Commit=commit[0])
        elif part := re.match(
            r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/?]+))?", self.path
        ):
            commit = self.found(part[1], part[3] or "main")
            if commit is None:
                return
            if part[2] == "tree":
                body: Any = [
                    {"type": "file", "path": n, "size": len(d), "oid": "0"}
                    for n, d in commit[1].items()
                ]
            else:
                body = {"id": part[1], "sha": commit[0]}
                body["siblings"] = [{"rfilename": name} for name in commit[1]]
            self.answer(200, json.dumps(body).encode())
        else:
            self.answer(404, b"{}")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer right":
            self.answer(401, b'{"error": "wrong token"}')
        elif self.path == "/api/repos/create":
            name = "/".join(filter(None, map(json.loads(body).get, ("organization", "name"))))
            self.server.repositories.setdefault(name, [])
            self.answer(200, json.dumps({"url": f"{constants.ENDPOINT}/{name}"}).encode())
        elif self.path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\nlibrary_name: dpcl\n")
            self.answer(200, b"{}")
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.answer(200, json.dumps({"files": files}).encode())
        elif part := re.match(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            name = self.server.commit(part[1], files)
            answer = {
                "commitOid": name,
                "commitUrl": f"{constants.ENDPOINT}/{part[1]}/commit/{name}",
            }
            self.answer(200, json.dumps({**answer, "success": True}).encode())
        else:
            self.answer(404, b"{}")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_TOKEN", "right")
        yield running
        running.shutdown()


CARD = b"---\nlibrary_name: dpcl\n---\n\n# tiny\n\nSeparates noise.\n"


def test_a_model_is_downloaded_once_and_stays_until_it_is_pulled_again(
    server: FakeHub, tiny_model: Path, causal_model: Path
) -> None:
    files = {"model.safetensors": tiny_model.read_bytes(), "README.md": CARD}
    first = server.commit("someone/tiny", files)
    model = load_network("hf://someone/tiny")
    assert model.settings == load_network(str(tiny_model)).settings
    asked = len(server.requests)
    second = server.commit("someone/tiny", {"model.safetensors": causal_model.read_bytes()})
    assert fetch("hf://someone/tiny").name == f"hf://someone/tiny@{first}"
    assert len(server.requests) == asked
    assert fetch("hf://someone/tiny", refresh=True).name == f"hf://someone/tiny@{second}"
    assert fetch(f"hf://someone/tiny@{first}").path.read_bytes() == tiny_model.read_bytes()
    assert [model.name for model in cached_models()] == sorted(
        f"hf://someone/tiny@{commit}" for commit in (first, second)
    )


def test_a_model_is_pulled_pushed_listed_and_used_by_name(
    server: FakeHub, dpcl: Program, tiny_model: Path, make_recording: Callable[..., Path]
) -> None:
    ran = dpcl("models", "push", tiny_model, "hf://someone/new", "--license", "mit")
    assert ran.status == 0, ran.err
    name = ran.out.strip()
    ((_, files),) = server.repositories["someone/new"]
    assert sorted(files) == ["README.md", "model.safetensors"]
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: dpcl\npipeline_tag: audio-to-audio\n")
    assert "license: mit" in card and "# tiny" in card and "--model hf://someone/new" in card
    assert dpcl("models", "pull", "hf://someone/new").out.strip() == name
    assert name in dpcl("models").out
    assert "# tiny" in dpcl("models", "hf://someone/new").out
    make_recording("a.wav")
    assert dpcl("separate", "a.wav", "-m", "hf://someone/new", "-n", 2).status == 0
    ran = dpcl("models", "push", tiny_model, "hf://someone/new@v1")
    assert ran.status == 2 and "a revision cannot be uploaded" in ran.err


def other_version(tiny_model: Path, folder: Path) -> bytes:
    path = folder / "newer.safetensors"
    save_file(load_file(tiny_model), path, {"layout": "9", "settings": "{}"})
    data = path.read_bytes()
    path.unlink()
    return data


def test_bad_models_and_names_are_one_sentence_and_leave_nothing(
    server: FakeHub,
    dpcl: Program,
    tiny_model: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.commit("someone/pickle", {"pytorch_model.bin": b"pickle"})
    server.commit("someone/newer", {"model.safetensors": other_version(tiny_model, folder)})
    server.commit("someone/tiny", {"model.safetensors": tiny_model.read_bytes()})
    for name, message in {
        "hf://someone/none": "hf://someone/none: the hub has no such model",
        "hf://someone/pickle": "has pytorch_model.bin but no model.safetensors",
        "hf://someone/newer": "hf://someone/newer: has layout 9, which this dpcl cannot read",
        "hf://someone/tiny@v7": "hf://someone/tiny@v7: the model has no such revision",
        "hf://someone": "hf://someone: is no name of a model on the hub",
    }.items():
        ran = dpcl("models", "pull", name)
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.count("\n") == 1 and message in ran.err, ran.err
    kept = Path(constants.HF_HUB_CACHE).glob("*/snapshots/*/model.safetensors")
    assert list(kept) == []
    monkeypatch.setenv("HF_TOKEN", "wrong")
    ran = dpcl("models", "push", tiny_model, "hf://someone/tiny")
    assert ran.status == 2 and "log in with `hf auth login`" in ran.err, ran.err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="the hub cannot be reached"):
        fetch("hf://someone/tiny")


def test_without_the_package_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dpcl.errors.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"install it with `pip install \"dpcl\[hub\]\"`"):
        fetch("hf://a/b")
    assert parse_name("hf://a/b") == ("a/b", None)
