"""A Ray cluster as an operator starts it, for tests that submit jobs to it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.canaries import CANARIES, TOKEN

RAY = str(Path(sys.executable).with_name("ray"))


def job_environment() -> dict[str, str]:
    """Return the environment of an operator who works in this virtual environment and has no other cluster in mind.

    It holds secrets, the cluster's token among them: see canaries.
    """
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, **CANARIES, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PATH": path}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def session_folder() -> Path:
    """Return where the cluster of this process keeps its files; Ray's sockets must have short paths."""
    return Path("/tmp") / f"wrpo-{os.getpid()}"


@contextmanager
def started_cluster(folder: Path) -> Iterator[str]:
    """A cluster of its own, started as an operator does; yields the address of its dashboard. folder: for its log."""
    gcs, dashboard, client, agent = free_ports(4)
    session = session_folder()
    environment = job_environment()
    command = [
        RAY, "start", "--head", "--block", "--num-cpus=4", "--node-ip-address=127.0.0.1", f"--port={gcs}",
        "--include-dashboard=true", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}", f"--temp-dir={session}", "--disable-usage-stats",
    ]  # fmt: skip
    log = (folder / "head.log").open("w+")
    head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        _wait_for_jobs_api(address, environment, head)
        yield address
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(timeout=60)
        log.close()
        shutil.rmtree(session, ignore_errors=True)


def _wait_for_jobs_api(address: str, environment: dict[str, str], head: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert head.poll() is None, "ray start ended"
        listed = subprocess.run(
            [RAY, "job", "list", "--address", address], env=environment, capture_output=True, check=False
        )
        if listed.returncode == 0:
            return
        time.sleep(1)
    pytest.fail("the cluster did not come up within 120 s")
