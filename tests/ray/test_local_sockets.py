"""A local run listens where no other machine reaches it. What cannot be bound to loopback is named in SECURITY.md."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch.distributed as distributed

from wrpo_ray.loopback import ENVIRONMENT, keep_stores_on_loopback, on_loopback_alone

REPOSITORY = Path(__file__).parents[2]
PROGRAM = """
import json, os, time
import ray
from tests.sockets import open_to_others
from wrpo_ray.cluster import connected
from wrpo_ray.config import RayConfig

with connected(RayConfig(num_cpus=1)):
    environment = ray.get(ray.remote(lambda: dict(os.environ)).remote())
    deadline = time.monotonic() + 8
    found = set()
    while time.monotonic() < deadline:
        found |= open_to_others()
        time.sleep(0.5)
print(json.dumps([sorted(found), os.environ["RAY_AUTH_MODE"], environment]))
"""


def test_a_local_cluster_listens_on_loopback_alone_and_wants_a_token(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, timeout=180, check=False,
        env={**kept, "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found, mode, environment = json.loads(done.stdout.splitlines()[-1])
    assert found == []
    assert mode == "token"
    assert ENVIRONMENT.items() <= environment.items()
    token = tmp_path / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0
    assert token.read_text() not in done.stdout + done.stderr


def listening() -> set[str]:
    return {str(found.laddr.ip) for found in psutil.Process().net_connections("inet") if found.status == "LISTEN"}


@pytest.mark.usefixtures("torch_rendezvous")
def test_torch_store_of_a_group_on_this_machine() -> None:
    keep_stores_on_loopback()
    keep_stores_on_loopback()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    before = listening()
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        distributed.barrier()
        rendezvous = importlib.import_module("torch.distributed.rendezvous")
        again = rendezvous.TCPStore("127.0.0.1", port, world_size=1, is_master=True, multi_tenant=True)
        again.set("key", "value")
        assert listening() - before <= {"127.0.0.1"}
    finally:
        distributed.destroy_process_group()


@pytest.fixture
def torch_rendezvous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put torch's own store back afterwards."""
    rendezvous = importlib.import_module("torch.distributed.rendezvous")
    monkeypatch.setattr(rendezvous, "TCPStore", rendezvous.TCPStore)


def test_the_environment_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.delenv("VLLM_HOST_IP", raising=False)
    with on_loopback_alone():
        assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["VLLM_HOST_IP"]) == ("lo", "127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
    assert "VLLM_HOST_IP" not in os.environ
