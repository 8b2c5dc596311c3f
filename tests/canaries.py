"""Secrets that are looked for wherever a run leaves something; the cluster's token is one of them."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

# Made up; in pieces so that no scanner takes this file for a leak.
TOKEN = "c4nary-of-the-cluster-" + "0123456789"
CANARIES = {
    "HF_TOKEN": "hf_" + "CaNaRyCaNaRyCaNaRyCaNaRyCaNaRy0002",
    "AWS_SECRET_ACCESS_KEY": "c4nary/" * 5 + "abcde",
    "WANDB_API_KEY": "0123456789" * 4,
    "MY_PASSWORD": "correct-" + "c4nary-battery",
}
_SECRETS = [value.encode() for value in (TOKEN, *CANARIES.values())]


def told_in(content: bytes) -> list[str]:
    """Return the names of the secrets in some bytes."""
    names = ["RAY_AUTH_TOKEN", *CANARIES]
    return [name for name, secret in zip(names, _SECRETS, strict=True) if secret in content]


def files_that_tell(folders: Iterable[Path]) -> list[str]:
    """Return which files below the folders hold which secret; sockets and what is gone meanwhile hold none."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and (names := told_in(_content(path))):
                found.append(f"{path}: {', '.join(names)}")
    return found


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def asked(url: str, method: str = "GET", token: str | None = None) -> tuple[int, bytes]:
    """Return status and body of an HTTP request, with a token or without."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def assert_only_with_token(dashboard: str) -> None:
    """Who has no token, or another one, can neither see, submit, stop nor delete a job."""
    jobs = f"{dashboard}/api/jobs/"
    for method, url in (("GET", jobs), ("POST", jobs), ("DELETE", f"{jobs}x"), ("POST", f"{jobs}x/stop")):
        assert asked(url, method)[0] == 401, (method, url)
        assert asked(url, method, "another-token-0123456789")[0] == 403, (method, url)
    assert asked(jobs, token=TOKEN)[0] == 200


def assert_nothing_told(dashboard: str, folders: Iterable[Path], output: str) -> None:
    """No secret is in a file of the run or of Ray's session, in the job's output, or in what the dashboard tells."""
    assert told_in(output.encode()) == []
    found = files_that_tell(folders)
    assert found == [], "\n".join(found)
    for path in ("/api/jobs/", "/api/v0/tasks?limit=1000&detail=1", "/api/v0/workers?detail=1", "/nodes?view=summary",
                 "/api/v0/runtime_envs", "/logical/actors"):  # fmt: skip
        status, body = asked(dashboard + path, token=TOKEN)
        assert status == 200, (path, body[:200])
        assert (path, told_in(body)) == (path, [])
