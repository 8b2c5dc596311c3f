"""Sockets of a run on one machine: they listen on the loopback address, where no other machine reaches them.

Ray is told to behave as on a Mac, where no other machine can join and its node is called 127.0.0.1: a loopback address
that is given to it by hand it replaces by a real one (ray/_private/services.py, resolve_ip_for_localhost). vLLM and
gloo are told theirs through the environment. What torch leaves to no setting is its
key-value store: it listens on all addresses of the machine (torch/csrc/distributed/c10d/TCPStore.cpp), except on a
socket that it is handed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOOPBACK = "127.0.0.1"
# Taken over by every process of a local cluster. NCCL: its bootstrap; data goes through shared memory or NVLink.
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "VLLM_HOST_IP": LOOPBACK,
}


@contextmanager
def on_loopback_alone() -> Iterator[None]:
    """Have what is started by the body, and by its children, listen on the loopback address where it asks at all."""
    # Read from the environment when Ray was imported, which may have been before.
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    may_be_joined, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = may_be_joined
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def keep_stores_on_loopback() -> None:
    """Have torch's key-value stores of this process listen on the loopback address when they are reached by it.

    On a cluster they are reached by the node's address and stay as they are.
    """
    # The package has a function of the same name.
    rendezvous: Any = importlib.import_module("torch.distributed.rendezvous")
    if rendezvous.TCPStore is not _tcp_store:
        rendezvous.TCPStore = _tcp_store


def _tcp_store(host_name: str, port: int, **options: Any) -> Any:
    """Return torch's TCPStore, on a socket of its own address where it is this process that serves it."""
    distributed: Any = importlib.import_module("torch.distributed")
    if options.get("is_master") and host_name in (LOOPBACK, "localhost"):
        # The store closes it; without a listener of its own, torch would bind to every address.
        # One that this process serves at that port already is shared (multi_tenant) and takes no new socket; when
        # another process is there, torch fails as it always would.
        with contextlib.suppress(OSError):
            options["master_listen_fd"] = socket.create_server((LOOPBACK, port)).detach()
    return distributed.TCPStore(host_name, port, **options)
