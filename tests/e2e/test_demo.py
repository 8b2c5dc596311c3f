"""What the README says of the demo: fused beats Target-SFT, which beats the target. Minutes long: make test-slow."""

import subprocess
import sys
from pathlib import Path

import pytest

from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import require_manifest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_stage_of_the_demo_beats_the_one_before(tmp_path: Path) -> None:
    assets = [sys.executable, "-m", "jobs.demo.make_assets", "--out", "demo_assets"]
    subprocess.run(assets, cwd=REPOSITORY, check=True)
    fuse = [sys.executable, "jobs/fuse.py", "--config", "jobs/configs/demo.yaml", f"run.root={tmp_path}"]
    subprocess.run(fuse, cwd=REPOSITORY, check=True)
    (folder,) = (tmp_path / "demo" / "evaluate").iterdir()
    models = require_manifest(locate(folder)).summary["models"]
    assert list(models) == ["target", "target-sft", "fused"]
    # The interval of the gain on the same prompts excludes zero.
    assert models["target-sft"]["gain"]["low"] > 0
    assert models["fused"]["gain"]["low"] > 0
