"""The smoke fusion on machines that share nothing but a network and a bucket."""

from __future__ import annotations

import shutil

import pytest

from tests.clusters.fusions import Fusion
from tests.clusters.machines import REPOSITORY
from tests.clusters.ray_cluster import RayCluster
from tests.clusters.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NUM_QUADRUPLES = 15
# Of a machine's four CPUs, so that the two workers of a training lie on two machines.
_APART = [f"{step}.{value}" for step in ("sft", "wrpo") for value in ("num_workers=2", "num_cpus_per_worker=3")]


def test_the_smoke_config_with_training_on_two_machines(site: Site, cluster: RayCluster) -> None:
    """The models come with the job's working directory, which Ray puts on every machine; the run is in the bucket."""
    cluster.require("worker", "worker-2")
    fusion = Fusion(site, cluster, "smoke", _APART)
    fusion.start()
    fusion.require_success()
    result = fusion.result()
    assert len(result.quadruples) == NUM_QUADRUPLES
    assert all(row.target_chosen_reward > row.rejected_reward for row in result.quadruples)
    assert site.keys("runs/smoke/export/", "/model/model.safetensors")
    assert "fused model: s3://" in fusion.log()
    for name in ("worker", "worker-2"):
        assert cluster.nodes[name].has_logged(":actor_name:RayTrainWorker"), f"{name} has not trained"
    # Nothing of the run lies on a machine: whoever takes all of them away takes nothing.
    for machine in cluster.nodes.values():
        assert not [path for path in (machine.folder / "tmp").rglob("*.parquet") if "_ray_pkg_" not in str(path)]
        assert not list((machine.folder / "tmp").rglob("submissions"))


def test_a_folder_that_only_the_head_has_is_refused_before_anything_is_made(site: Site, cluster: RayCluster) -> None:
    shutil.copytree(REPOSITORY / "jobs" / "smoke", cluster.nodes["head"].folder / "tmp" / "models")
    fusion = Fusion(site, cluster, "local", ("target.path=/tmp/models/target", "run.root=/tmp/runs"))
    fusion.start()
    assert cluster.wait_for("local-1", 200) == "FAILED"
    log = fusion.log()
    assert log.count("error[WRPO-C057]") == 2
    assert "target.path" in log
    assert "run.root" in log
    assert log.count("the folder is not there on the node worker") == 2
    assert "prompts begins" not in log
