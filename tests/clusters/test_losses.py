"""What comes back: a machine that is cut off, one that is lost, and a cluster that is lost with its driver."""

from __future__ import annotations

import time

import pytest

from tests.clusters.fusions import Fusion, Result, slow_fusion
from tests.clusters.ray_cluster import RayCluster
from tests.clusters.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def require_same(fusion: Fusion, peace: Result) -> None:
    """Nothing is lost, nothing is doubled, and all is as if nothing had happened."""
    for step in ("sample-source-qwen2", "sample-target-sft"):
        rows, different = fusion.shard_rows(step)
        assert rows == different
    found = fusion.result()
    assert found.quadruples == peace.quadruples
    assert found.losses == peace.losses


def test_five_seconds_without_a_network_and_a_machine_that_is_lost(
    site: Site, cluster: RayCluster, peace: Result
) -> None:
    fusion = slow_fusion(site, cluster, "rough")
    fusion.start()
    fusion.wait_for_commits("sample-source-qwen2")
    cluster.cut_off("worker", 5.0)
    fusion.wait_for_checkpoint("sft")
    cluster.cut_off("worker", 5.0)
    fusion.wait_for_commits("sample-target-sft", 3)
    # Both times the very same node went on.
    assert cluster.living() == ["head", "worker"]
    assert "restart" not in fusion.log()
    cluster.lose("worker")
    lost_at = time.monotonic()
    cluster.start_worker("worker")
    print(f"another machine is there after {time.monotonic() - lost_at:.0f} s")
    fusion.require_success()
    print(f"the end is reached after {time.monotonic() - lost_at:.0f} s")
    require_same(fusion, peace)


def test_the_whole_cluster_is_lost_and_another_one_goes_on(site: Site, cluster: RayCluster, peace: Result) -> None:
    fusion = slow_fusion(site, cluster, "cluster-loss")
    fusion.start()
    fusion.wait_for_checkpoint("sft")
    cluster.lose("head", "worker")
    cluster.require("worker")
    fusion.start()
    fusion.require_success()
    log = fusion.log()
    assert "sample-source-qwen2 began" not in log, "what is committed is not drawn again"
    require_same(fusion, peace)
