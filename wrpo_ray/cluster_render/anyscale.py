"""A run as files for Anyscale: its config, a compute config, and a job that names both.

Fields: those of anyscale.compute_config.models and anyscale.job.models of the package `anyscale` (0.26).
"""

from __future__ import annotations

import json
import math

from wrpo_ray.cluster_render.groups import Group
from wrpo_ray.cluster_render.job import Job, environment, ray_version
from wrpo_ray.cluster_render.machines import usual_machine
from wrpo_ray.cluster_render.pods import Manifest
from wrpo_ray.config_cluster import ClusterConfig
from wrpo_ray.planning.accelerators import CPU

# The fast disks of a node, https://docs.anyscale.com/configuration/storage
CACHE = "/mnt/local_storage"
CONFIG_FILE = "run.yaml"
HOUR_S = 3600


def files(job: Job) -> dict[str, list[Manifest]]:
    """Return the files by name; the job's working directory is the folder that they lie in."""
    return {
        "compute_config.yaml": [compute_config(job)],
        "job.yaml": [job_file(job)],
        CONFIG_FILE: [json.loads(job.config)],
    }


def compute_config(job: Job) -> Manifest:
    """Return head and groups of workers; the head takes no work."""
    cloud = {"cloud": job.cluster.anyscale.cloud} if job.cluster.anyscale.cloud else {}
    return {
        **cloud,
        "head_node": {"instance_type": head_machine(job.cluster), "resources": {"CPU": 0, "GPU": 0}},
        "worker_nodes": [_group(group) for group in job.groups],
    }


def head_machine(cluster: ClusterConfig) -> str:
    """Return the machine type of the head, "" where none is given or known."""
    usual = usual_machine(cluster.cloud, CPU)
    return cluster.head.instance_type or (usual.instance_type if usual else "")


def _group(group: Group) -> Manifest:
    return {
        "name": group.name,
        "instance_type": group.instance_type,
        "min_nodes": group.min_nodes,
        "max_nodes": group.max_nodes,
        "market_type": "SPOT" if group.is_spot else "ON_DEMAND",
    }


def job_file(job: Job) -> Manifest:
    """Return the job; a retry is a new cluster that resumes from the run's storage."""
    cluster = job.cluster
    named = {"cloud": cluster.anyscale.cloud, "project": cluster.anyscale.project}
    spec: Manifest = {
        "name": job.name,
        "entrypoint": job.command(CONFIG_FILE),
        "image_uri": cluster.image,
        "ray_version": ray_version(),
        "compute_config": job.name,
        "working_dir": ".",
        "max_retries": cluster.max_retries,
        "env_vars": environment(job, CACHE),
        **{key: value for key, value in named.items() if value},
        "tags": {"run": job.run},
    }
    if cluster.time_limit_hours:
        spec["timeout_s"] = math.ceil(cluster.time_limit_hours * HOUR_S)
    return spec
