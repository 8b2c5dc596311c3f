"""The Hugging Face hub's HTTP interface as far as models are fetched by it: branches, trees, files with their hashes.

It serves folders of this machine, counts requests, and knows no accounts.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


@dataclass
class Repository:
    """branches: the commit that each stands at. folders: the files of each commit. wrong: contents sent instead."""

    branches: dict[str, str]
    folders: dict[str, Path]
    wrong: dict[str, bytes] = field(default_factory=dict)


class HubServer(ThreadingHTTPServer):
    """repositories: by name. requests: how often each method asked for each path. wait_s: before a file of weights."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: Counter[str] = Counter()
        self.wait_s = 0.0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, folder: Path, commit: str = COMMIT) -> Repository:
        """Serve a folder as a model whose branch main stands at `commit`."""
        found = self.repositories.setdefault(name, Repository({}, {}))
        found.branches["main"] = commit
        found.folders[commit] = folder
        return found

    def downloads(self, name: str) -> int:
        """Return how often the contents of files with this ending were asked for."""
        return sum(count for line, count in self.requests.items() if line.startswith("GET") and line.endswith(name))


def git_hash(content: bytes) -> str:
    """Return what git calls a file with this content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.requests[f"{self.command} {path}"] += 1
        _, *parts = path.split("/")
        if parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4], parts[5])
        elif len(parts) < 5:
            self._answer(404, b"", {})
        else:
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    do_HEAD = do_GET  # noqa: N815 - the name is the base class's

    def _commit(self, name: str, revision: str) -> str | None:
        repository = self.server.repositories.get(name)
        commit = repository.branches.get(revision, revision) if repository else ""
        if repository is None or commit not in repository.folders:
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound" if repository else "RepoNotFound"})
            return None
        return commit

    def _api(self, name: str, what: str, revision: str) -> None:
        if (commit := self._commit(name, revision)) is None:
            return
        folder = self.server.repositories[name].folders[commit]
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        entries = [_entry(path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths]
        siblings = [{"rfilename": entry["path"], "size": entry["size"]} for entry in entries]
        answer = entries if what == "tree" else {"id": name, "sha": commit, "siblings": siblings}
        self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, path: str) -> None:
        if (commit := self._commit(name, revision)) is None:
            return
        repository = self.server.repositories[name]
        place = repository.folders[commit] / path
        if not place.is_file():
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        content = place.read_bytes()
        if self.command == "GET" and path.endswith(".safetensors"):
            time.sleep(self.server.wait_s)
        digest = _entry(path, content).get("lfs", {}).get("oid") or git_hash(content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        self._answer(200, repository.wrong.get(path, content), headers)

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
    if path.endswith((".safetensors", ".bin")):
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
    return entry


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Serve a hub on this machine."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
