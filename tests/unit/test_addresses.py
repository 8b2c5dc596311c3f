"""Metadata services in every form in which an address can be written; and who follows a redirect to one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.unit.test_config import MINIMAL, parsed
from wrpo_ray.addresses import is_metadata_host, leads_to_metadata
from wrpo_ray.config import OpenAISourceConfig
from wrpo_ray.errors import ConfigError
from wrpo_ray.preflight.endpoint import check_endpoint


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "169.254.1.2", "2852039166", "0xA9FEA9FE", "0251.0376.0251.0376", "169.254.43518",
     "[::ffff:169.254.169.254]", "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe", "fe80::1", "[fd00:ec2::254]",
     "metadata.google.internal", "METADATA.google.internal.", "100.100.100.200", "168.63.129.16",
     "192.0.0.192", "169\u3002254\u3002169\u3002254", "\uff11\uff16\uff19\uff0e254\uff61169.254"],
)  # fmt: skip
def test_metadata_hosts(host: str) -> None:
    assert is_metadata_host(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "api.openai.com", "::1", "fd00::1", "metadata.example", ""])
def test_other_hosts(host: str) -> None:
    assert not is_metadata_host(host)


def test_name_that_leads_there_by_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(host: str, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, 1, 6, "", (text, 0)) for text in ("93.184.216.34", "169.254.169.254")]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert leads_to_metadata("https://innocent.example/v1") == "169.254.169.254"
    source = OpenAISourceConfig(name="a", type="openai", base_url="https://innocent.example/v1", model="m")
    (problem,) = check_endpoint("sources.a", source)
    assert (problem.place, problem.code) == ("sources.a.base_url", "WRPO-C131")


def test_name_without_an_address_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert leads_to_metadata("https://nowhere.example/v1") is None


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("sources=[{name: a, type: openai, model: m, base_url: 'http://169.254.169.254/v1'}]", "sources"),
        ("sources=[{name: a, type: openai, model: m, base_url: 'http://0xA9FEA9FE/v1'}]", "sources"),
        ("tracking.mlflow_tracking_uri='http://metadata.google.internal/x'", "tracking.mlflow_tracking_uri"),
        ("tracking.mlflow_tracking_uri='http://169\u3002254\u3002169\u3002254/x'", "tracking.mlflow_tracking_uri"),
    ],
)
def test_config_with_such_an_address(override: str, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(MINIMAL, override)
    (problem,) = caught.value.problems
    assert problem.code == "WRPO-C131"
    assert place in problem.place


class _Redirecting(BaseHTTPRequestHandler):
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        self.send_response(302)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def redirecting() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    asked: list[tuple[str, str | None]] = []
    handler = type("Handler", (_Redirecting,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
        server.shutdown()


def test_no_redirect_is_followed(
    redirecting: tuple[str, list[tuple[str, str | None]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an endpoint could send the run, and its key, anywhere."""
    url, asked = redirecting
    monkeypatch.setenv("MY_KEY", "c4nary-c4nary")
    source = OpenAISourceConfig(name="a", type="openai", base_url=url, model="m", api_key_env="MY_KEY")
    assert list(check_endpoint("sources.a", source)) == []
    assert [path for path, _ in asked] == ["/v1/models"]
