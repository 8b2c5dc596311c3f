"""A small network of machines on this one: a network namespace each, joined by a bridge in a namespace of its own.

The bridge's namespace is where the operator sits and where the object store listens. Nothing of it is seen outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_PREFIX = "10.77.0"
HUB_ADDRESS = f"{_PREFIX}.1"


def why_not() -> str | None:
    """Return why namespaces cannot be made here, or None when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "ip", "link", "set", "lo", "up"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return None if tried.returncode == 0 else f"namespaces cannot be made: {tried.stderr.strip()}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


@dataclass
class Network:
    """The bridge `hub` and the plugs on it, by the name of the machine that they lead to."""

    hub: str = field(default_factory=lambda: f"wrpo-{os.getpid()}-hub")
    plugs: dict[str, str] = field(default_factory=dict)
    namespaces: list[str] = field(default_factory=list)

    def add(self, name: str) -> tuple[str, str]:
        """Make a namespace with an address on the bridge, and return both; a name that was there gets new ones."""
        number = len(self.namespaces) + 9
        namespace, plug, address = f"wrpo-{os.getpid()}-{name}-{number}", f"plug{number}", f"{_PREFIX}.{number}"
        self._new_namespace(namespace)
        self.plugs[name] = plug
        _ip("-n", self.hub, "link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("-n", self.hub, "link", "set", plug, "master", "bridge", "up")
        _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", namespace, "route", "add", "default", "via", HUB_ADDRESS)
        return namespace, address

    def unplug(self, name: str) -> None:
        """From now on nothing reaches the machine, nor comes from it; connections stay open at both ends."""
        _ip("-n", self.hub, "link", "set", self.plugs[name], "down")

    def plug_in(self, name: str) -> None:
        """Undo `unplug`."""
        _ip("-n", self.hub, "link", "set", self.plugs[name], "up")

    def _new_namespace(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self.namespaces.append(namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")

    def _begin(self) -> None:
        self._new_namespace(self.hub)
        _ip("-n", self.hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.hub, "address", "add", f"{HUB_ADDRESS}/24", "dev", "bridge")
        _ip("-n", self.hub, "link", "set", "bridge", "up")

    def _end(self) -> None:
        for namespace in reversed(self.namespaces):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", namespace)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Give a network of no machines yet, and remove it with all that were added."""
    made = Network()
    try:
        made._begin()
        yield made
    finally:
        made._end()


def listener_in(namespace: str) -> socket.socket:
    """Return a socket that listens in another namespace, on every address and a free port; this process serves it."""
    return _made_in(namespace, lambda: socket.create_server(("0.0.0.0", 0), backlog=128))


def connection_in(namespace: str, address: str, port: int) -> socket.socket:
    """Return a connection that starts in another namespace; raises OSError when there is none within 20 s."""
    return _made_in(namespace, lambda: socket.create_connection((address, port), timeout=20))


def _made_in(namespace: str, make: Callable[[], socket.socket]) -> socket.socket:
    """Return what `make` returns in a thread that has entered the namespace: a socket stays where it was made."""

    def enter_and_make() -> socket.socket:
        with Path(f"/run/netns/{namespace}").open("rb") as handle:
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
        return make()

    # The thread ends with its executor: nothing else is ever done in that namespace.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(enter_and_make).result()
