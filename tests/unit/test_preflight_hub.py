"""Models on the hub that cannot be had, over HTTP to a server on this machine: each reason is told, all at once."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.unit.test_preflight import config_of, folder, found, originals  # noqa: F401 - fixtures
from wrpo_ray.errors import ConfigError, render
from wrpo_ray.preflight import require_runnable

TOKEN = "hf_" + "CaNaRyCaNaRyCaNaRyCaNaRyCaNaRy0001"
# Status and X-Error-Code of each repository, as the hub sends them (huggingface_hub/utils/_http.py).
ANSWERS = {
    "gated": (403, "GatedRepo"),
    "asks-for-a-login": (401, "GatedRepo"),
    "bad-token": (401, ""),
    "forbidden": (403, ""),
    "missing": (404, "RepoNotFound"),
    "no-revision": (404, "RevisionNotFound"),
    "no-config": (404, "EntryNotFound"),
    # Not 500, which the client tries again for half a minute.
    "broken": (501, ""),
}


class Hub(BaseHTTPRequestHandler):
    """Answers each repository with its error."""

    def do_HEAD(self) -> None:
        status, code = ANSWERS[self.path.split("/")[2]]
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815 - the name is the base class's

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield endpoint
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "code", "rule"),
    [
        ("gated", "WRPO-M012", "only to accounts that accepted its terms"),
        ("asks-for-a-login", "WRPO-M012", "only to accounts that accepted its terms"),
        ("bad-token", "WRPO-M012", "the hub refuses access (HTTP 401)"),
        ("forbidden", "WRPO-M012", "the hub refuses access (HTTP 403)"),
        ("missing", "WRPO-M011", "no such model on the hub"),
        ("no-revision", "WRPO-M011", "no such revision"),
        ("no-config", "WRPO-M003", "holds no config.json"),
        ("broken", "WRPO-M013", "the hub answers HTTP 501"),
    ],
)
def test_what_the_hub_says(folder: Path, name: str, code: str, rule: str) -> None:  # noqa: F811
    problem = found(folder, f"target.path=organisation/{name}")
    assert (problem.code, problem.place.split(".")[0]) == (code, "target")
    assert rule in problem.rule
    assert TOKEN not in str(problem)


def test_no_network(folder: Path, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    problem = found(folder, "target.path=organisation/missing")
    assert problem.code == "WRPO-M013"
    assert "hf download organisation/missing" in problem.fix


@pytest.mark.usefixtures("hub")
def test_all_models_are_reported_in_one_message(folder: Path) -> None:  # noqa: F811
    overrides = ("target.path=organisation/gated", "sources.0.path=organisation/missing", "reward.path=/no/folder")
    with pytest.raises(ConfigError) as caught:
        require_runnable(config_of(folder, *overrides))
    assert [problem.code for problem in caught.value.problems] == ["WRPO-M011", "WRPO-M012", "WRPO-M002"]
    assert render(caught.value).endswith("error: run tiny cannot start: 3 problems")
    assert caught.value.exit_code == 2
