"""Pods of the Ray cluster: what they may do, what they mount, where they are placed.

They keep Kubernetes' restricted Pod Security Standard
(https://kubernetes.io/docs/concepts/security/pod-security-standards/): no root, no privilege, no writable image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wrpo_ray.cluster_render.groups import Group
from wrpo_ray.cluster_render.job import Job, environment
from wrpo_ray.config_cluster import KubeRayConfig, PlacementConfig, TolerationConfig

Manifest = dict[str, Any]
CACHE, CONFIG_FOLDER, SCRATCH, SHARED_MEMORY = "/cache", "/etc/wrpo_ray", "/tmp", "/dev/shm"
CONFIG_PATH = f"{CONFIG_FOLDER}/run.yaml"
# Of a pod's memory: Ray keeps objects there (30 % of the memory it sees), NCCL and vLLM's workers talk through it.
SHARED_MEMORY_SHARE = 0.4
JOB_LABEL, ROLE_LABEL = "wrpo-ray/job", "wrpo-ray/role"
# Time to store a checkpoint when a machine is withdrawn; clouds give 30 to 120 s.
GRACE_S = 120
_SPOT = {"gcp": {"cloud.google.com/gke-spot": "true"}, "aws": {"eks.amazonaws.com/capacityType": "SPOT"}}
# GKE taints its spot nodes itself (https://cloud.google.com/kubernetes-engine/docs/concepts/spot-vms); EKS does not.
_SPOT_TOLERATIONS = {"gcp": (TolerationConfig(key="cloud.google.com/gke-spot", operator="Equal", value="true"),)}
_INSTANCE_TYPE = "node.kubernetes.io/instance-type"


def config_map_name(job: Job) -> str:
    """Return the name of the object that holds the run's config; another config has another one."""
    return f"{job.name}-config-{job.digest}"


def labels(job: Job, role: str) -> dict[str, str]:
    """Return the labels by which network policies know a pod."""
    return {JOB_LABEL: job.name, ROLE_LABEL: role}


def gpu_resource(accelerator: str) -> str:
    """Return how the device plugin calls a GPU."""
    return "amd.com/gpu" if accelerator.startswith("AMD") else "nvidia.com/gpu"


def head_template(job: Job, cpus: int, memory_gb: int) -> Manifest:
    """Return the pod of the driver."""
    head = job.cluster.head
    container = _container("ray-head", job, quantities(cpus, memory_gb, job.cluster.kuberay.scratch_gb))
    container["ports"] = [
        {"name": name, "containerPort": port}
        for name, port in (("gcs-server", 6379), ("dashboard", 8265), ("client", 10001), ("metrics", 8080))
    ]
    container["volumeMounts"].append({"name": "run-config", "mountPath": CONFIG_FOLDER, "readOnly": True})
    spec = _pod(job, container, memory_gb, _selector(head, head.instance_type or ""), head.tolerations)
    spec["volumes"].append({"name": "run-config", "configMap": {"name": config_map_name(job)}})
    return {"metadata": {"labels": labels(job, "head")}, "spec": spec}


def worker_template(job: Job, group: Group, cache_gb: int | None) -> Manifest:
    """Return the pod of one group. cache_gb: GiB for copies of models, None where a claim holds them."""
    cluster, kuberay = job.cluster, job.cluster.kuberay
    own_disk = 0 if kuberay.cache.storage_class else cache_gb or 0
    extra = {name: str(count) for name, count in group.settings.extended_resources.items()}
    if group.gpus:
        extra[gpu_resource(group.accelerator)] = str(group.gpus)
    needs = quantities(group.cpus, group.memory_gb, kuberay.scratch_gb + own_disk) | extra
    container = _container("ray-worker", job, needs)
    container["volumeMounts"].append({"name": "model-cache", "mountPath": CACHE})
    # Any node without GPUs will do, unless one was named.
    instance = group.instance_type if group.gpus else group.settings.instance_type
    selector = _selector(group.settings, instance or "")
    tolerations = list(group.settings.tolerations)
    if group.gpus:
        tolerations.append(TolerationConfig(key=gpu_resource(group.accelerator), effect="NoSchedule"))
    if group.is_spot:
        selector |= kuberay.spot_selector or _SPOT.get(cluster.cloud, {})
        tolerations += kuberay.spot_tolerations or _SPOT_TOLERATIONS.get(cluster.cloud, ())
    spec = _pod(job, container, group.memory_gb, selector, tolerations)
    # Only the head's autoscaler talks to Kubernetes.
    spec = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": GRACE_S, **spec}
    spec["volumes"].append({"name": "model-cache", **_cache_volume(kuberay, cache_gb)})
    return {"metadata": {"labels": labels(job, "worker")}, "spec": spec}


def submitter_template(job: Job) -> Manifest:
    """Return the pod that hands the job to the head and shows its log."""
    needs = quantities(1, 1, 1)
    container = {
        "name": "ray-job-submitter",
        "image": job.cluster.image,
        "resources": {"requests": needs, "limits": needs},
        "env": [{"name": "HOME", "value": SCRATCH}],
        "securityContext": container_security(),
        "volumeMounts": [{"name": "scratch", "mountPath": SCRATCH}],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": _pod_security(job),
        **_pull_secrets(job),
        "containers": [container],
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}}],
    }
    return {"metadata": {"labels": labels(job, "submitter")}, "spec": spec}


def quantities(cpus: int, memory_gb: int, disk_gb: int) -> dict[str, str]:
    """Return requests, which are limits too: what a pod was promised is what Ray counts with."""
    return {"cpu": str(cpus), "memory": f"{memory_gb}Gi", "ephemeral-storage": f"{disk_gb}Gi"}


def container_security() -> Manifest:
    """Return what a container may do."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _pod_security(job: Job) -> Manifest:
    user = job.cluster.kuberay.run_as_user
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container(name: str, job: Job, needs: Mapping[str, str]) -> Manifest:
    variables = {"HOME": SCRATCH, **environment(job, CACHE if name == "ray-worker" else SCRATCH)}
    container: Manifest = {
        "name": name,
        "image": job.cluster.image,
        "workingDir": job.cluster.workdir,
        "resources": {"requests": dict(needs), "limits": dict(needs)},
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "scratch", "mountPath": SCRATCH},
            {"name": "shared-memory", "mountPath": SHARED_MEMORY},
            *(
                {"name": volume.claim, "mountPath": volume.path, "readOnly": volume.read_only}
                for volume in job.cluster.kuberay.volumes
            ),
        ],
    }
    if job.cluster.secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in job.cluster.secrets]
    return container


def _pod(
    job: Job, container: Manifest, memory_gb: int, selector: Mapping[str, str], tolerations: Iterable[TolerationConfig]
) -> Manifest:
    kuberay = job.cluster.kuberay
    shared = max(1, int(memory_gb * SHARED_MEMORY_SHARE))
    claims = [
        {"name": volume.claim, "persistentVolumeClaim": {"claimName": volume.claim, "readOnly": volume.read_only}}
        for volume in kuberay.volumes
    ]
    accepted = [toleration.model_dump(exclude_none=True) for toleration in tolerations]
    return {
        **({"serviceAccountName": kuberay.service_account} if kuberay.service_account else {}),
        **_pull_secrets(job),
        **({"nodeSelector": dict(selector)} if selector else {}),
        **({"tolerations": accepted} if accepted else {}),
        "securityContext": _pod_security(job),
        "enableServiceLinks": False,
        "containers": [container],
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": f"{kuberay.scratch_gb}Gi"}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shared}Gi"}},
            *claims,
        ],
    }


def _pull_secrets(job: Job) -> Manifest:
    names: Sequence[str] = job.cluster.kuberay.image_pull_secrets
    return {"imagePullSecrets": [{"name": name} for name in names]} if names else {}


def _selector(placement: PlacementConfig, instance_type: str) -> dict[str, str]:
    return {**({_INSTANCE_TYPE: instance_type} if instance_type else {}), **placement.node_selector}


def _cache_volume(kuberay: KubeRayConfig, cache_gb: int | None) -> Manifest:
    """Return a shared claim, a volume that lives as long as the pod, or the node's disk."""
    cache = kuberay.cache
    if cache.claim:
        return {"persistentVolumeClaim": {"claimName": cache.claim}}
    if not cache.storage_class:
        return {"emptyDir": {"sizeLimit": f"{cache_gb}Gi"}}
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": cache.storage_class,
        "resources": {"requests": {"storage": f"{cache_gb}Gi"}},
    }
    return {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}
