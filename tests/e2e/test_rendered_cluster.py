"""A run in the rendered pods of head and worker, submitted from the submitter's.

What KubeRay adds (the `ray start` lines, the token, the submitter's command) is as its documentation has it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.rendered_pods import ROOT, needs_mounts, run_together, smoke_job, write_scripts

pytestmark = [needs_mounts, pytest.mark.slow, pytest.mark.timeout(900)]
HEAD, WORKER = "10.9.0.1", "10.9.0.2"
# Two nodes on one network must not choose the same ports.
PORTS = "--min-worker-port=0 --max-worker-port=0 --disable-usage-stats"


def start_lines(ray_job: dict[str, Any]) -> dict[str, str]:
    """Return what each pod does, as KubeRay would have it."""
    cluster = ray_job["spec"]["rayClusterSpec"]
    group = cluster["workerGroupSpecs"][0]
    return {
        "head": f"ray start --head --block --node-ip-address={HEAD} --port=6379 --dashboard-host={HEAD} {PORTS} "
        f"--num-cpus={cluster['headGroupSpec']['rayStartParams']['num-cpus']} --object-store-memory=200000000",
        "worker": f"until ray health-check --address={HEAD}:6379 2>/dev/null; do sleep 1; done; "
        f"ray start --block --address={HEAD}:6379 --node-ip-address={WORKER} --dashboard-agent-listen-port=52366 "
        f"--num-cpus={group['resources']['CPU']} {PORTS} --object-store-memory=400000000",
        "submitter": f"until ray job list --address=http://{HEAD}:8265 >/dev/null 2>&1; do sleep 1; done; "
        f"ray job submit --address=http://{HEAD}:8265 --submission-id=job -- {ray_job['spec']['entrypoint']}",
    }


def bring_up(ray_job: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run all pods of a job until the submitter ends; their logs are in `folder`."""
    write_scripts(ray_job, start_lines(ray_job), folder)
    outer = f"""
        cd {folder}; ip link set lo up; ip address add {HEAD}/32 dev lo; ip address add {WORKER}/32 dev lo
        for role in head worker; do unshare --mount bash -eu $role.sh > $role.log 2>&1 & done
        unshare --mount bash -eu submitter.sh
    """
    return run_together(outer, 800)


def test_the_smallest_run_goes_through_in_pods_that_may_do_next_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    job = smoke_job(tmp_path)
    done = bring_up(job, tmp_path)
    logs = "".join(f"\n== {name}\n{(tmp_path / name).read_text()[-3000:]}" for name in ("head.log", "worker.log"))
    assert done.returncode == 0, f"{done.stdout[-6000:]}{done.stderr[-3000:]}{logs}"
    run = tmp_path / "shared" / "runs" / "smoke"
    assert len(list(run.glob("export/*/manifest.json"))) == 1
    assert {path.stat().st_uid for path in run.rglob("*")} == {1000}
    assert "quadruples from" in done.stdout
