"""Machines of a network: a host name, folders, processes and a network of their own, as containers have them.

Of this machine a node sees Python with its packages and nothing else: neither the checkout, nor a home folder, nor
/tmp. Killing the first process of its namespace ends all of them at once, as a power cut does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.clusters.network import Network

REPOSITORY = Path(__file__).parents[2]
_BIN = Path(sys.prefix) / "bin"
_SETUP = """
set -e
hostname "$NODE_NAME"
mount --make-rprivate /
# Before anything is hidden: it may lie in /tmp itself.
kept="$NODE_FOLDER/kept"
mkdir "$kept"
mount --bind "$KEPT" "$kept"
mount --bind "$NODE_FOLDER/tmp" /tmp
mount --bind "$NODE_FOLDER/etc/hosts" /etc/hosts
mount --bind "$NODE_FOLDER/etc/resolv.conf" /etc/resolv.conf
mount -t tmpfs -o size=2g tmpfs /dev/shm
for folder in $HIDDEN; do
    # What lies in /tmp is hidden already.
    if [ -d "$folder" ]; then mount -t tmpfs -o size=1m tmpfs "$folder"; fi
done
mkdir -p "$KEPT"
mount --bind "$kept" "$KEPT"
touch "$NODE_FOLDER/ready"
unset NODE_FOLDER KEPT HIDDEN
set +e
cd /tmp
# Not by `exec`: somebody must bury the processes that lose their parents.
"$@"
exit $?
"""


@dataclass(frozen=True)
class Machine:
    """A machine that runs. folder: holds what it sees as /tmp."""

    name: str
    address: str
    folder: Path
    environment: Mapping[str, str]
    outside: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        """What its first program has said."""
        return (self.folder / "log").read_text(errors="replace")

    def has_logged(self, text: str) -> bool:
        """Tell whether a process of Ray's on this machine has said something."""
        logs = (self.folder / "tmp" / "ray").glob("session_*/logs/worker-*")
        return any(text in path.read_text(errors="replace") for path in logs)

    def pid(self) -> int:
        """The process id, seen from here, of its first process."""
        children = Path(f"/proc/{self.outside.pid}/task/{self.outside.pid}/children")
        return int(children.read_text().split()[0])

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine."""
        return subprocess.run(
            ["nsenter", "--target", str(self.pid()), "--all", "--wd=/tmp", *command], env=dict(self.environment),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def lose(self) -> None:
        """End everything on the machine at once, without a word to anybody."""
        if self.outside.poll() is None:
            with contextlib.suppress(ProcessLookupError, IndexError, FileNotFoundError):
                os.kill(self.pid(), signal.SIGKILL)
            self.outside.wait(timeout=30)


@dataclass
class Machines:
    """Starts machines on a network; each start of a name is another machine, with an address and folders of its own."""

    network: Network
    folder: Path
    environment: Mapping[str, str]
    token: str

    def __post_init__(self) -> None:
        self._running: list[Machine] = []

    def start(self, name: str, command: Sequence[str]) -> Machine:
        """Start a machine whose first program is `command`; {address} in it stands for the machine's own."""
        namespace, address = self.network.add(name)
        folder = self._folder(name, address)
        program = [each.replace("{address}", address) for each in command]
        environment = self._environment(name, folder)
        with (folder / "log").open("wb") as log:
            outside = subprocess.Popen(
                [
                    # Nothing of it outlives the tests, however they end.
                    "setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{namespace}",
                    "unshare", "--uts", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
                    "bash", "-c", _SETUP, "bash", *program,
                ],
                env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        machine = Machine(name, address, folder, environment, outside)
        self._running.append(machine)
        while not (folder / "ready").exists():
            assert outside.poll() is None, machine.log
            time.sleep(0.02)
        return machine

    def operator(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs `command` beside the bridge, with this machine's own files."""
        return ["nsenter", f"--net=/run/netns/{self.network.hub}", *command]

    def operator_environment(self) -> dict[str, str]:
        """Return the environment of the operator, who holds the token too."""
        home = self.folder / "operator"
        _write_token(home, self.token)
        return {**self._common(), "HOME": str(home), **self.environment}

    def end(self) -> None:
        """End all machines."""
        for machine in self._running:
            machine.lose()

    def _folder(self, name: str, address: str) -> Path:
        folder = self.folder / f"{name}-{uuid.uuid4().hex[:6]}"
        _write_token(folder / "tmp" / "home", self.token)
        (folder / "tmp").chmod(0o1777)
        (folder / "etc").mkdir()
        # As on Kubernetes: a node knows its own name and nobody else's.
        (folder / "etc" / "hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
        (folder / "etc" / "resolv.conf").write_text("")
        return folder

    def _environment(self, name: str, folder: Path) -> dict[str, str]:
        hidden = [str(REPOSITORY)]
        # The checkout that this environment was installed from, if that is another one.
        if (Path(sys.prefix).parent / "pyproject.toml").exists() and Path(sys.prefix).parent != REPOSITORY:
            hidden.append(str(Path(sys.prefix).parent))
        own = {"NODE_NAME": name, "NODE_FOLDER": str(folder), "KEPT": sys.prefix, "HIDDEN": " ".join(hidden)}
        return {**self._common(), "HOME": "/tmp/home", **self.environment, **own}

    def _common(self) -> dict[str, str]:
        return {
            "PATH": f"{_BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
        }


def _write_token(home: Path, token: str) -> None:
    """Put the token where Ray looks for it: ~/.ray/auth_token."""
    folder = home / ".ray"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "auth_token").write_text(token)
    (folder / "auth_token").chmod(0o600)


@contextlib.contextmanager
def machines(network: Network, environment: Mapping[str, str]) -> Iterator[Machines]:
    """Give machines whose processes get `environment`; all of them end with the block, and their folders go."""
    # Ray's sockets must have short paths, and /tmp is what nodes have of their own.
    folder = Path("/var/tmp") / f"wrpo-{os.getpid()}"
    folder.mkdir()
    made = Machines(network, folder, environment, uuid.uuid4().hex)
    try:
        yield made
    finally:
        made.end()
        time.sleep(0.2)
        shutil.rmtree(folder, ignore_errors=True)
