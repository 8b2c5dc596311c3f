"""A real S3 protocol server in this process (moto over HTTP) that fails as it is told to; it answers Google's too."""

from __future__ import annotations

import contextlib
import fnmatch
import random
import socket
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Kind = Literal[
    "slow_down",  # 503 SlowDown
    "internal_error",  # 500
    "reset",  # the connection breaks before anything is done
    "lost_reply",  # it is done, then the connection breaks
    "lost_reply_500",  # it is done, then 500 is told
    "slow",  # it is done after a wait
    "conflict",  # 409, as S3 says to one of two conditional writes at once
    "forbidden",  # 403
    "no_conditions",  # 501 to writes with If-None-Match
    "ignored_conditions",  # If-None-Match is not looked at
    "too_many",  # 429
    "absent",  # 404
    "wrong_region",  # 301, as S3 says when the bucket lies elsewhere
]
_STATUS = {
    "slow_down": ("503 Slow Down", "SlowDown"),
    "internal_error": ("500 Internal Server Error", "InternalError"),
    "lost_reply_500": ("500 Internal Server Error", "InternalError"),
    "conflict": ("409 Conflict", "ConditionalRequestConflict"),
    "forbidden": ("403 Forbidden", "AccessDenied"),
    "no_conditions": ("501 Not Implemented", "NotImplemented"),
    "too_many": ("429 Too Many Requests", "SlowDown"),
    "absent": ("404 Not Found", "NoSuchKey"),
    "wrong_region": ("301 Moved Permanently", "PermanentRedirect"),
}
_CONDITION = "HTTP_IF_NONE_MATCH"
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class Fault:
    """What goes wrong: with `probability`, at most `times`, for requests of these methods whose path fits `path`."""

    kind: Kind
    probability: float = 1.0
    methods: tuple[str, ...] = ("GET", "HEAD", "PUT", "POST", "DELETE")
    path: str = "*"
    times: int = 10**9
    wait_s: float = 0.0
    query: str = "*"

    def fits(self, environ: dict[str, Any]) -> bool:
        conditional = self.kind not in ("no_conditions", "ignored_conditions", "conflict") or _CONDITION in environ
        return (
            self.times > 0
            and conditional
            and environ["REQUEST_METHOD"] in self.methods
            and fnmatch.fnmatch(environ["PATH_INFO"], self.path)
            and fnmatch.fnmatch(environ.get("QUERY_STRING", ""), self.query)
        )


@dataclass
class FaultyApplication:
    """Stands before moto. Requests reach moto one at a time: its check of If-None-Match and its write are two steps."""

    application: Application
    faults: list[Fault] = field(default_factory=list)
    random: random.Random = field(default_factory=lambda: random.Random(0))
    requests: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("HTTP_AUTHORIZATION", "").startswith("Bearer"):
            _speak_s3(environ)
        fault = self._pick(environ)
        if fault is None:
            return self._apply(environ, start_response)
        if fault.kind == "slow":
            time.sleep(fault.wait_s)
            return self._apply(environ, start_response)
        if fault.kind == "ignored_conditions":
            del environ[_CONDITION]
            return self._apply(environ, start_response)
        if fault.kind in ("lost_reply", "lost_reply_500"):
            list(self._apply(environ, lambda *_, **__: None))
        if fault.kind in ("lost_reply", "reset"):
            _break_connection(environ)
        return _error(fault.kind, environ, start_response)

    def _pick(self, environ: dict[str, Any]) -> Fault | None:
        with self.lock:
            self.requests[environ["REQUEST_METHOD"]] += 1
            for fault in self.faults:
                if fault.fits(environ) and self.random.random() < fault.probability:
                    fault.times -= 1
                    self.injected[fault.kind] += 1
                    return fault
        return None

    def _apply(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*headers, ("x-goog-generation", "1")], *rest)

        with self.lock:
            return list(self.application(environ, start))


def _speak_s3(environ: dict[str, Any]) -> None:
    """Google's XML API is S3's but for some headers: https://cloud.google.com/storage/docs/xml-api/reference-headers."""
    environ["HTTP_AUTHORIZATION"] = (
        "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    )
    if environ.get("HTTP_X_GOOG_IF_GENERATION_MATCH") == "0":
        environ[_CONDITION] = "*"


def _break_connection(environ: dict[str, Any]) -> None:
    connection: socket.socket = environ["werkzeug.socket"]
    # Linger of zero seconds: the other side sees a reset, not an orderly end.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RD)
    connection.close()
    raise ConnectionResetError("a fault that the test asked for")


def _error(kind: str, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    status, code = _STATUS[kind]
    headers = [("Content-Type", "application/xml")]
    if kind == "wrong_region":
        headers.append(("x-amz-bucket-region", "eu-central-1"))
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected</Message></Error>'.encode()
    if kind != "lost_reply_500":
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


class _QuietHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing: the tests break requests on purpose."""


class S3Server:
    """The server's address, its faults and its buckets."""

    def __init__(self, application: FaultyApplication, port: int) -> None:
        self.application = application
        self.url = f"http://127.0.0.1:{port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead the usual S3 clients here."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
            "GOOGLE_BASE_URL": self.url,
            "GOOGLE_BEARER_TOKEN": "test",
        }

    def new_bucket(self) -> str:
        """Return the name of a fresh bucket."""
        # A process keeps one client per bucket, and a session may start several servers.
        name = f"bucket{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def client(self) -> Any:
        """Return a client of another library, to look at what is really there."""
        return boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )

    @contextlib.contextmanager
    def failing(self, *faults: Fault, seed: int = 0) -> Iterator[Counter[str]]:
        """Inject `faults` (the first that fits a request counts) and give the counts of what was injected."""
        self.application.random = random.Random(seed)
        self.application.injected = Counter()
        self.application.faults = list(faults)
        try:
            yield self.application.injected
        finally:
            self.application.faults = []


@contextlib.contextmanager
def running_server() -> Iterator[S3Server]:
    """Serve S3 on a free port; `environment` of what is given leads clients there."""
    application = FaultyApplication(DomainDispatcherApplication(create_backend_app))
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, served_on(application, listener) as port:
        yield S3Server(application, port)


@contextlib.contextmanager
def served_on(application: FaultyApplication, listener: socket.socket) -> Iterator[int]:
    """Serve `application` on a listening socket, which may be one of another network namespace; give its port."""
    host, port = listener.getsockname()
    server = make_server(host, port, application, threaded=True, request_handler=_QuietHandler, fd=listener.fileno())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
