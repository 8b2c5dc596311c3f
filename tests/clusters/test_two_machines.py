"""A smoke fusion on two machines that share nothing but a network and a bucket."""

from __future__ import annotations

import shutil

import pytest

from tests.clusters.fusions import Fusion, Result
from tests.clusters.machines import REPOSITORY
from tests.clusters.ray_cluster import RayCluster
from tests.clusters.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SAMPLING = ("sample-source-qwen2", "sample-source-neox", "sample-target-sft")


def test_a_fusion_from_end_to_end(site: Site, peace: Result, cluster: RayCluster) -> None:
    assert len(peace.quadruples) > 8
    assert all(row.target_chosen_reward > row.rejected_reward for row in peace.quadruples)
    assert len(peace.losses["sft"]) > 8
    assert site.keys("runs/peace/export/", "/model/model.safetensors")
    assert "fused model: s3://" in cluster.logs("peace-1")
    # Nothing of the run lies on a machine: whoever takes both away takes nothing.
    for machine in cluster.nodes.values():
        assert not list((machine.folder / "tmp").rglob("*.parquet"))
        assert not list((machine.folder / "tmp").rglob("submissions"))


def test_a_folder_that_only_the_head_has_is_refused_before_anything_is_made(site: Site, cluster: RayCluster) -> None:
    shutil.copytree(REPOSITORY / "jobs" / "smoke", cluster.nodes["head"].folder / "tmp" / "models")
    fusion = Fusion(site, cluster, "local", ("target.path=/tmp/models/target", "run.root=/tmp/runs"))
    fusion.start()
    assert cluster.wait_for("local-1", 120) == "FAILED"
    log = fusion.log()
    assert log.count("error[WRPO-C057]") == 2
    assert "target.path" in log
    assert "run.root" in log
    assert "the folder is not there on the node worker" in log
    assert "exit code 2" in log or "sample-source-qwen2 began" not in log
