"""Who holds a run: one driver process, named so that nobody else on any machine has its name."""

from __future__ import annotations

import json
import os
import socket
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """A driver process. `process_started` is in clock ticks since boot; texts are "" where the system does not tell.

    boot_id, pid_namespace and process_started tell this process from another one that has its pid elsewhere or later.
    started_at is this machine's clock, for people; nothing is ever decided by it.
    """

    host: str
    pid: int
    boot_id: str
    pid_namespace: str
    process_started: str
    started_at: str
    id: str
    submission_id: str

    def __str__(self) -> str:
        return f"driver pid {self.pid} on {self.host} since {self.started_at}"


def this_process() -> Owner:
    """Return this process as an owner; every call gives another id, since a process may hold several leases."""
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        process_started=_process_fields(os.getpid()).get("started", ""),
        started_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        id=uuid.uuid4().hex,
        submission_id=_submission_id(),
    )


def surely_dead(owner: Owner) -> bool:
    """Tell whether `owner` is a process of this very machine that has ended; False when that cannot be known.

    A pid says nothing in another container or after a reboot, so boot and pid namespace must be this process's own.
    """
    if not owner.boot_id or not owner.pid_namespace:
        return False
    if (owner.host, owner.boot_id, owner.pid_namespace) != (socket.gethostname(), _boot_id(), _pid_namespace()):
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    fields = _process_fields(owner.pid)
    if not fields or not owner.process_started:
        return False
    return fields["started"] != owner.process_started or fields["state"] in ("Z", "X")


def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _pid_namespace() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _process_fields(pid: int) -> dict[str, str]:
    """State and start time of a process (proc_pid_stat(5), fields 3 and 22), or nothing where there is no /proc."""
    with suppress(OSError):
        # The command, field 2, is in brackets and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return {"state": fields[0], "started": fields[19]}
    return {}


def _submission_id() -> str:
    """`ray job submit` hands its id down in the driver's environment (ray: dashboard/modules/job/job_supervisor.py)."""
    with suppress(ValueError, LookupError, TypeError):
        return str(json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))["metadata"]["job_submission_id"])
    return ""
