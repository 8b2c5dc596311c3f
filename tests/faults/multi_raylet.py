"""A real Ray cluster of several raylets on this machine, apart from any other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).parents[2]


@contextmanager
def raylets(num_workers: int, num_cpus: int = 1) -> Iterator[Any]:
    """Start a head without work and `num_workers` nodes with `num_cpus` CPUs each; yield the Cluster."""
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Workers of another driver must find the fake engines.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_REPOSITORY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    node = {"object_store_memory": 150 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **node})
    try:
        for _ in range(num_workers):
            cluster.add_node(num_cpus=num_cpus, object_store_memory=150 * 2**20)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)
