"""What every kind of cluster is given: the job's name, its command, its environment, and its config."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from wrpo_ray.cluster_render.groups import Group
from wrpo_ray.config import FuseConfig
from wrpo_ray.config_cluster import ClusterConfig
from wrpo_ray.config_file import dump_config, parse_config
from wrpo_ray.config_place_rules import holds_path
from wrpo_ray.planning.accelerators import CPU

# RayJob names have at most 47 characters: KubeRay appends to them (MaxRayJobNameLength of its utils/constant.go).
_MAX_NAME = 47
_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_STORES = ("s3://", "gs://")
# What is passed on to libraries is left alone.
_PASSED_ON = {"extra_args", "extra_body", "env_vars", "deepspeed", "cluster"}
_MODEL_KEYS = {"engine", "trust_remote_code"}
# Usage statistics would be the only traffic to addresses that a run does not need.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True)
class Job:
    """A run on its way to a cluster. config: as the job reads it there, in JSON, which is YAML too."""

    name: str
    run: str
    groups: tuple[Group, ...]
    config: str
    cluster: ClusterConfig
    uses_hub: bool
    ports: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Eight hex digits that change with the config."""
        return hashlib.sha256(self.config.encode("utf-8")).hexdigest()[:8]

    def command(self, config_path: str) -> str:
        """Return the entrypoint."""
        return f"python {self.cluster.workdir}/jobs/fuse.py --config {config_path}"


def job_name(run: str) -> str:
    """Return a run's name as Kubernetes and KubeRay take it: lower case, a letter first, at most 47 characters.

    A name that had to be changed gets a hash of the original, so that two runs never share one.
    """
    name = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    name = name if name[:1].isalpha() else f"run-{name}".strip("-")
    if name == run and len(name) <= _MAX_NAME:
        return name
    digest = hashlib.sha256(run.encode("utf-8")).hexdigest()[:6]
    return f"{name[: _MAX_NAME - 7].strip('-')}-{digest}"


def ray_version() -> str:
    """Return the version of Ray that this package is pinned to, which is the image's."""
    return version("ray")


def make_job(config: FuseConfig, cluster: ClusterConfig, groups: Sequence[Group], ports: Sequence[int]) -> Job:
    """Return the job of a checked config; see `checks`."""
    text = config_for(config, cluster, groups)
    models = [value for _, value, is_model in paths(config) if is_model]
    # lm-eval's tasks bring their data from there.
    uses_hub = any(is_hub_name(value) for value in models) or bool(config.evaluation and config.evaluation.lm_eval)
    return Job(job_name(config.run.name), config.run.name, tuple(groups), text, cluster, uses_hub, tuple(ports))


def config_for(config: FuseConfig, cluster: ClusterConfig, groups: Sequence[Group]) -> str:
    """Return the config that the job reads: paths spelled out, the cluster's real size, no section `cluster`.

    The size tells the scheduler how far the autoscaler may go.
    """
    size: dict[str, int] = {}
    for group in groups:
        each = group.cpus if group.accelerator == CPU else group.gpus
        size[group.accelerator] = size.get(group.accelerator, 0) + group.max_nodes * each
    raw = json.loads(dump_config(config))
    raw.pop("cluster")
    raw["planning"]["cluster"] = size
    for node, key, is_model in _path_fields(raw):
        node[key] = spelled_out(node[key], cluster.workdir, is_model)
    text = json.dumps(raw, indent=2, ensure_ascii=False)
    return dump_config(parse_config(text, "the rendered config"))


def environment(job: Job, cache: str) -> dict[str, str]:
    """Return the environment of all nodes; `cache` is the folder for copies of models."""
    fixed = {
        "HF_HOME": f"{cache}/huggingface",
        "WRPO_RAY_CACHE": f"{cache}/wrpo_ray",
        "VLLM_CACHE_ROOT": f"{cache}/vllm",
    }
    offline = {} if job.uses_hub else {"HF_HUB_OFFLINE": "1"}
    return {**_QUIET, **fixed, **offline, **job.cluster.env}


def paths(config: FuseConfig) -> list[tuple[str, str, bool]]:
    """Return every path in the config: its place, its value, and whether a model of the hub may be meant."""
    raw = json.loads(dump_config(config))
    return [(place, node[key], is_model) for place, node, key, is_model in _placed_fields(raw, "")]


def _path_fields(raw: Any) -> Iterator[tuple[dict[str, Any], str, bool]]:
    return ((node, key, is_model) for _, node, key, is_model in _placed_fields(raw, ""))


def _placed_fields(node: Any, place: str) -> Iterator[tuple[str, dict[str, Any], str, bool]]:
    if isinstance(node, list):
        for number, item in enumerate(node):
            name = item.get("name", number) if isinstance(item, Mapping) else number
            yield from _placed_fields(item, f"{place}.{name}")
    if not isinstance(node, dict):
        return
    is_model = not _MODEL_KEYS.isdisjoint(node)
    for key, value in node.items():
        below = f"{place}.{key}".lstrip(".")
        if holds_path(below) and isinstance(value, str):
            yield below, node, key, is_model and key == "path"
        elif key not in _PASSED_ON:
            yield from _placed_fields(value, below)


def is_hub_name(path: str) -> bool:
    """Tell whether a model path is `organisation/name` of the hub; a local folder begins with ./ or /."""
    return _HUB_NAME.match(path) is not None


def in_store(path: str) -> bool:
    """Tell whether a path lies in object storage."""
    return path.startswith(_STORES)


def spelled_out(path: str, workdir: str, is_model: bool) -> str:
    """Return a path as every node can read it: relative ones lie below the image's folder."""
    if in_store(path) or (is_model and is_hub_name(path)):
        return path
    return posixpath.normpath(posixpath.join(workdir, path))
