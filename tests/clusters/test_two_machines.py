"""The smoke fusion on machines that share nothing but a network and a bucket."""

from __future__ import annotations

import shutil

import pytest

from tests.clusters.conftest import WORKERS
from tests.clusters.fusions import Fusion
from tests.clusters.machines import REPOSITORY
from tests.clusters.ray_cluster import RayCluster
from tests.clusters.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
# As on one machine: tests/e2e/test_run_on_s3.py.
NUM_QUADRUPLES = 15


def test_a_folder_that_only_the_head_has_is_refused_before_anything_is_made(site: Site, cluster: RayCluster) -> None:
    shutil.copytree(REPOSITORY / "jobs" / "smoke", cluster.nodes["head"].folder / "tmp" / "models")
    fusion = Fusion(site, cluster, "local", ("target.path=/tmp/models/target", "run.root=/tmp/runs"))
    fusion.start()
    assert cluster.wait_for("local-1", 200) == "FAILED"
    log = fusion.log()
    assert log.count("error[WRPO-C057]") == 2
    assert "target.path" in log
    assert "run.root" in log
    assert log.count("the folder is not there on 2 nodes: worker-") == 2
    assert "prompts begins" not in log


def test_a_fusion_with_training_on_two_machines(site: Site, peace: Fusion) -> None:
    result = peace.result()
    assert len(result.quadruples) > 8
    assert all(row.target_chosen_reward > row.rejected_reward for row in result.quadruples)
    assert len(result.losses["sft"]) > 8
    assert site.keys("runs/peace/export/", "/model/model.safetensors")
    assert "fused model: s3://" in peace.log()
    for name in WORKERS:
        assert peace.cluster.nodes[name].has_logged(":actor_name:RayTrainWorker"), f"{name} has not trained"
    # Nothing of the run lies on a machine: whoever takes all of them away takes nothing.
    for machine in peace.cluster.nodes.values():
        assert not list((machine.folder / "tmp").rglob("*.parquet"))
        assert not list((machine.folder / "tmp").rglob("peace"))


def test_the_smoke_config_as_it_is(site: Site, cluster: RayCluster) -> None:
    """Its models come with the job's working directory, which Ray puts on every machine; the run is in the bucket."""
    fusion = Fusion(site, cluster, "smoke")
    fusion.start()
    fusion.require_success()
    assert len(fusion.result().quadruples) == NUM_QUADRUPLES
