"""The whole smoke run in an S3 bucket: real engines, real training, a server that fails now and then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.s3_server import Fault, running_server
from wrpo_ray.schema import Quadruple
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.tables import read_rows

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_smoke_run_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        root = f"s3://{server.new_bucket()}/runs"
        command = [sys.executable, "jobs/fuse.py", "--config", "jobs/configs/smoke.yaml", f"run.root={root}"]
        environment = {**os.environ, "WRPO_RAY_CACHE": str(tmp_path / "cache")}
        with server.failing(Fault("slow_down", probability=0.05), Fault("lost_reply", probability=0.02)) as injected:
            done = subprocess.run(
                [*command, f"export.path={tmp_path / 'model'}"], cwd=REPOSITORY, env=environment, text=True,
                capture_output=True, check=False, timeout=800,
            )  # fmt: skip
            print(done.stderr[-6000:])
            assert done.returncode == 0, done.stderr[-6000:]
            # Faults were met, or this shows nothing.
            assert injected.total() > 5
            print(f"{dict(injected)} faults met")
        (fused,) = {
            str(place).rsplit("/data/", 1)[0]
            for place in (locate(root) / "smoke" / "fuse").walk()
            if "/data/" in place.key
        }
        assert len(read_rows(locate(fused), Quadruple)) == 15
        assert (tmp_path / "model" / "model.safetensors").exists()
        again = subprocess.run(
            [*command, "--dry-run"], cwd=REPOSITORY, env=environment, text=True, capture_output=True, check=True
        )
        assert "to run" not in again.stdout
