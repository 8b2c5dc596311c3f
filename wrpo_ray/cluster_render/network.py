"""Network policies of a job's pods: what they reach and who reaches them, everything else denied.

They are objects of Kubernetes itself. KubeRay's own `spec.networkPolicy` is alpha in 1.7: with its feature gate off,
as it is by default, the operator refuses a cluster that has it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from wrpo_ray.addresses import METADATA_NETWORKS
from wrpo_ray.cluster_render.job import Job
from wrpo_ray.cluster_render.pods import JOB_LABEL, ROLE_LABEL, Manifest, labels
from wrpo_ray.config_cluster import NetworkConfig

_DASHBOARD, _METRICS = 8265, 8080
_NAMESPACE = "kubernetes.io/metadata.name"


def network_policies(job: Job) -> list[Manifest]:
    """Return the policies: of all Ray pods, of the head besides, and of the submitter."""
    network = job.cluster.kuberay.network
    if network is None:
        return []
    return [_of_ray_pods(job, network), _of_head(job, network), _of_submitter(job, network)]


def _of_ray_pods(job: Job, network: NetworkConfig) -> Manifest:
    inside = {"podSelector": _ray_pods(job)}
    ingress: list[Manifest] = [{"from": [inside]}]
    if network.monitoring_namespace:
        ingress.append({"from": [_namespace(network.monitoring_namespace)], "ports": _ports([_METRICS])})
    storage = sorted({*network.storage_ports, *job.ports})
    egress = [
        {"to": [inside]},
        _dns(network),
        _to(network.storage_cidrs, storage),
        *(_to([rule.cidr], rule.ports, metadata=True) for rule in network.extra_egress),
    ]
    return _policy(job, "ray", _ray_pods(job), ingress, egress)


def _of_head(job: Job, network: NetworkConfig) -> Manifest:
    """KubeRay's operator asks the dashboard how the job is; the autoscaler asks Kubernetes for pods."""
    operator: Manifest = {"podSelector": {"matchLabels": {"app.kubernetes.io/component": "kuberay-operator"}}}
    operator |= _namespace(network.operator_namespace)
    submitter = {"podSelector": {"matchLabels": labels(job, "submitter")}}
    ingress = [{"from": [operator, submitter], "ports": _ports([_DASHBOARD])}]
    egress = [_to(network.api_server_cidrs, network.api_server_ports)]
    gcs = job.cluster.kuberay.gcs
    if gcs and gcs.redis_address:
        port = int(gcs.redis_address.rpartition(":")[2])
        # A pod of this cluster, or a service of the cloud outside of it.
        egress += [{"to": [{"namespaceSelector": {}}], "ports": _ports([port])}, _to(network.storage_cidrs, [port])]
    return _policy(job, "head", {"matchLabels": labels(job, "head")}, ingress, egress)


def _of_submitter(job: Job, network: NetworkConfig) -> Manifest:
    head = {"podSelector": {"matchLabels": labels(job, "head")}}
    egress = [{"to": [head], "ports": _ports([_DASHBOARD])}, _dns(network)]
    return _policy(job, "submitter", {"matchLabels": labels(job, "submitter")}, [], egress)


def _policy(job: Job, name: str, pods: Manifest, ingress: list[Manifest], egress: list[Manifest]) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{job.name}-{name}", "namespace": job.cluster.kuberay.namespace},
        "spec": {"podSelector": pods, "policyTypes": ["Ingress", "Egress"], "ingress": ingress, "egress": egress},
    }


def _ray_pods(job: Job) -> Manifest:
    return {
        "matchLabels": {JOB_LABEL: job.name},
        "matchExpressions": [{"key": ROLE_LABEL, "operator": "In", "values": ["head", "worker"]}],
    }


def _dns(network: NetworkConfig) -> Manifest:
    pods = {**_namespace(network.dns_namespace), "podSelector": {"matchLabels": dict(network.dns_labels)}}
    ports: list[dict[str, Any]] = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
    return {"to": [pods], "ports": ports}


def _to(cidrs: Iterable[str], ports: Iterable[int], metadata: bool = False) -> Manifest:
    """Return a rule for these networks; metadata services in them are left out unless they are meant (`metadata`)."""
    return {"to": [{"ipBlock": _block(cidr, metadata)} for cidr in cidrs], "ports": _ports(ports)}


def _block(cidr: str, metadata: bool) -> Manifest:
    network = ipaddress.ip_network(cidr)
    hidden = [] if metadata else [each for each in METADATA_NETWORKS if each.version == network.version]
    inside = [str(each) for each in hidden if each.subnet_of(network)]  # type: ignore[arg-type]
    return {"cidr": str(network), "except": inside} if inside else {"cidr": str(network)}


def _namespace(name: str | None) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {_NAMESPACE: name}} if name else {}}


def _ports(numbers: Iterable[int]) -> list[Manifest]:
    return [{"protocol": "TCP", "port": number} for number in numbers]
