"""Token authentication: what the environment says, what the cluster does, and who may read the token."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from wrpo_ray import cluster_auth, doctor
from wrpo_ray.cluster_auth import answers_anybody, prepare_token, refusals_told, require_closed, shown_token
from wrpo_ray.config import RayConfig
from wrpo_ray.errors import ConfigError

OPEN = RayConfig(allow_open_cluster=True)
CLOSED = RayConfig()


@pytest.fixture
def ray_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """Ray's compiled part as far as it is asked, in an environment without token or mode."""
    part = SimpleNamespace(token=False, initialized=0)

    def has_token(ignore_auth_mode: bool) -> bool:
        assert ignore_auth_mode
        return part.token

    def reset() -> None:
        part.token = (tmp_path / ".ray" / "auth_token").is_file()

    def initialize(_: str) -> None:
        part.initialized += 1

    loader = SimpleNamespace(has_token=has_token, reset_cache=reset)
    part.AuthenticationTokenLoader = SimpleNamespace(instance=lambda: loader)
    part.Config = SimpleNamespace(initialize=initialize)
    monkeypatch.setattr(cluster_auth, "_raylet", lambda: part)
    monkeypatch.setenv("HOME", str(tmp_path))
    # Set first, so that what the code sets is taken back too.
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return part


@pytest.mark.parametrize("mode", ["disabled", "DISABLED", "none", "off"])
@pytest.mark.parametrize("address", ["local", "10.0.0.1:6379"])
def test_mode_that_turns_it_off(
    mode: str, address: str, monkeypatch: pytest.MonkeyPatch, ray_part: SimpleNamespace
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(ConfigError) as caught:
        prepare_token(CLOSED, address)
    assert caught.value.code == "WRPO-C120"
    assert "ray.allow_open_cluster=true" in str(caught.value.help)
    prepare_token(OPEN, address)
    assert (os.environ["RAY_AUTH_MODE"], ray_part.initialized) == (mode, 0)


@pytest.mark.usefixtures("ray_part")
def test_local_cluster_gets_a_token_of_its_own(tmp_path: Path) -> None:
    prepare_token(CLOSED, "local")
    place = tmp_path / ".ray" / "auth_token"
    assert len(place.read_text()) >= 32
    assert place.stat().st_mode & 0o777 == 0o600
    assert os.environ["RAY_AUTH_MODE"] == "token"
    before = place.read_text()
    prepare_token(CLOSED, "local")
    assert place.read_text() == before


@pytest.mark.parametrize(("is_open", "has_token", "shown"), [
    (False, True, True), (False, False, False), (True, True, False), (True, False, False),
])  # fmt: skip
def test_a_token_is_shown_to_who_asks_for_it(
    is_open: bool, has_token: bool, shown: bool, ray_part: SimpleNamespace, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(cluster_auth, "answers_anybody", lambda address: is_open)
    ray_part.token = has_token
    prepare_token(CLOSED, "10.0.0.1:6379")
    assert (os.environ.get("RAY_AUTH_MODE"), ray_part.initialized) == (("token", 1) if shown else (None, 0))
    assert not (tmp_path / ".ray").exists()


@pytest.mark.parametrize("address", ["auto", "ray://10.0.0.1:10001"])
def test_only_ray_knows_which_cluster_that_is(address: str, ray_part: SimpleNamespace) -> None:
    ray_part.token = True
    prepare_token(CLOSED, address)
    assert os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o644, True), (0o640, True)])
def test_who_may_read_the_token(
    mode: int, warns: bool, ray_part: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / ".ray" / "auth_token"
    place.parent.mkdir()
    place.write_text("c4nary-c4nary-c4nary")
    place.chmod(mode)
    ray_part.token = True
    with caplog.at_level(logging.WARNING):
        prepare_token(CLOSED, "local")
    assert (f"chmod 600 {place}" in caplog.text) is warns
    assert "c4nary" not in caplog.text


@pytest.mark.usefixtures("ray_part")
def test_home_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / ".ray").write_text("a file")
    with pytest.raises(ConfigError) as caught:
        prepare_token(CLOSED, "local")
    assert caught.value.code == "WRPO-C056"


@pytest.fixture
def control_store(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that answers every request alike, as a cluster's control store would."""
    code: grpc.StatusCode | None = request.param

    def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
        assert not dict(context.invocation_metadata()).get("authorization")
        if code is not None:
            context.abort(code, "told so")
        return b""

    class Everything(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            assert handler_call_details.method == "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Everything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.mark.parametrize("control_store", [None], indirect=True)
def test_cluster_that_answers_anybody(control_store: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match="no token authentication") as caught:
        require_closed(CLOSED, control_store)
    assert (caught.value.code, caught.value.exit_code) == ("WRPO-C120", 2)
    with caplog.at_level(logging.WARNING):
        require_closed(OPEN, control_store)
    assert "no token authentication" in caplog.text


@pytest.mark.parametrize(
    "control_store", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED], indirect=True
)
def test_cluster_that_wants_a_token(control_store: str) -> None:
    assert not answers_anybody(control_store)
    require_closed(CLOSED, control_store)


@pytest.mark.parametrize("control_store", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL], indirect=True)
def test_cluster_of_which_it_cannot_be_told(control_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        answers_anybody(control_store)
    assert caught.value.code == "WRPO-C121"
    monkeypatch.setenv("RAY_USE_TLS", "1")
    if "UNAVAILABLE" in str(caught.value):
        assert not answers_anybody(control_store)


def test_refusal_of_ray_is_told() -> None:
    from ray.exceptions import AuthenticationError

    with pytest.raises(ConfigError, match="does not let this process in: no token") as caught, refusals_told():
        raise AuthenticationError("no token")
    assert caught.value.code == "WRPO-C121"


@pytest.mark.usefixtures("ray_part")
def test_what_doctor_says_of_the_token(tmp_path: Path) -> None:
    place = tmp_path / ".ray" / "auth_token"
    assert shown_token({}) == f"none yet; a local run makes one in {place}"
    place.parent.mkdir()
    place.write_text("c4nary-c4nary-c4nary")
    place.chmod(0o644)
    assert shown_token({}) == f"in {place} (others on this machine can read it: chmod 600)"
    place.chmod(0o600)
    assert shown_token({}) == f"in {place}"
    assert shown_token({"RAY_AUTH_TOKEN": "c4nary-c4nary"}) == "in RAY_AUTH_TOKEN"
    assert "a run refuses that" in shown_token({"RAY_AUTH_MODE": "disabled"})
    assert dict(doctor.diagnose().facts)["Ray token"] == f"in {place}"
