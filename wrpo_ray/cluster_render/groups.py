"""Which nodes a run needs: one group for each accelerator type, and one for work without any.

How many: as `wrpo-ray plan` counts them, `planning.cluster` or else what the step that asks for most asks for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from wrpo_ray.claims import Claim, engine_claim, scoring_claim, training_claim
from wrpo_ray.cluster_render.machines import Machine, usual_machine
from wrpo_ray.config import FuseConfig
from wrpo_ray.config_cluster import ClusterConfig, NodesConfig, PlacementConfig
from wrpo_ray.errors import ConfigError, Problem
from wrpo_ray.planning.accelerators import CPU
from wrpo_ray.scheduling.nodes import ROUNDING, Node, too_large

# The rest of a machine belongs to the system and to what runs on every node of a Kubernetes cluster.
SHARE_OF_MACHINE = 0.9
# More parts than a node ever has, and the nodes that the largest Kubernetes clusters have
# (https://cloud.google.com/kubernetes-engine/docs/concepts/planning-large-clusters).
_MANY, _MOST_NODES = 2**20, 65_000
# A label's value, with room for what KubeRay appends to pods' names.
_GROUP_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,49}")
# Ray's names of what is no GPU (ray.util.accelerators), or none that a device plugin calls one of NVIDIA's or AMD's.
_NO_GPUS = ("TPU", "Intel", "aws-neuron", "Ascend", "MXC", "FURIOSA", "MOBILINT", "Apple")


@dataclass(frozen=True)
class Group:
    """Equal nodes. memory_gb: GiB. machine: what the node is at the cloud, "" where that is not known.

    priority: groups with a higher one are used first; None where nothing competes.
    """

    name: str
    accelerator: str
    gpus: int
    cpus: int
    memory_gb: int
    min_nodes: int
    max_nodes: int
    instance_type: str
    settings: NodesConfig
    is_spot: bool = False
    priority: int | None = None


def claims(config: FuseConfig) -> list[tuple[str, Claim]]:
    """Return what each section takes of the cluster while it works, with its place in the config."""
    found = [(f"sources.{source.name}.resources", engine_claim(source.resources)) for source in config.sources]
    found.append(("target.resources", engine_claim(config.target.resources)))
    found.append(("reward.resources", scoring_claim(config.reward)))
    if config.evaluation and config.evaluation.judge:
        found.append(("evaluation.judge.num_cpus", engine_claim(config.evaluation.judge.resources)))
    return [*found, ("sft", training_claim(config.sft)), ("wrpo", training_claim(config.wrpo))]


def accelerator_of(config: FuseConfig, claim: Claim) -> str:
    """Return the accelerator type whose nodes a claim is meant for; CPU without one."""
    return (claim.accelerator_type or config.planning.accelerator) if claim.num_gpus else CPU


def limits(config: FuseConfig) -> dict[str, int]:
    """Return accelerators (CPUs for CPU) by type, in the order in which the config names them; CPU is always there."""
    asked = {CPU: 1.0}
    for _, claim in claims(config):
        name = accelerator_of(config, claim)
        asked[name] = max(asked.get(name, 0.0), (claim.num_gpus or claim.num_cpus) * claim.most)
    return {name: config.planning.cluster.get(name, math.ceil(count)) for name, count in asked.items()}


def find_groups(config: FuseConfig, cluster: ClusterConfig) -> list[Group]:
    """Return the groups of nodes; raises ConfigError for nodes that are not described or too small for a section."""
    found = list(_groups(config, cluster))
    groups = [group for group in found if isinstance(group, Group)]
    problems = [problem for problem in found if isinstance(problem, Problem)]
    problems += [*_unknown(config, cluster), *_named(groups)]
    problems += [] if problems else _too_small(config, groups)
    if problems:
        raise ConfigError.of("cannot render the nodes", problems)
    return groups


def _groups(config: FuseConfig, cluster: ClusterConfig) -> Iterator[Group | Problem]:
    for accelerator, count in limits(config).items():
        settings = cluster.nodes.get(accelerator, NodesConfig())
        shape = node_shape(cluster, accelerator, settings, f"cluster.nodes.{accelerator}")
        if isinstance(shape, Problem):
            yield shape
            continue
        nodes = settings.max_nodes or max(
            math.ceil(count / (shape.gpus or shape.cpus)), _for_whole_parts(config, accelerator, shape)
        )
        if problem := _counts(f"cluster.nodes.{accelerator}", settings, nodes):
            yield problem
            continue
        yield from _split(accelerator, shape, settings, nodes)


def _for_whole_parts(config: FuseConfig, accelerator: str, shape: Machine) -> int:
    """Return the nodes that hold all parts of each section: a part lies on whole nodes, and may leave GPUs unused.

    0 where planning.cluster says how many accelerators there are; a part that no node holds counts as none.
    """
    if accelerator in config.planning.cluster:
        return 0
    return max(
        (_nodes_of(claim, shape) for _, claim in claims(config) if accelerator_of(config, claim) == accelerator),
        default=0,
    )


def _nodes_of(claim: Claim, shape: Machine) -> int:
    gpus, cpus = claim.num_gpus / claim.num_nodes, claim.num_cpus / claim.num_nodes
    by_cpus = int(min(shape.cpus / cpus, _MANY) + ROUNDING)
    on_a_node = by_cpus
    if gpus >= 1:
        on_a_node = min(by_cpus, int(shape.gpus / gpus))
    elif gpus:
        # Fractions lie on one GPU each.
        on_a_node = min(by_cpus, int(min(1 / gpus, _MANY) + ROUNDING) * shape.gpus)
    return math.ceil(claim.most * claim.num_nodes / on_a_node) if on_a_node else 0


def _counts(place: str, settings: NodesConfig, nodes: int) -> Problem | None:
    if settings.min_nodes > nodes:
        rule, fix = f"only {nodes} nodes are planned", "lower it, or raise max_nodes"
        return Problem(f"{place}.min_nodes", str(settings.min_nodes), rule, fix, "WRPO-C141")
    if nodes > _MOST_NODES:
        rule, fix = f"no Kubernetes cluster has more than {_MOST_NODES:,} nodes", "ask for less, or set max_nodes"
        return Problem(f"{place}.max_nodes", str(nodes), rule, fix, "WRPO-C141")
    kept = settings.on_demand_nodes
    if kept and not settings.spot:
        rule, fix = "without `spot: true` no node may be withdrawn", "set spot, or remove it"
    elif kept >= nodes:
        rule, fix = (
            f"of {nodes} planned nodes one must be left for spot",
            "lower it, raise max_nodes, or set spot false",
        )
    else:
        return None
    return Problem(f"{place}.on_demand_nodes", str(kept), rule, fix, "WRPO-C141")


def _split(accelerator: str, shape: Machine, settings: NodesConfig, nodes: int) -> Iterator[Group]:
    """Yield the group of a type, or its spot group and the one beside it that is never withdrawn."""
    name = re.sub(r"[^a-z0-9]+", "-", accelerator.lower()).strip("-")
    instance = shape.instance_type

    def group(suffix: str, least: int, most: int, spot: bool, priority: int | None) -> Group:
        return Group(
            f"{name}{suffix}", accelerator, shape.gpus, shape.cpus, shape.memory_gb, least, most, instance, settings,
            spot, priority,
        )  # fmt: skip

    if not settings.spot:
        yield group("", settings.min_nodes, nodes, False, None)
        return
    kept = settings.on_demand_nodes
    yield group("-spot", max(0, settings.min_nodes - kept), nodes - kept, True, 1 if kept else None)
    if kept:
        yield group("", min(settings.min_nodes, kept), kept, False, 0)


def node_shape(cluster: ClusterConfig, accelerator: str, given: PlacementConfig, place: str) -> Machine | Problem:
    """Return what one pod of a node has: as given at `place`, or nine tenths of the usual machine."""
    usual = usual_machine(cluster.cloud, accelerator)
    if accelerator == CPU and isinstance(given, NodesConfig) and given.gpus:
        fix = "describe them under the GPUs' own type, or remove it"
        return Problem(f"{place}.gpus", str(given.gpus), "these are the nodes without GPUs", fix, "WRPO-C141")
    if given.instance_type and usual and given.instance_type != usual.instance_type:
        usual = None
    gpus = 0 if accelerator == CPU else (isinstance(given, NodesConfig) and given.gpus) or (usual and usual.gpus)
    cpus = given.cpus or (usual and _most_of(usual.cpus))
    memory_gb = given.memory_gb or (usual and _most_of(usual.memory_gb))
    if not cpus or not memory_gb or gpus is None:
        value = given.instance_type or f"the usual {accelerator} machine of `cloud: {cluster.cloud}`"
        wanted = ["cpus", "memory_gb", *(["gpus"] if accelerator != CPU else [])]
        fix = f"set {', '.join(wanted)} of one node, or cluster.cloud"
        return Problem(place, value, "what this machine has is not known", fix, "WRPO-C141")
    # Nodes without GPUs may be of any machine type.
    if usual and accelerator != CPU:
        for name, asked, there in (
            ("gpus", gpus, usual.gpus), ("cpus", cpus, usual.cpus), ("memory_gb", memory_gb, usual.memory_gb)
        ):  # fmt: skip
            if asked > there:
                rule, fix = f"a {usual.instance_type} has {there}", "ask for less, or name another instance_type"
                return Problem(f"{place}.{name}", str(asked), rule, fix, "WRPO-C141")
    return Machine(given.instance_type or (usual.instance_type if usual else ""), gpus, cpus, memory_gb)


def _most_of(count: int) -> int:
    return max(1, int(count * SHARE_OF_MACHINE))


def _unknown(config: FuseConfig, cluster: ClusterConfig) -> Iterator[Problem]:
    used = limits(config)
    for name in cluster.nodes:
        if name not in used:
            rule = f"nothing in the run uses nodes of this type; it uses {', '.join(used)}"
            yield Problem(f"cluster.nodes.{name}", name, rule, "correct the name, or remove it", "WRPO-C141")


def _named(groups: list[Group]) -> Iterator[Problem]:
    """Yield a problem for types of which no group can be made, or not beside those of another type."""
    types: dict[str, str] = {}
    for group in groups:
        place, other = f"cluster.nodes.{group.accelerator}", types.setdefault(group.name, group.accelerator)
        if group.gpus and group.accelerator.startswith(_NO_GPUS):
            rule = "pods ask for GPUs of NVIDIA or AMD; engines and training here run on nothing else"
            yield Problem(place, group.accelerator, rule, "name a GPU's type", "WRPO-C141")
        elif not _GROUP_NAME.fullmatch(group.name):
            rule = f"its group of nodes would be called {group.name!r}, which Kubernetes does not take"
            yield Problem(place, group.accelerator, rule, "write the type as Ray calls it, such as H100", "WRPO-C141")
        elif other != group.accelerator:
            rule = f"its group of nodes would be called {group.name}, as that of {other}"
            yield Problem(place, group.accelerator, rule, "write one type in one way", "WRPO-C141")


def _too_small(config: FuseConfig, groups: list[Group]) -> Iterator[Problem]:
    """Yield a problem for each section whose fewest parts the nodes could never hold, however long they waited."""
    nodes = [
        Node(f"{group.name}-{number}", group.cpus, group.gpus, group.accelerator if group.gpus else None)
        for group in groups
        for number in range(group.max_nodes)
    ]
    for place, claim in claims(config):
        if too_large(claim, nodes):
            parts = f"{claim.num_cpus / claim.num_nodes:g} CPU, {claim.num_gpus / claim.num_nodes:g} GPU on one node"
            kind = f" of type {claim.accelerator_type}" if claim.accelerator_type else ""
            value = f"{claim.fewest * claim.num_nodes} x ({parts}{kind})"
            have = ", ".join(
                f"{group.max_nodes} x {group.name} ({group.cpus} CPU, {group.gpus} GPU)" for group in groups
            )
            fix = "ask for less, or enlarge planning.cluster or cluster.nodes"
            yield Problem(place, value, f"these nodes never have room for it: {have}", fix, "WRPO-C142")
