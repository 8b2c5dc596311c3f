"""What judges rendered manifests: KubeRay's CRDs, Kubernetes' own schemas, and the operator's rules beyond both."""

from __future__ import annotations

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

CRDS = Path(__file__).parents[1] / ".." / "shared" / "data" / "kuberay"
KUBERNETES = "1.34"
DNS_1035 = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
needs_crds = pytest.mark.skipif(not CRDS.is_dir(), reason=f"KubeRay's CRDs are not at {CRDS}")


@cache
def crd_validator(kind: str) -> jsonschema.Draft202012Validator:
    """Return the validator of a kind of ray.io/v1; a field that the schema does not have is refused.

    A Kubernetes API server would drop such a field without a word.
    """
    path = CRDS / f"ray.io_{kind.lower()}s.yaml"
    crd = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    version = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    # The CRD leaves these to Kubernetes.
    schema["properties"]["metadata"] = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "namespace": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    schema["properties"]["apiVersion"]["const"] = "ray.io/v1"
    schema["properties"]["kind"]["const"] = kind
    _refuse_unknown(schema)
    return jsonschema.Draft202012Validator(schema)


def _refuse_unknown(schema: dict[str, Any]) -> None:
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for part in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(part, dict):
            _refuse_unknown(part)


def crd_errors(manifest: dict[str, Any]) -> list[str]:
    """Return what KubeRay's CRD has against a manifest: path and message."""
    errors = crd_validator(manifest["kind"]).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors]


def check_core(manifest: dict[str, Any]) -> None:
    """Raise unless Kubernetes' schema takes an object; unknown fields are refused."""
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def pods(ray_job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every pod template of a RayJob as a pod."""
    cluster = ray_job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    templates = [ray_job["spec"]["submitterPodTemplate"], *(group["template"] for group in groups)]
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "pod", **copy.deepcopy(template["metadata"])},
            "spec": template["spec"],
        }
        for template in templates
    ]


def operator_errors(ray_job: dict[str, Any]) -> list[str]:
    """Return what KubeRay 1.7's operator would refuse though the CRD takes it (its validation.go), gates at default."""
    spec, cluster = ray_job["spec"], ray_job["spec"]["rayClusterSpec"]
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    rules = spec.get("deletionStrategy", {}).get("deletionRules", [])
    scales = cluster.get("enableInTreeAutoscaling", False)
    names = [group["groupName"] for group in groups]
    wrong = {
        "the name": not DNS_1035.match(ray_job["metadata"]["name"]) or len(ray_job["metadata"]["name"]) > 47,
        "rules and shutdown": bool(rules) == bool(spec.get("shutdownAfterJobFinishes")),
        "a ttl without shutdown": "ttlSecondsAfterFinished" in spec and not spec.get("shutdownAfterJobFinishes"),
        "the condition of a rule": any(
            len({"jobStatus", "jobDeploymentStatus"} & set(r["condition"])) != 1 for r in rules
        ),
        "workers deleted while scaling": scales and any(rule["policy"] == "DeleteWorkers" for rule in rules),
        "resources named twice": any(g.get("resources") and g.get("rayStartParams") for g in (head, *groups)),
        "labels": any("labels" in group.get("rayStartParams", {}) for group in (head, *groups)),
        "replicas": any(not 0 <= g["minReplicas"] <= g["replicas"] <= g["maxReplicas"] for g in groups),
        "groups of one name": len(set(names)) != len(names) or "head" in names,
        "a group's name": not all(DNS_1035.match(name) for name in names),
        "priority without autoscaling": not scales and any("priority" in group for group in groups),
        "restart policy": any("restartPolicy" in group["template"]["spec"] for group in (head, *groups)),
        "authentication": cluster["authOptions"] != {"mode": "token"} or not cluster.get("rayVersion"),
        "an alpha gate": "networkPolicy" in cluster or "tlsOptions" in cluster,
        "deadline": spec.get("activeDeadlineSeconds", 1) <= 0 or spec["backoffLimit"] < 0,
    }
    return [*(name for name, is_wrong in wrong.items() if is_wrong), *_gcs_errors(cluster)]


def _gcs_errors(cluster: dict[str, Any]) -> list[str]:
    options = cluster.get("gcsFaultToleranceOptions", {})
    redis = {"redisAddress", "redisPassword", "redisUsername"} & set(options)
    wrong = {"redis": not redis, "rocksdb": bool(redis)}.get(options.get("backend"), False)
    return ["fault tolerance"] if wrong or ("storage" in options and redis) else []


def kueue_errors(ray_job: dict[str, Any]) -> list[str]:
    """Return what Kueue's webhook would refuse (its pkg/controller/jobs/rayjob and raycluster)."""
    if "kueue.x-k8s.io/queue-name" not in ray_job["metadata"].get("labels", {}):
        return []
    spec, cluster = ray_job["spec"], ray_job["spec"]["rayClusterSpec"]
    elastic = ray_job["metadata"].get("annotations", {}).get("kueue.x-k8s.io/elastic-job") == "true"
    wrong = {
        "keeps its cluster": not spec.get("shutdownAfterJobFinishes"),
        "autoscaling": cluster.get("enableInTreeAutoscaling") and not elastic,
        "too many groups": len(cluster["workerGroupSpecs"]) > 6,
    }
    return [name for name, is_wrong in wrong.items() if is_wrong]
