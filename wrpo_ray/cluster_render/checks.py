"""What must be right before anything is rendered; every problem is reported at once."""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Iterator
from urllib.parse import urlsplit

from wrpo_ray.addresses import METADATA_NETWORKS
from wrpo_ray.cluster_render.anyscale import head_machine
from wrpo_ray.cluster_render.groups import Group
from wrpo_ray.cluster_render.job import in_store, is_hub_name, paths, spelled_out
from wrpo_ray.cluster_render.pod_checks import pod_problems
from wrpo_ray.config import FuseConfig
from wrpo_ray.config_cluster import ClusterConfig, GcsConfig
from wrpo_ray.config_endpoint_rules import endpoint_sections
from wrpo_ray.errors import ConfigError, Problem

# Kueue takes at most eight sets of pods in a workload; head and submitter are two of them.
_MOST_QUEUED_GROUPS = 6
_DEFAULT_PORTS = {"http": 80, "https": 443}
# KubeRay sets these itself, and refuses or is misled by other values.
_OPERATORS_OWN = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS", "RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "HOME")


def required_cluster(config: FuseConfig) -> ClusterConfig:
    """Return the section `cluster`; raises ConfigError without one, or without an image that stays the same."""
    image = config.cluster.image if config.cluster else None
    if config.cluster is None or image is None or image.endswith(":latest"):
        rule = "manifests need a container image that stays the same"
        fix = "add cluster.image, such as registry.example.com/wrpo-ray@sha256:..., or a tag other than latest"
        raise ConfigError.of("cannot render", [Problem("cluster.image", image or "(nothing)", rule, fix, "WRPO-C140")])
    return config.cluster


def check(config: FuseConfig, cluster: ClusterConfig, target: str) -> None:
    """Raise ConfigError for paths that not all nodes see, secrets, and what Kubernetes or Anyscale would refuse."""
    problems = [*_paths(config, cluster, target), *_environment(config, cluster, target)]
    if target == "kuberay":
        problems += [*_addresses(cluster), *_cache(cluster), *_gcs(cluster.kuberay.gcs)]
        problems += pod_problems(cluster)
    elif cluster.secrets:
        rule = "Secrets are Kubernetes'; Anyscale jobs read theirs from the cloud's own store"
        fix = "remove it for Anyscale; see docs/clusters.md"
        problems.append(Problem("cluster.secrets", ", ".join(cluster.secrets), rule, fix, "WRPO-C144"))
    if problems:
        raise ConfigError.of("cannot render", problems)


def check_groups(cluster: ClusterConfig, groups: list[Group], target: str) -> None:
    """Raise ConfigError for groups that the kind of cluster cannot tell apart or cannot hold."""
    problems = list(_queued(cluster, groups) if target == "kuberay" else ())
    problems += list(_selected(cluster, groups) if target == "kuberay" else _typed(cluster, groups))
    if problems:
        raise ConfigError.of("cannot render the nodes", problems)


def _paths(config: FuseConfig, cluster: ClusterConfig, target: str) -> Iterator[Problem]:
    volumes = [posixpath.normpath(volume.path) for volume in cluster.kuberay.volumes] if target == "kuberay" else []
    image = [posixpath.normpath(path) for path in cluster.shared_paths]
    for place, value, is_model in paths(config):
        if in_store(value) or (is_model and is_hub_name(value)):
            continue
        full = spelled_out(value, cluster.workdir, is_model)
        is_output = place in ("run.root", "export.path")
        seen = volumes if is_output else [*volumes, *image]
        if value.startswith("~") or not any(full == folder or full.startswith(f"{folder}/") for folder in seen):
            rule = f"on the cluster this is {full}, which not all nodes share"
            fix = "use s3:// or gs://" + (
                "" if is_output else ", or name a folder of the image in cluster.shared_paths"
            )
            yield Problem(place, value, rule, fix, "WRPO-C143")


def _environment(config: FuseConfig, cluster: ClusterConfig, target: str) -> Iterator[Problem]:
    for name, value in cluster.env.items():
        if name in _OPERATORS_OWN:
            rule, fix = "is set by what starts the cluster", "remove it"
            yield Problem(f"cluster.env.{name}", value, rule, fix, "WRPO-C144")
    wanted = [(place, each.api_key_env) for place, each in endpoint_sections(config) if each.api_key_env]
    if wanted and not cluster.secrets and target == "kuberay":
        place, variable = wanted[0]
        rule = "no Secret is named that could hold this key"
        fix = f"kubectl create secret generic NAME --from-env-file=FILE, with {variable} in FILE, and set "
        yield Problem(f"{place}.api_key_env", str(variable), rule, f"{fix}cluster.secrets to [NAME]", "WRPO-C144")


def _addresses(cluster: ClusterConfig) -> Iterator[Problem]:
    network = cluster.kuberay.network
    if network is None:
        return
    given = [("storage_cidrs", cidr) for cidr in network.storage_cidrs]
    given += [("api_server_cidrs", cidr) for cidr in network.api_server_cidrs]
    given += [(f"extra_egress.{number}", rule.cidr) for number, rule in enumerate(network.extra_egress)]
    for name, cidr in given:
        place = f"cluster.kuberay.network.{name}"
        try:
            found = ipaddress.ip_network(cidr)
        except ValueError as error:
            fix = "write a network such as 10.0.0.0/8, or one address as 10.0.0.1/32"
            yield Problem(place, cidr, str(error), fix, "WRPO-C144")
            continue
        if not name.startswith("extra_egress") and _is_metadata(found):
            rule = "lies among the addresses where clouds hand out credentials"
            fix = "if the pods shall reach it, say so in network.extra_egress"
            yield Problem(place, cidr, rule, fix, "WRPO-C144")


def _is_metadata(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return any(
        network.version == each.version and network.subnet_of(each)  # type: ignore[arg-type]
        for each in METADATA_NETWORKS
    )


def _cache(cluster: ClusterConfig) -> Iterator[Problem]:
    cache = cluster.kuberay.cache
    if cache.claim and (cache.storage_class or cache.size_gb):
        rule, fix = "a claim has its own class and size", "remove cache.storage_class and cache.size_gb, or the claim"
        yield Problem("cluster.kuberay.cache.claim", cache.claim, rule, fix, "WRPO-C144")


def _gcs(gcs: GcsConfig | None) -> Iterator[Problem]:
    if gcs is None:
        return
    redis = bool(gcs.redis_address or gcs.redis_password_secret)
    if gcs.backend == "redis" and not gcs.redis_address:
        rule, fix = "the backend redis needs its address", "set redis_address to host:port"
        yield Problem("cluster.kuberay.gcs.redis_address", "null", rule, fix, "WRPO-C144")
    elif gcs.redis_address and not _port_of(f"//{gcs.redis_address}"):
        fix = "write it as redis.example.com:6379"
        yield Problem("cluster.kuberay.gcs.redis_address", gcs.redis_address, "must be host:port", fix, "WRPO-C144")
    if gcs.backend == "rocksdb" and redis:
        rule, fix = "the backend rocksdb has no Redis", "remove the fields of Redis"
        yield Problem("cluster.kuberay.gcs.backend", gcs.backend, rule, fix, "WRPO-C144")


def _queued(cluster: ClusterConfig, groups: list[Group]) -> Iterator[Problem]:
    if cluster.kuberay.queue and len(groups) > _MOST_QUEUED_GROUPS:
        rule = f"Kueue takes at most {_MOST_QUEUED_GROUPS} groups of nodes beside head and submitter"
        yield Problem("cluster.nodes", f"{len(groups)} groups", rule, "use fewer accelerator types", "WRPO-C144")


def _selected(cluster: ClusterConfig, groups: list[Group]) -> Iterator[Problem]:
    """Yield a problem for GPU nodes that Kubernetes could take for those of another type."""
    of_gpus = {group.accelerator: group for group in groups if group.gpus}
    for accelerator, group in of_gpus.items():
        if len(of_gpus) > 1 and not group.instance_type and not group.settings.node_selector:
            rule = "with several GPU types, nothing tells Kubernetes which nodes have this one"
            fix = "set node_selector, such as {nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3}, or instance_type"
            yield Problem(f"cluster.nodes.{accelerator}.node_selector", "{}", rule, fix, "WRPO-C141")
    kuberay = cluster.kuberay
    if any(group.is_spot for group in groups) and cluster.cloud == "other" and not kuberay.spot_selector:
        rule, fix = (
            "nothing tells Kubernetes which nodes are spot nodes",
            "set it to their labels, or set cluster.cloud",
        )
        yield Problem("cluster.kuberay.spot_selector", "{}", rule, fix, "WRPO-C141")


def _typed(cluster: ClusterConfig, groups: list[Group]) -> Iterator[Problem]:
    types = {f"nodes.{group.accelerator}": group.instance_type for group in groups}
    for name, instance_type in {"head": head_machine(cluster), **types}.items():
        if not instance_type:
            rule, fix = "Anyscale needs a machine type", "set it, or set cluster.cloud to aws or gcp"
            yield Problem(f"cluster.{name}.instance_type", "null", rule, fix, "WRPO-C141")


def outside_ports(config: FuseConfig) -> list[int]:
    """Return the ports of endpoints and of the tracking server that the run talks to."""
    urls = [section.base_url for _, section in endpoint_sections(config)]
    if config.tracking.mlflow_tracking_uri:
        urls.append(config.tracking.mlflow_tracking_uri)
    return sorted({port for url in urls if (port := _port_of(url))})


def _port_of(url: str) -> int | None:
    """Return the port of an address, None where it names none and its kind has no usual one."""
    try:
        parts = urlsplit(url)
        return parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
