"""A Hugging Face Hub on 127.0.0.1: as much of it as fetching and putting a model asks for."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class FakeHub:
    """Repositories by name: their commits, newest last, each a dict of files; and what was asked for."""

    def __init__(self) -> None:
        self.repositories: dict[str, list[dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.objects: dict[str, bytes] = {}  # large files that were uploaded, by their SHA-256
        self.asked: list[str] = []
        self.answer: int | None = None  # to everything, where it is set
        self.address = ""

    def commits(self, name: str) -> list[str]:
        """Return the hashes of the commits; that of an empty repository is one, too."""
        count = len(self.repositories[name])
        return [hashlib.sha1(f"{name} {number}".encode()).hexdigest() for number in range(max(count, 1))]

    def commit(self, name: str, revision: str = "main") -> str | None:
        """Return the hash of a revision: `main` is the newest commit, `v1` the first."""
        commits = self.commits(name)
        return ({commit: commit for commit in commits} | {"main": commits[-1], "v1": commits[0]}).get(
            revision
        )

    def files(self, name: str, commit: str) -> dict[str, bytes]:
        """Return the files of a commit."""
        return self.repositories[name][self.commits(name).index(commit)]


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value: Any, status: int = 200) -> None:
        self.reply(status, json.dumps(value).encode(), Content_Type="application/json")

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].lstrip("/")
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.answer is not None:
            self.reply(self.hub.answer)
        elif path.startswith("api/models/"):
            self.describe(path)
        elif "/resolve/" in path:
            self.resolve(path)
        else:  # huggingface_hub asks for things of its own, too
            self.reply(404)

    def describe(self, path: str) -> None:
        name, revision = "/".join(path.split("/")[2:4]), [*path.split("/")[5:], "main"][0]
        if name not in self.hub.repositories:
            self.reply(401, X_Error_Code="RepoNotFound")
        elif (commit := self.hub.commit(name, revision)) is None:
            self.reply(404, X_Error_Code="RevisionNotFound")
        else:
            self.json({"id": name, "private": name in self.hub.private, "sha": commit})

    def resolve(self, path: str) -> None:
        owner, model, _, revision, file = path.split("/", 4)
        name = f"{owner}/{model}"
        commit = self.hub.commit(name, revision) or ""
        files = self.hub.files(name, commit)
        if name in self.hub.gated:
            self.reply(403, X_Error_Code="GatedRepo")
        elif file not in files:
            self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        else:
            tag = hashlib.sha256(files[file]).hexdigest()
            self.reply(200, files[file], ETag=f'"{tag}"', X_Repo_Commit=commit)

    def do_PUT(self) -> None:
        content = self.body()
        self.hub.asked.append(f"PUT {self.path.lstrip('/')}")
        self.hub.objects[hashlib.sha256(content).hexdigest()] = content
        self.reply(200)

    def do_POST(self) -> None:
        path, body = self.path.partition("?")[0].lstrip("/"), self.body()
        self.hub.asked.append(f"POST {path}")
        if self.hub.answer is not None:
            self.reply(self.hub.answer)
        elif path == "api/repos/create":
            self.create(json.loads(body))
        elif path == "api/validate-yaml":
            self.json({})
        elif "/preupload/" in path:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.json({"files": modes})
        elif path.endswith("info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for item in objects:
                item["actions"] = {"upload": {"href": f"{self.hub.address}/large/{item['oid']}"}}
            self.json({"transfer": "basic", "objects": objects})
        else:
            self.add(path, body)

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        address = f"{self.hub.address}/{name}"
        if name in self.hub.repositories:
            self.json({"url": address}, 409)
            return
        self.hub.repositories[name] = []
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.hub.private.add(name)
        self.json({"url": address, "id": name})

    def add(self, path: str, body: bytes) -> None:
        name = "/".join(path.split("/")[2:4])
        commits = self.hub.repositories[name]
        files = dict(commits[-1]) if commits else {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        commits.append(files)
        self.json({"commitUrl": f"{self.hub.address}/{name}", "commitOid": self.hub.commit(name)})


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Run a Hub."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask_there(monkeypatch: pytest.MonkeyPatch, address: str, cache: str) -> None:
    """Let huggingface_hub, which reads its environment when it is imported, ask this Hub in this process."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # Before version 1 the library had its own name for it here.
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")


def forget_sessions() -> None:
    """Let huggingface_hub see whether it is offline: before version 1 a session knew it from its start."""
    from huggingface_hub import utils

    getattr(utils, "reset_sessions", lambda: None)()
