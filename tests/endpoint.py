"""A real HTTP server that speaks chat completions: scripted faults, and a record of everything that it was asked."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY, KEY_VARIABLE = "test-key-0123456789", "WRPO_TEST_API_KEY"
# Here, and so before any Ray cluster of the tests starts: its processes have the environment of that moment.
os.environ[KEY_VARIABLE] = KEY


@dataclass(frozen=True)
class Reply:
    """What the server sends; `delay_s` passes before."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


@dataclass(frozen=True)
class Asked:
    """One request as the server saw it."""

    at: float
    body: dict[str, Any]

    @property
    def text(self) -> str:
        return self.body["messages"][-1]["content"]


def completion(text: str, finish_reason: str = "stop", prompt_tokens: int = 7, completion_tokens: int = 3) -> Reply:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return Reply(body={"choices": [choice], "usage": usage})


def failure(status: int, code: str | None = None, message: str = "sorry", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"error": {"message": message, "type": "some_error", "code": code}}, named)


def echo(asked: Asked) -> Reply:
    """Answer as a model would that follows its seed: the same request gives the same text."""
    digest = hashlib.sha256(json.dumps(asked.body, sort_keys=True).encode()).hexdigest()
    return completion(f"{digest[:8]} to {asked.text}")


class Endpoint:
    """The server's memory, and what it answers: `answer` gets each request, and how often this very one was asked."""

    def __init__(self) -> None:
        self.answer: Callable[[Asked, int], Reply] = lambda asked, number: echo(asked)
        self.key: str | None = KEY
        self.asked: list[Asked] = []
        self.now = self.most_at_once = 0
        self.url = ""
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()

    def reply(self, body: dict[str, Any]) -> Reply:
        asked = Asked(time.monotonic(), body)
        with self._lock:
            self.asked.append(asked)
            name = json.dumps(body, sort_keys=True)
            self._times[name] += 1
            number = self._times[name]
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
        try:
            reply = self.answer(asked, number)
            time.sleep(reply.delay_s)
            return reply
        finally:
            with self._lock:
                self.now -= 1


@contextmanager
def serving() -> Iterator[Endpoint]:
    """Serve on a free port of this machine until the block ends."""
    endpoint = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            if not content:
                # The client has given up in between.
                return
            body = json.loads(content)
            known = self.path == "/v1/chat/completions"
            self._send(self._refused() or (endpoint.reply(body) if known else failure(404, "unknown_url")))

        def do_GET(self) -> None:
            self._send(self._refused() or Reply(200 if self.path == "/v1/models" else 404, {"data": []}))

        def _refused(self) -> Reply | None:
            given = self.headers.get("authorization")
            allowed = endpoint.key is None or given == f"Bearer {endpoint.key}"
            return None if allowed else failure(401, "invalid_api_key", f"Incorrect API key: {given}")

        def _send(self, reply: Reply) -> None:
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {**reply.headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        # Many connect at once; the default of 5 drops some of them.
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
