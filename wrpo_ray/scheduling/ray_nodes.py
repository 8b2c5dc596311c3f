"""The nodes of the Ray cluster, and those that its autoscaler may still add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wrpo_ray.claims import EXPECTED
from wrpo_ray.cluster import cluster_address
from wrpo_ray.config import FuseConfig
from wrpo_ray.planning.accelerators import CPU
from wrpo_ray.scheduling.nodes import Node

# How Ray names the accelerator type of a node among its resources.
_TYPE = "accelerator_type:"
_USUAL_GPUS_PER_NODE = 8


def read_nodes(config: FuseConfig) -> list[Node]:
    """Return the nodes that are alive now; of a cluster that may grow, also what `planning.cluster` says is to come."""
    import ray

    alive = alive_nodes(ray.nodes())
    if cluster_address(config.ray) == "local":
        return alive
    return [*alive, *expected_nodes(alive, config.planning.cluster, config.planning.accelerator)]


def alive_nodes(shown: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Return the nodes as ray.nodes() shows them, without those that are gone or draining."""
    return [_node(node["NodeID"], node["Resources"]) for node in shown if node["Alive"]]


def _node(node_id: str, resources: Mapping[str, float]) -> Node:
    types = [name.removeprefix(_TYPE) for name in resources if name.startswith(_TYPE)]
    return Node(node_id, resources.get("CPU", 0.0), int(resources.get("GPU", 0)), types[0] if types else None)


def expected_nodes(alive: Sequence[Node], limit: Mapping[str, int], usual_type: str) -> Iterator[Node]:
    """Yield nodes that make up for what `limit` (accelerators by type) has beyond those that are alive.

    usual_type: of GPUs whose nodes do not tell their type. CPUs are counted on nodes without GPUs.
    """
    for name, most in limit.items():
        if name == CPU:
            missing = most - sum(node.num_cpus for node in alive if not node.num_gpus)
            if missing > 0:
                yield Node(f"{EXPECTED}{name}", missing)
            continue
        same = [node for node in alive if node.num_gpus and (node.accelerator_type or usual_type) == name]
        missing = most - sum(node.num_gpus for node in same)
        size = max((node.num_gpus for node in same), default=_USUAL_GPUS_PER_NODE)
        cpus = max((node.num_cpus for node in same), default=float("inf"))
        for number in range(-(-missing // size)):
            yield Node(f"{EXPECTED}{name} {number}", cpus, min(size, missing - number * size), name)
