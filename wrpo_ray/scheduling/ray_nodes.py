"""The nodes of the Ray cluster, and those that its autoscaler may still add."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from wrpo_ray.claims import EXPECTED
from wrpo_ray.cluster import cluster_address
from wrpo_ray.config import FuseConfig
from wrpo_ray.planning.accelerators import CPU
from wrpo_ray.planning.schedule import Job
from wrpo_ray.scheduling.nodes import Node

# How Ray names the accelerator type of a node among its resources.
_TYPE = "accelerator_type:"
_USUAL_GPUS_PER_NODE = 8


def read_nodes(config: FuseConfig, planned: Iterable[Job] = ()) -> list[Node]:
    """Return the nodes that are alive now, and of a cluster that may grow those that may still come.

    planned: jobs of the plan. A GPU type that `planning.cluster` leaves out has as many as the largest of them asks
    for, since nobody tells how far the autoscaler goes.
    """
    import ray
    from ray._private.state import state

    alive = alive_nodes(ray.nodes(), state.get_draining_nodes())
    if cluster_address(config.ray) == "local":
        return alive
    limit = {**largest_demands(planned), **config.planning.cluster}
    return [*alive, *expected_nodes(alive, limit, config.planning.accelerator)]


def largest_demands(planned: Iterable[Job]) -> dict[str, int]:
    """Return for each GPU type what the job that asks for most of it asks for."""
    largest: dict[str, int] = {}
    for job in planned:
        if job.accelerator != CPU:
            asked = math.ceil(job.gpus_per_replica * job.max_replicas)
            largest[job.accelerator] = max(asked, largest.get(job.accelerator, 0))
    return largest


def alive_nodes(shown: Sequence[Mapping[str, Any]], draining: Container[str] = ()) -> list[Node]:
    """Return the nodes as ray.nodes() shows them, without those that are gone or draining."""
    return [
        _node(node["NodeID"], node["Resources"]) for node in shown if node["Alive"] and node["NodeID"] not in draining
    ]


def _node(node_id: str, resources: Mapping[str, float]) -> Node:
    first, *others = sorted(name.removeprefix(_TYPE) for name in resources if name.startswith(_TYPE)) or [None]
    return Node(node_id, resources.get("CPU", 0.0), int(resources.get("GPU", 0)), first, tuple(filter(None, others)))


def _is_of(node: Node, name: str, usual_type: str) -> bool:
    """Ray calls both kinds of A100 by that name; the planner tells A100-40G and A100-80G apart."""
    return any(name == known or name.startswith(f"{known}-") for known in node.types or (usual_type,))


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
        same = [node for node in alive if node.num_gpus and _is_of(node, name, usual_type)]
        missing = most - sum(node.num_gpus for node in same)
        size = max((node.num_gpus for node in same), default=_USUAL_GPUS_PER_NODE)
        cpus = max((node.num_cpus for node in same), default=float("inf"))
        for number in range(-(-missing // size)):
            yield Node(f"{EXPECTED}{name} {number}", cpus, min(size, missing - number * size), name)
