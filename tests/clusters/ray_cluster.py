"""A Ray cluster with token authentication on machines of a small network, and jobs submitted to it."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clusters.machines import REPOSITORY, Machine, Machines
from tests.clusters.network import connection_in

_PORT, _DASHBOARD = 6379, 8265
_STORE_BYTES = 200 * 2**20
_START_S = 240.0
_NODE = (
    "ray", "start", "--block", "--node-ip-address={address}", f"--object-store-memory={_STORE_BYTES}",
    "--disable-usage-stats",
)  # fmt: skip
# As the manifests for Kubernetes have it: nothing but the driver works on the head.
_HEAD = (
    *_NODE, "--head", "--num-cpus=0", f"--port={_PORT}", "--include-dashboard=true", "--dashboard-host=0.0.0.0",
    f"--dashboard-port={_DASHBOARD}",
)  # fmt: skip
_WORKER = (*_NODE, "--num-cpus=4")


@dataclass
class RayCluster:
    """A head and workers, by name."""

    machines: Machines
    nodes: dict[str, Machine] = field(default_factory=dict)

    def require(self, *workers: str) -> None:
        """Start the head and these workers if they do not run."""
        if "head" not in self.nodes:
            self._start({"head": _HEAD}, self.takes_jobs)
        if missing := [name for name in workers if name not in self.nodes]:
            self.start_workers(*missing)

    def start_workers(self, *names: str) -> None:
        """Start workers and wait until the head counts them among the living."""
        head = f"--address={self.nodes['head'].address}:{_PORT}"
        self._start({name: [*_WORKER, head] for name in names}, lambda: {*names} <= {*self.living()})

    def _start(self, commands: Mapping[str, Sequence[str]], are_there: Callable[[], bool]) -> None:
        """Start machines until they stay: Ray gives each 30 s (_private/node.py), which is little where all is busy."""
        deadline = time.monotonic() + _START_S
        self.nodes |= {name: self.machines.start(name, command) for name, command in commands.items()}
        while not are_there():
            logs = {name: self.nodes[name].log for name in commands}
            assert time.monotonic() < deadline, f"{list(commands)} are not there: {logs}"
            for name in commands:
                if self.nodes[name].outside.poll() is not None:
                    print(f"{name} has ended and is started again: {logs[name][-300:]}")
                    self.nodes[name] = self.machines.start(name, commands[name])
            time.sleep(1)

    def with_engine(self) -> str | None:
        """Return the machine on which an engine is at work, if there is one."""
        search = ("pgrep", "-f", "wrpo_ray.engines.child")
        return next((name for name, machine in self.nodes.items() if machine.run(*search).returncode == 0), None)

    def lose(self, *names: str) -> None:
        """Cut machines off and end them: nobody is told that they are gone."""
        for name in names:
            self.machines.network.unplug(name)
        for name in names:
            self.nodes.pop(name).lose()

    def cut_off(self, name: str, seconds: float) -> None:
        """Let nothing reach a machine for a while."""
        self.machines.network.unplug(name)
        time.sleep(seconds)
        self.machines.network.plug_in(name)

    def living(self) -> list[str]:
        """Return the names of the nodes that the head takes for alive."""
        told = self._asked("/api/v0/nodes") or {"data": {"result": {"result": []}}}
        nodes = [node["node_ip"] for node in told["data"]["result"]["result"] if node["state"] == "ALIVE"]
        by_address = {machine.address: name for name, machine in self.nodes.items()}
        return sorted(by_address.get(address, address) for address in nodes)

    def submit(self, submission_id: str, command: Sequence[str], working_dir: Path = REPOSITORY) -> None:
        """Submit a job and return when the cluster has taken it."""
        url = f"http://{self.nodes['head'].address}:{_DASHBOARD}"
        told = subprocess.run(
            self.machines.operator([
                "ray", "job", "submit", "--no-wait", "--address", url, "--submission-id", submission_id,
                "--working-dir", str(working_dir), "--", *command,
            ]),
            env=self.machines.operator_environment(), cwd=REPOSITORY, capture_output=True, text=True, check=False,
            timeout=300,
        )  # fmt: skip
        assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]

    def state(self, submission_id: str) -> str:
        """Return what the cluster says of a job: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED."""
        return (self._asked(f"/api/jobs/{submission_id}") or {"status": "unknown"})["status"]

    def logs(self, submission_id: str) -> str:
        """Return what a job has printed."""
        return (self._asked(f"/api/jobs/{submission_id}/logs") or {"logs": ""})["logs"]

    def takes_jobs(self) -> bool:
        """Tell whether the head answers about jobs."""
        return self._asked("/api/jobs/") is not None

    def _asked(self, path: str) -> Any:
        """Return the dashboard's answer to the operator, or None when there is none: a program would take seconds."""
        machines, head = self.machines, self.nodes["head"].address
        dashboard = http.client.HTTPConnection(head, _DASHBOARD)
        try:
            dashboard.sock = connection_in(machines.network.hub, head, _DASHBOARD)
            dashboard.request("GET", path, headers={"Authorization": f"Bearer {machines.token}"})
            answer = dashboard.getresponse()
            return json.loads(answer.read()) if answer.status == http.client.OK else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            dashboard.close()

    def wait_for(self, submission_id: str, timeout_s: float) -> str:
        """Wait for a job's end and return its state."""
        deadline = time.monotonic() + timeout_s
        while (state := self.state(submission_id)) in ("PENDING", "RUNNING", "unknown"):
            assert time.monotonic() < deadline, f"still {state}:\n{self.logs(submission_id)[-6000:]}"
            time.sleep(1)
        return state
