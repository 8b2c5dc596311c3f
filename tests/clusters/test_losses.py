"""What comes back: a machine that is cut off, one that is lost, and a cluster that is lost with its driver."""

from __future__ import annotations

import time

import pytest

from tests.clusters.conftest import WORKERS
from tests.clusters.fusions import Fusion, slow_fusion
from tests.clusters.ray_cluster import RayCluster
from tests.clusters.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def require_same(fusion: Fusion, peace: Fusion) -> None:
    """Nothing is lost, nothing is doubled, and all is as if nothing had happened."""
    for step in ("sample-source-qwen2", "sample-target-sft"):
        rows, different = fusion.shard_rows(step)
        assert rows == different
    found, expected = fusion.result(), peace.result()
    assert found.quadruples == expected.quadruples
    assert found.losses == expected.losses


def test_five_seconds_without_a_network_and_a_machine_that_is_lost(
    site: Site, cluster: RayCluster, peace: Fusion
) -> None:
    fusion = slow_fusion(site, cluster, "rough")
    fusion.start()
    sampling = fusion.wait_for_engine("sample-source-qwen2")
    fusion.wait_for_commits("sample-source-qwen2")
    cluster.cut_off(sampling, 5.0)
    fusion.wait_for_checkpoint("sft")
    cluster.cut_off(WORKERS[1], 5.0)
    # Both times the very same nodes went on.
    assert cluster.living() == ["head", *WORKERS]
    lost = fusion.wait_for_engine("sample-target-sft")
    fusion.wait_for_commits("sample-target-sft")
    cluster.lose(lost)
    lost_at = time.monotonic()
    cluster.start_workers(lost)
    print(f"another machine is there after {time.monotonic() - lost_at:.0f} s")
    fusion.require_success()
    print(f"the end is reached after {time.monotonic() - lost_at:.0f} s")
    require_same(fusion, peace)


def test_the_whole_cluster_is_lost_and_another_one_goes_on(site: Site, cluster: RayCluster, peace: Fusion) -> None:
    fusion = slow_fusion(site, cluster, "cluster-loss")
    fusion.start()
    fusion.wait_for_checkpoint("sft")
    cluster.lose("head", *WORKERS)
    cluster.require(*WORKERS)
    fusion.start()
    fusion.require_success()
    assert "sample-source-qwen2 began" not in fusion.log(), "what is committed is not drawn again"
    require_same(fusion, peace)
