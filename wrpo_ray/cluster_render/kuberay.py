"""A run as objects of Kubernetes: its config, its network policies, and a RayJob that makes its own Ray cluster.

Fields: KubeRay 1.7, https://ray-project.github.io/kuberay/reference/api/; its rules beyond the schema are those of
ray-operator/controllers/ray/utils/validation.go.
"""

from __future__ import annotations

import math

from wrpo_ray.cluster_render.groups import Group, node_shape
from wrpo_ray.cluster_render.job import Job, ray_version
from wrpo_ray.cluster_render.network import network_policies
from wrpo_ray.cluster_render.pods import (
    CONFIG_PATH,
    SCRATCH,
    Manifest,
    config_map_name,
    container_security,
    head_template,
    quantities,
    submitter_template,
    worker_template,
)
from wrpo_ray.config_cluster import GcsConfig
from wrpo_ray.errors import ConfigError, Problem
from wrpo_ray.planning.accelerators import CPU

HOUR_S, MINUTE_S = 3600, 60


def manifests(job: Job, cache_gb: int | None) -> dict[str, list[Manifest]]:
    """Return the objects by file, in the order in which they are to be applied: policies stand before pods do."""
    files = {
        "10-config.yaml": [config_map(job)],
        "20-network.yaml": network_policies(job),
        "30-rayjob.yaml": [ray_job(job, cache_gb)],
    }
    return {name: objects for name, objects in files.items() if objects}


def config_map(job: Job) -> Manifest:
    """Return the object that holds the run's config; it never changes, a changed config has another name."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": config_map_name(job), "namespace": job.cluster.kuberay.namespace},
        "immutable": True,
        "data": {"run.yaml": job.config},
    }


def ray_job(job: Job, cache_gb: int | None) -> Manifest:
    """Return the RayJob: each attempt has a Ray cluster of its own, and goes on where the one before it stopped."""
    kuberay = job.cluster.kuberay
    metadata: Manifest = {"name": job.name, "namespace": kuberay.namespace}
    if kuberay.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": kuberay.queue.name}
        if kuberay.queue.priority_class:
            metadata["labels"]["kueue.x-k8s.io/priority-class"] = kuberay.queue.priority_class
        if kuberay.queue.elastic:
            metadata["annotations"] = {"kueue.x-k8s.io/elastic-job": "true"}
    spec: Manifest = {
        "entrypoint": job.command(CONFIG_PATH),
        "submissionMode": "K8sJobMode",
        "metadata": {"run": job.run},
        "backoffLimit": job.cluster.max_retries,
    }
    if job.cluster.time_limit_hours:
        spec["activeDeadlineSeconds"] = math.ceil(job.cluster.time_limit_hours * HOUR_S)
    spec |= _deletion(job)
    spec |= {"submitterPodTemplate": submitter_template(job), "submitterConfig": {"backoffLimit": 2}}
    spec["rayClusterSpec"] = ray_cluster_spec(job, cache_gb)
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def _deletion(job: Job) -> Manifest:
    """Kueue takes only jobs that delete their cluster in the older way; deletion rules know success from failure."""
    kuberay = job.cluster.kuberay
    if kuberay.queue:
        return {"shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": kuberay.delete_after_success_s}
    # The last one is for what ends without a word of the job: a deadline, a cluster that never came up.
    ends = (
        ("jobStatus", "SUCCEEDED", kuberay.delete_after_success_s),
        ("jobStatus", "FAILED", kuberay.delete_after_failure_s),
        ("jobDeploymentStatus", "Failed", kuberay.delete_after_failure_s),
    )
    rules = [
        {"policy": "DeleteCluster", "condition": {kind: end, "ttlSeconds": after_s}} for kind, end, after_s in ends
    ]
    return {"shutdownAfterJobFinishes": False, "deletionStrategy": {"deletionRules": rules}}


def ray_cluster_spec(job: Job, cache_gb: int | None) -> Manifest:
    """Return the spec of the Ray cluster."""
    queue = job.cluster.kuberay.queue
    scales = queue is None or queue.elastic
    spec: Manifest = {
        "rayVersion": ray_version(),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": scales,
    }
    if scales:
        spec["autoscalerOptions"] = _autoscaler(job)
    if gcs := job.cluster.kuberay.gcs:
        spec["gcsFaultToleranceOptions"] = _gcs(gcs)
    spec["headGroupSpec"] = _head(job)
    spec["workerGroupSpecs"] = [_workers(job, group, cache_gb, scales) for group in job.groups]
    return spec


def _autoscaler(job: Job) -> Manifest:
    needs = quantities(1, 1, 1)
    return {
        "version": "v2",
        "idleTimeoutSeconds": math.ceil(job.cluster.idle_minutes * MINUTE_S),
        "upscalingMode": "Default",
        "resources": {"requests": needs, "limits": needs},
        "env": [{"name": "HOME", "value": SCRATCH}],
        "securityContext": container_security(),
        "volumeMounts": [{"name": "scratch", "mountPath": SCRATCH}],
    }


def _gcs(gcs: GcsConfig) -> Manifest:
    if gcs.backend == "rocksdb":
        named = {"storageClassName": gcs.storage_class} if gcs.storage_class else {}
        return {"backend": "rocksdb", "storage": {"size": f"{gcs.size_gb}Gi", **named}}
    options: Manifest = {"backend": "redis", "redisAddress": gcs.redis_address}
    if gcs.redis_password_secret:
        reference = {"name": gcs.redis_password_secret, "key": "password"}
        options["redisPassword"] = {"valueFrom": {"secretKeyRef": reference}}
    return options


def _head(job: Job) -> Manifest:
    shape = node_shape(job.cluster, CPU, job.cluster.head, "cluster.head")
    if isinstance(shape, Problem):
        raise ConfigError.of("cannot render the head", [shape])
    # No CPUs for work: what runs there would take memory from the driver, and the job ends with it.
    return {"rayStartParams": {"num-cpus": "0"}, "template": head_template(job, shape.cpus, shape.memory_gb)}


def _workers(job: Job, group: Group, cache_gb: int | None, scales: bool) -> Manifest:
    """Return one group. Ray's autoscaler knows a node's accelerator type only when the group names it as a resource."""
    resources = {"CPU": str(group.cpus), "GPU": str(group.gpus)}
    if group.gpus:
        resources |= {f"accelerator_type:{name}": "1" for name in _ray_names(group.accelerator)}
    least = group.min_nodes if scales else group.max_nodes
    return {
        "groupName": group.name,
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": group.max_nodes,
        **({} if group.priority is None or not scales else {"priority": group.priority}),
        "rayStartParams": {},
        "resources": resources,
        "template": worker_template(job, group, cache_gb),
    }


def _ray_names(accelerator: str) -> list[str]:
    """Ray calls both kinds of A100 by that name when it finds them by itself; a config may ask for either name."""
    return ["A100", accelerator] if accelerator.startswith("A100-") else [accelerator]
