"""What Kubernetes would refuse of pods although its schema takes it: volumes, tolerations, names of resources."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence

from wrpo_ray.cluster_render.pods import CACHE, CONFIG_FOLDER, SCRATCH, SHARED_MEMORY, gpu_resource
from wrpo_ray.config_cluster import ClusterConfig, TolerationConfig
from wrpo_ray.errors import Problem

# Names and places of the volumes that every pod has.
_OWN_VOLUMES = frozenset({"scratch", "shared-memory", "run-config", "model-cache"})
_OWN_PATHS = frozenset({CACHE, CONFIG_FOLDER, SCRATCH, SHARED_MEMORY})


def pod_problems(cluster: ClusterConfig) -> Iterator[Problem]:
    """Yield a problem for everything in the section `cluster` that no pod could be made from."""
    yield from _volumes(cluster)
    groups: list[tuple[str, Sequence[TolerationConfig]]] = [
        ("cluster.head.tolerations", cluster.head.tolerations),
        ("cluster.kuberay.spot_tolerations", cluster.kuberay.spot_tolerations),
    ]
    for name, nodes in cluster.nodes.items():
        groups.append((f"cluster.nodes.{name}.tolerations", nodes.tolerations))
        yield from _resources(f"cluster.nodes.{name}.extended_resources", name, nodes.extended_resources)
    for place, tolerations in groups:
        for number, toleration in enumerate(tolerations):
            yield from _toleration(f"{place}.{number}", toleration)


def _volumes(cluster: ClusterConfig) -> Iterator[Problem]:
    claims, paths = set(_OWN_VOLUMES), set(_OWN_PATHS)
    for number, volume in enumerate(cluster.kuberay.volumes):
        place, path = f"cluster.kuberay.volumes.{number}", posixpath.normpath(volume.path)
        if volume.claim in claims:
            rule = "a pod has one volume of each name, and scratch, shared-memory, run-config and model-cache are taken"
            yield Problem(f"{place}.claim", volume.claim, rule, "name another claim, and each one once", "WRPO-C144")
        if path in paths:
            rule = f"a pod mounts one volume at each path, and {', '.join(sorted(_OWN_PATHS))} are taken"
            yield Problem(f"{place}.path", volume.path, rule, "choose another path", "WRPO-C144")
        claims.add(volume.claim)
        paths.add(path)


def _toleration(place: str, toleration: TolerationConfig) -> Iterator[Problem]:
    if toleration.operator == "Exists" and toleration.value:
        rule, fix = "with the operator Exists there is no value", "set operator to Equal, or remove the value"
        yield Problem(f"{place}.value", toleration.value, rule, fix, "WRPO-C144")
    if toleration.operator == "Equal" and not toleration.key:
        rule = "with the operator Equal there must be a key"
        yield Problem(f"{place}.key", "(nothing)", rule, "write the key of the taint", "WRPO-C144")


def _resources(place: str, accelerator: str, resources: Mapping[str, int]) -> Iterator[Problem]:
    for name in resources:
        domain, slash, resource = name.partition("/")
        if not (domain and slash and resource) or name == gpu_resource(accelerator):
            rule = "must be domain/name, and none of those that the group itself asks for (CPUs, memory, GPUs)"
            fix = "remove it, and say how many with cpus, memory_gb or gpus"
            yield Problem(f"{place}.{name}", str(resources[name]), rule, fix, "WRPO-C144")
