"""Token authentication of the Ray cluster that a run works on: it is on, or the config says that it need not be.

Whoever reaches an open cluster runs code on all of its nodes (CVE-2023-48022), so what the environment claims is not
believed: the cluster is asked something without a token, and must refuse.
"""

from __future__ import annotations

import importlib
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wrpo_ray.config import RayConfig
from wrpo_ray.errors import ConfigError

log = logging.getLogger(__name__)
MODE = "RAY_AUTH_MODE"
_ANSWER_TIMEOUT_S = 10.0
_FIX = (
    "start its nodes with RAY_AUTH_MODE=token and one token (`ray get-auth-token --generate`), or say that anybody who"
    " reaches it may run code on it: ray.allow_open_cluster=true"
)


def prepare_token(config: RayConfig, address: str) -> None:
    """See to it that this process shows a token where there is one; a local cluster gets one that others cannot read.

    Raises ConfigError when the environment turns authentication off and the config does not say that it may be.
    """
    mode = os.environ.get(MODE, "").strip().lower()
    if mode and mode != "token":
        if not config.allow_open_cluster:
            raise ConfigError(f"{MODE}={mode} turns the token authentication of Ray off", code="WRPO-C120", help=_FIX)
        return
    if address == "local" and not _has_token():
        _make_token_file()
    if address != "local" and not mode and not (_wants_token(address) and _has_token()):
        # A token is shown to nobody who does not ask for it; whether the cluster may be open is looked at when joined.
        return
    os.environ[MODE] = "token"
    _believe_environment()
    _tell_who_may_read()


def shown_token(environment: Mapping[str, str] = os.environ) -> str:
    """Return what the environment says of Ray's token, and who may read it; never the token."""
    mode = environment.get(MODE, "").strip().lower()
    if mode and mode != "token":
        return f"{MODE}={mode}: no token is asked for; a run refuses that (ray.allow_open_cluster)"
    if environment.get("RAY_AUTH_TOKEN"):
        return "in RAY_AUTH_TOKEN"
    place = _token_file()
    if not place.is_file():
        return f"none yet; a local run makes one in {place}"
    return f"in {place}" + (" (others on this machine can read it: chmod 600)" if _is_open(place) else "")


@contextmanager
def refusals_told() -> Iterator[None]:
    """Turn what Ray raises for a missing or wrong token into a ConfigError."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ConfigError(
            f"the Ray cluster does not let this process in: {str(error).splitlines()[0]}", code="WRPO-C121",
            help="set RAY_AUTH_TOKEN_PATH to a file with the cluster's token, or put it into ~/.ray/auth_token",
        ) from error  # fmt: skip


def require_closed(config: RayConfig, gcs_address: str) -> None:
    """Raise ConfigError when the cluster answers whoever asks and the config does not allow that."""
    if not answers_anybody(gcs_address):
        return
    if not config.allow_open_cluster:
        raise ConfigError(
            f"the Ray cluster at {gcs_address} has no token authentication: whoever reaches it can run code on it",
            code="WRPO-C120", help=_FIX,
        )  # fmt: skip
    log.warning("the Ray cluster at %s has no token authentication; ray.allow_open_cluster permits that", gcs_address)


def answers_anybody(gcs_address: str) -> bool:
    """Tell whether a cluster answers a request that shows no token.

    gcs_address: host:port of its control store. Raises ConfigError when that cannot be told.
    """
    import grpc
    from ray.core.generated import gcs_service_pb2_grpc

    messages: Any = importlib.import_module("ray.core.generated.gcs_service_pb2")
    # A proxy for web pages has no business between nodes.
    with grpc.insecure_channel(gcs_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        try:
            stub.GetAllNodeInfo(messages.GetAllNodeInfoRequest(), timeout=_ANSWER_TIMEOUT_S)
        except grpc.RpcError as error:
            return _refused(error.code(), gcs_address)  # pyright: ignore[reportAttributeAccessIssue]
    return True


def _wants_token(address: str) -> bool:
    """Tell whether the cluster at an address asks for a token; True where only Ray can tell which cluster that is."""
    host, _, port = address.rpartition(":")
    return not (host and port.isdecimal() and "/" not in host and answers_anybody(address))


def _refused(code: object, gcs_address: str) -> bool:
    """Return False when an error's code says that the request was not let in; raises ConfigError for any other."""
    import grpc

    # With mutual TLS, who has no certificate is not even heard.
    with_tls = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true") and code == grpc.StatusCode.UNAVAILABLE
    if with_tls or code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return False
    name = getattr(code, "name", code)
    raise ConfigError(
        f"the Ray cluster at {gcs_address} does not say whether it wants a token: {name}", code="WRPO-C121",
        help="look at the cluster's head, then run the same command again",
    )  # fmt: skip


def _has_token() -> bool:
    return bool(_raylet().AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def _believe_environment() -> None:
    """Have Ray read its environment again: it did so when it was imported."""
    _raylet().Config.initialize("")


def _raylet() -> Any:
    """Return Ray's compiled part, of which nobody knows the types."""
    return importlib.import_module("ray._raylet")


def _token_file() -> Path:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path.home() / ".ray" / "auth_token"


def _make_token_file() -> None:
    """Write a new token where Ray looks for it; Ray itself would leave it readable to everybody on the machine."""
    from ray._private.authentication.authentication_token_generator import generate_new_authentication_token

    place = _token_file()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    except OSError as error:
        if place.is_file():
            # Another start of this user's was first; or the file is empty, and Ray fills it.
            return
        raise ConfigError(
            f"Ray's token cannot be written to {place}: {error.strerror}", code="WRPO-C056",
            help="set HOME to a folder of yours, or RAY_AUTH_TOKEN_PATH to a file that holds a token",
        ) from error  # fmt: skip
    with os.fdopen(descriptor, "w") as file:
        file.write(generate_new_authentication_token())
    _raylet().AuthenticationTokenLoader.instance().reset_cache()


def _tell_who_may_read() -> None:
    """Warn about a token file that other users of the machine can read."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    place = _token_file()
    if _is_open(place):
        log.warning("other users of this machine can read Ray's token; mend it with: chmod 600 %s", place)


def _is_open(place: Path) -> bool:
    """Tell whether other users of the machine can read a file; of one that is not there nobody can."""
    try:
        return bool(place.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except OSError:
        return False
