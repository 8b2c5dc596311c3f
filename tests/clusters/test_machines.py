"""The machines of these tests are as far from each other, and from this one, as they claim to be."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters.machines import REPOSITORY, Machine, Machines, machines
from tests.clusters.network import connection_in, network, why_not

_ASK = "import socket, sys; socket.create_connection((sys.argv[1], 7000), 2).close(); print('reached')"


@pytest.fixture
def made() -> Iterator[Machines]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with network() as net, machines(net, {}) as started:
        yield started


def server(made: Machines, name: str) -> Machine:
    """Start a machine that serves its /tmp, and wait until it does."""
    machine = made.start(name, [sys.executable, "-m", "http.server", "7000"])
    deadline = time.monotonic() + 30
    while "reached" not in reached(machine, machine):
        assert time.monotonic() < deadline, machine.log
        time.sleep(0.1)
    return machine


def reached(one: Machine, other: Machine) -> str:
    return one.run(sys.executable, "-c", _ASK, other.address).stdout


def test_machines_share_a_network_and_nothing_else(made: Machines) -> None:
    one, other = server(made, "one"), server(made, "other")
    assert "reached" in reached(one, other)
    (one.folder / "tmp" / "mine").write_text("")
    assert "mine" in one.run("ls", "/tmp").stdout
    assert "mine" not in other.run("ls", "/tmp").stdout
    assert one.run("hostname").stdout == "one\n"
    assert one.run("ls", str(REPOSITORY)).stdout == ""
    assert str(os.getpid()) not in one.run("ls", "/proc").stdout.split()
    connection_in(made.network.hub, one.address, 7000).close()
    made.network.unplug("other")
    assert "reached" not in reached(one, other)
    made.network.plug_in("other")
    assert "reached" in reached(one, other)


def test_a_machine_that_is_lost_takes_all_of_its_processes_along(made: Machines) -> None:
    machine = server(made, "one")
    children = Path(f"/proc/{machine.pid()}/task/{machine.pid()}/children").read_text().split()
    assert children
    machine.lose()
    assert machine.outside.poll() is not None
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
