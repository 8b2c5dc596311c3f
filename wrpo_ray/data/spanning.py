"""Replicas whose engine is larger than a node: a placement group for each, which is its GPUs' only claim.

vLLM puts one worker into each bundle and takes no bundle of several GPUs (vllm/v1/executor/ray_utils.py, 0.32), so a
bundle is one GPU. PACK begins with the nodes that have most left and fills each before it goes on; it may still spread
a group over more nodes than wanted when the cluster is in pieces, and can place it anew when a node is lost, which a
group that is tied to nodes could not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wrpo_ray.config import ResourcesConfig

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup


def bundles(resources: ResourcesConfig) -> list[dict[str, float]]:
    """Return one bundle per GPU; they share the replica's CPUs evenly."""
    count = round(resources.num_gpus)
    bundle = {"CPU": _cpu_share(resources), "GPU": 1.0}
    if resources.accelerator_type:
        # How Ray asks for a node of that type: https://docs.ray.io/en/latest/ray-core/accelerator-types.html
        bundle[f"accelerator_type:{resources.accelerator_type}"] = 0.001
    return [dict(bundle) for _ in range(count)]


def _cpu_share(resources: ResourcesConfig) -> float:
    """Ray counts resources in steps of 0.0001."""
    return max(0.0001, int(resources.num_cpus / resources.num_gpus * 10_000) / 10_000)


def create_group(name: str, resources: ResourcesConfig) -> tuple[PlacementGroup, dict[str, Any]]:
    """Ask for a replica's placement group, and return it with the options of the actor that lies in its first bundle.

    The group belongs to the driver: it stays when the actor is started again, and goes when the driver ends.
    """
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group(bundles(resources), strategy="PACK", name=name)
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    return group, {"num_cpus": _cpu_share(resources), "scheduling_strategy": strategy}


def own_resources(resources: ResourcesConfig) -> dict[str, Any]:
    """Return what the actor of a replica asks for itself: nothing but CPUs when its engine's GPUs are in a group."""
    if resources.num_nodes > 1:
        return {"num_cpus": _cpu_share(resources)}
    return {
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus or None,
        "accelerator_type": resources.accelerator_type,
    }


def on_nodes_of_group(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function once on each node of the placement group that this actor lies in; without one, nowhere."""
    import ray
    from ray.util import get_current_placement_group, placement_group_table
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    group = get_current_placement_group() if ray.is_initialized() else None
    if group is None:
        return
    nodes = set(placement_group_table(group)["bundles_to_node_id"].values())
    remote = ray.remote(function).options
    ray.get(
        [
            remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*arguments)
            for node in nodes
        ]
    )


def remove_group(group: PlacementGroup) -> None:
    """Give the group back, with whatever still lives in it; nothing happens when it is removed already."""
    from ray.util.placement_group import remove_placement_group

    remove_placement_group(group)
