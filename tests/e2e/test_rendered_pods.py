"""The rendered head's pod sees what a laptop sees, and may do next to nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rendered_pods import ROOT, needs_mounts, run_together, smoke_job, write_scripts

pytestmark = needs_mounts


def test_the_heads_pod_plans_the_very_steps_that_a_laptop_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same fingerprints, so a run that was begun on a laptop goes on there; and nothing may be written or asked."""
    monkeypatch.chdir(ROOT)
    job = smoke_job(tmp_path)
    tried = "; ".join(
        f"touch {place}/x 2>/dev/null && echo wrote {place}" for place in ("/opt", "/etc/wrpo_ray", "/tmp")
    )
    command = f"id -u; {tried}; grep CapBnd /proc/self/status; {job['spec']['entrypoint']} --dry-run"
    write_scripts(job, {"head": command}, tmp_path)
    done = run_together(f"ip link set lo up; bash -eu {tmp_path}/head.sh", 500)
    assert done.returncode == 0, done.stderr[-3000:]
    user, wrote, capabilities, _, *steps = done.stdout.splitlines()
    assert (user, wrote, capabilities.split()[1]) == ("1000", "wrote /tmp", "0" * 16)
    laptop = [
        sys.executable,
        "jobs/fuse.py",
        "--config",
        "jobs/configs/smoke.yaml",
        "--dry-run",
        f"run.root={tmp_path}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(laptop, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=True)
    assert steps == found.stdout.splitlines()[1:]
    assert len(steps) == 13
