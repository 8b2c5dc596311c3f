"""A network with an object store and a Ray cluster of two machines, for whoever may make network namespaces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clusters.fusions import Fusion, slow_fusion
from tests.clusters.machines import machines
from tests.clusters.network import HUB_ADDRESS, listener_in, network, why_not
from tests.clusters.ray_cluster import RayCluster
from tests.clusters.site import Site
from tests.storage.s3_server import running_server, served_on

WORKERS = ("worker-1", "worker-2")


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A network without machines yet, and a bucket that they and this process reach."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with running_server() as server, network() as net, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        with listener_in(net.hub) as listener, served_on(server.application, listener) as port:
            inside = server.environment | {"AWS_ENDPOINT_URL": f"http://{HUB_ADDRESS}:{port}"}
            with machines(net, inside) as made:
                yield Site(made, server, server.new_bucket())


@pytest.fixture(scope="session")
def shared_cluster(site: Site) -> RayCluster:
    """The cluster of all tests, which `cluster` hands out."""
    return RayCluster(site.machines)


@pytest.fixture
def cluster(shared_cluster: RayCluster) -> RayCluster:
    """A head without CPUs for work, and two workers."""
    shared_cluster.require(*WORKERS)
    return shared_cluster


@pytest.fixture(scope="session")
def peace(site: Site, shared_cluster: RayCluster) -> Fusion:
    """A fusion that nothing happens to."""
    shared_cluster.require(*WORKERS)
    fusion = slow_fusion(site, shared_cluster, "peace")
    fusion.start()
    fusion.require_success()
    return fusion
