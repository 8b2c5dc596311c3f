"""A fake of the Hugging Face hub's HTTP interface, as much of it as huggingface_hub's client uses to upload a folder.

It is no hub: it keeps what was sent in memory, takes all files as regular ones, and knows one token.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_fake_hub"


class FakeHub(ThreadingHTTPServer):
    """private: of the repositories that exist, by (kind, name). files: their contents, by (kind, name) and path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.private: dict[tuple[str, str], bool] = {}
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def create(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Make a repository, or answer 409 as the hub does when it is there."""
        name = f"{body['organization'] or 'me'}/{body['name']}"
        key = (body["type"], name)
        url = f"{self.address}/{'' if body['type'] == 'model' else body['type'] + 's/'}{name}"
        if key in self.private:
            return 409, {"error": "exists", "url": url}
        self.private[key] = body["visibility"] == "private"
        self.files[key] = {}
        return 200, {"url": url, "name": name, "id": name}

    def commit(self, key: tuple[str, str], lines: list[dict[str, Any]]) -> tuple[int, Any]:
        """Keep the files of one commit."""
        for line in lines:
            if line["key"] == "file":
                self.files[key][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return 200, {"commitUrl": f"{self.address}/{key[1]}/commit/{'0' * 40}", "commitOid": "0" * 40}


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self) -> None:
        _, _, kinds, *name = self.path.partition("?")[0].split("/")
        key = (kinds.removesuffix("s"), "/".join(name[:2]))
        self._answer(200, {"id": key[1], "private": self.server.private[key], "siblings": [], "tags": []})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
            return
        _, _, kinds, *rest = self.path.partition("?")[0].split("/")
        if kinds == "repos":
            self._answer(*self.server.create(json.loads(content)))
        elif kinds == "validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif rest[2] == "preupload":
            paths = [file["path"] for file in json.loads(content)["files"]]
            files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            self._answer(200, {"files": files})
        else:
            lines = [json.loads(line) for line in content.splitlines()]
            self._answer(*self.server.commit((kinds.removesuffix("s"), "/".join(rest[:2])), lines))

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode("utf-8")
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve a fake hub on this machine."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
