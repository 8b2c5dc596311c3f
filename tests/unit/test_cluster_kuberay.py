"""Manifests for KubeRay: taken by its CRDs, by Kubernetes' schemas and by Ray's own autoscaler; nothing left open."""

import copy
import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cluster_schemas import (
    check_core,
    crd_errors,
    kueue_errors,
    needs_crds,
    operator_errors,
    pods,
)
from wrpo_ray.cluster_render.command import rendered
from wrpo_ray.cluster_render.overlay import overrides_of
from wrpo_ray.config_file import load_config, parse_config
from wrpo_ray.errors import ConfigError

ROOT = Path(__file__).parents[2]
PAPER = ("jobs/configs/llama3_8b.yaml", "cluster/sites/gke_h100.yaml")
SMALL = ("jobs/configs/smoke.yaml", "cluster/sites/eks_smoke.yaml")
RUNS = pytest.mark.parametrize("run", [PAPER, SMALL], ids=["paper", "small"])


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def objects(run: tuple[str, str], *overrides: str) -> list[dict[str, Any]]:
    config = load_config(ROOT / run[0], [*overrides_of(str(ROOT / run[1])), *overrides])
    texts = rendered(config, "kuberay", "header")
    return [found for text in texts.values() for found in yaml.load_all(text, Loader=yaml.CSafeLoader)]


def ray_job(run: tuple[str, str], *overrides: str) -> dict[str, Any]:
    return objects(run, *overrides)[-1]


def policies(run: tuple[str, str], *overrides: str) -> dict[str, dict[str, Any]]:
    found = [each for each in objects(run, *overrides) if each["kind"] == "NetworkPolicy"]
    return {each["metadata"]["name"].rsplit("-", 1)[1]: each["spec"] for each in found}


@needs_crds
@RUNS
def test_the_rayjob_keeps_kuberays_crd(run: tuple[str, str]) -> None:
    job = ray_job(run)
    assert crd_errors(job) == []
    cluster = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "c"}}
    assert crd_errors({**cluster, "spec": job["spec"]["rayClusterSpec"]}) == []
    assert operator_errors(job) == kueue_errors(job) == []


@needs_crds
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "backofflimit"), 3),
        (("spec", "backoffLimit"), "3"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "none"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "hostnetwork"), True),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 1, "template", "spec", "volumes", 0, "emptydir"), {}),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 1, "maxReplicas"), None),
        (("spec", "deletionStrategy", "deletionRules", 0, "policy"), "Delete"),
    ],
)
def test_the_judge_refuses_what_is_wrong(path: tuple[Any, ...], value: Any) -> None:
    job = ray_job(PAPER)
    node: Any = job
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    assert len(crd_errors(job)) == 1


@RUNS
def test_kubernetes_takes_every_other_object_and_every_pod(run: tuple[str, str]) -> None:
    *others, job = objects(run)
    assert [each["kind"] for each in others] == ["ConfigMap", *["NetworkPolicy"] * 3]
    for manifest in [*others, *pods(job)]:
        check_core(manifest)
    broken = copy.deepcopy(others[1])
    broken["spec"]["egress"][0]["port"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        check_core(broken)


@RUNS
def test_pods_keep_the_restricted_security_standard(run: tuple[str, str]) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    for pod in pods(ray_job(run)):
        spec = pod["spec"]
        assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(spec)
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        allowed = {"configMap", "emptyDir", "ephemeral", "persistentVolumeClaim"}
        assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "hostPort" not in json.dumps(container)


@RUNS
def test_only_the_head_may_talk_to_kubernetes(run: tuple[str, str]) -> None:
    tokens = {
        pod["metadata"]["labels"]["wrpo-ray/role"]: pod["spec"].get("automountServiceAccountToken", True)
        for pod in pods(ray_job(run))
    }
    assert tokens == {"submitter": False, "head": True, "worker": False}


@RUNS
def test_mounts_name_volumes_and_every_volume_is_mounted(run: tuple[str, str]) -> None:
    for pod in pods(ray_job(run)):
        volumes = sorted(volume["name"] for volume in pod["spec"]["volumes"])
        mounted = sorted(mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"])
        assert volumes == mounted
        assert len(set(volumes)) == len(volumes)


def test_the_head_takes_no_work_and_authentication_is_on() -> None:
    cluster = ray_job(PAPER)["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert "serviceType" not in cluster["headGroupSpec"]


def test_workers_have_shared_memory_cache_and_gpus() -> None:
    groups = {group["groupName"]: group for group in ray_job(PAPER)["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    assert list(groups) == ["cpu", "h100-spot", "h100"]
    spec = groups["h100-spot"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert volumes[mounts["/cache"]]["ephemeral"]["volumeClaimTemplate"]["spec"]["storageClassName"] == "premium-rwo"
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    # 32 H100 are planned, one node of eight is never withdrawn.
    assert [(groups[name]["maxReplicas"], groups[name].get("priority")) for name in groups] == [
        (1, None), (3, 1), (1, 0)
    ]  # fmt: skip
    assert spec["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true"} in spec["tolerations"]
    assert "cloud.google.com/gke-spot" not in json.dumps(groups["h100"])


def test_the_cache_holds_the_weights_of_all_models() -> None:
    """122.6 + 27.2 + 72.7 + 70.6 + 9.24 + 19.9 + 2 * 236 + 34.4 + 14.0 + 8.03 + 7.51 = 858.2 billion weights."""
    spec = ray_job(PAPER)["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]["template"]["spec"]
    volume = next(volume for volume in spec["volumes"] if volume["name"] == "model-cache")
    size = volume["ephemeral"]["volumeClaimTemplate"]["spec"]["resources"]["requests"]["storage"]
    assert size == f"{round(858.18e9 * 2 * 1.2 / 2**30 + 0.5)}Gi"


def test_a_config_comes_back_as_it_went_in_but_for_places_and_size() -> None:
    overrides = overrides_of(SMALL[1])
    before = load_config(SMALL[0], overrides).model_dump(mode="json")
    config_map = objects(SMALL)[0]
    after = parse_config(config_map["data"]["run.yaml"], "x").model_dump(mode="json")
    for section in (*before["sources"], before["target"], before["reward"], before["prompts"]):
        assert section["path"].startswith("./")
        section["path"] = section["path"].replace("./", "/opt/wrpo_ray/", 1)
    assert before["planning"]["cluster"] == {}
    before["planning"]["cluster"] = {"CPU": 6}
    before["cluster"] = None
    assert after == before
    assert ray_job(SMALL)["spec"]["entrypoint"] == "python /opt/wrpo_ray/jobs/fuse.py --config /etc/wrpo_ray/run.yaml"


def test_another_config_has_another_config_map_and_is_the_one_mounted() -> None:
    first, second = objects(SMALL), objects(SMALL, "wrpo.beta=0.5")
    names = [found[0]["metadata"]["name"] for found in (first, second)]
    assert len(set(names)) == 2
    for found, name in zip((first, second), names, strict=True):
        assert name in json.dumps(found[-1])
        assert found[0]["immutable"] is True


def test_nothing_but_what_is_named_goes_out() -> None:
    found = policies(SMALL)
    assert all(policy["policyTypes"] == ["Ingress", "Egress"] for policy in found.values())
    blocks = [
        rule["ipBlock"]
        for policy in found.values()
        for out in policy["egress"]
        for rule in out["to"]
        if "ipBlock" in rule
    ]
    hidden = ["169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"]
    assert blocks == [{"cidr": "0.0.0.0/0", "except": hidden}] * 2
    ports = {
        name: sorted({port["port"] for out in found[name]["egress"] for port in out.get("ports", [])}) for name in found
    }
    assert ports == {"ray": [53, 443], "head": [443, 6443], "submitter": [53, 8265]}
    assert found["submitter"]["ingress"] == []
    assert [rule.get("ports") for rule in found["ray"]["ingress"]] == [None]
    assert found["ray"]["ingress"][0]["from"] == [{"podSelector": found["ray"]["podSelector"]}]
    assert found["head"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": 8265}]


def test_policies_choose_the_pods_that_they_are_for() -> None:
    """The labels of the pods, held against the selectors."""
    chosen = {name: set[str]() for name in ("ray", "head", "submitter")}
    for pod in pods(ray_job(PAPER)):
        labels = pod["metadata"]["labels"]
        for name, policy in policies(PAPER).items():
            selector = policy["podSelector"]
            matches = all(labels.get(key) == value for key, value in selector["matchLabels"].items())
            matches &= all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))
            if matches:
                chosen[name].add(labels["wrpo-ray/role"])
    assert chosen == {"ray": {"head", "worker"}, "head": {"head"}, "submitter": {"submitter"}}


def test_the_network_is_what_the_config_says() -> None:
    network = (
        "cluster.kuberay.network={storage_cidrs: [10.0.0.0/8, '::/0'], api_server_cidrs: [10.1.0.1/32], "
        "api_server_ports: [6443], monitoring_namespace: prometheus, operator_namespace: ray-system, "
        "extra_egress: [{cidr: 169.254.169.254/32, ports: [80]}]}"
    )
    found = policies(SMALL, network, "tracking.mlflow_tracking_uri=http://mlflow.example.com:5000")
    storage = found["ray"]["egress"][2]
    assert [rule["ipBlock"] for rule in storage["to"]] == [
        {"cidr": "10.0.0.0/8"},
        {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::/32"]},
    ]
    assert [port["port"] for port in storage["ports"]] == [443, 5000]
    assert found["ray"]["egress"][3]["to"] == [{"ipBlock": {"cidr": "169.254.169.254/32"}}]
    assert found["head"]["egress"][0]["to"] == [{"ipBlock": {"cidr": "10.1.0.1/32"}}]
    assert found["ray"]["ingress"][1]["ports"] == [{"protocol": "TCP", "port": 8080}]
    operator = found["head"]["ingress"][0]["from"][0]
    assert operator["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "ray-system"}}
    assert policies(SMALL, "cluster.kuberay.network=null") == {}


def test_retries_deadline_and_deletion() -> None:
    spec = ray_job(PAPER, "cluster.time_limit_hours=1.5", "cluster.kuberay.delete_after_failure_s=7")["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"], spec["shutdownAfterJobFinishes"]) == (3, 5400, False)
    rules = spec["deletionStrategy"]["deletionRules"]
    assert [(rule["policy"], *rule["condition"].values()) for rule in rules] == [
        ("DeleteCluster", "SUCCEEDED", 60),
        ("DeleteCluster", "FAILED", 7),
        ("DeleteCluster", "Failed", 7),
    ]


def test_in_a_queue_all_nodes_come_at_once_unless_it_is_elastic() -> None:
    job = ray_job(PAPER, "cluster.kuberay.queue={name: gpus, priority_class: high}")
    assert job["metadata"]["labels"] == {
        "kueue.x-k8s.io/queue-name": "gpus", "kueue.x-k8s.io/priority-class": "high"
    }  # fmt: skip
    cluster = job["spec"]["rayClusterSpec"]
    assert [(g["minReplicas"], g["replicas"], g["maxReplicas"]) for g in cluster["workerGroupSpecs"]] == [
        (1, 1, 1), (3, 3, 3), (1, 1, 1)
    ]  # fmt: skip
    assert kueue_errors(job) == operator_errors(job) == []
    elastic = ray_job(PAPER, "cluster.kuberay.queue={name: gpus, elastic: true}")
    assert elastic["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    assert kueue_errors(elastic) == operator_errors(elastic) == []
    elastic["metadata"]["annotations"].clear()
    assert kueue_errors(elastic) == ["autoscaling"]


def test_secrets_are_named_and_never_written() -> None:
    text = json.dumps(ray_job(PAPER))
    assert text.count('{"secretRef": {"name": "hugging-face"}}') == 4
    assert '"secretKeyRef": {"name": "redis", "key": "password"}' in text
    with pytest.raises(ConfigError) as caught:
        objects(PAPER, "cluster.env={HF_TOKEN: hf_abcdefghijklmnopqrstuvwxyz}")
    assert "cluster.env.HF_TOKEN" in caught.value.problems[0].place
    assert "hf_abcdef" not in str(caught.value)


def test_without_names_of_the_hub_nothing_is_asked_there() -> None:
    def variables(run: tuple[str, str], *overrides: str) -> dict[str, str]:
        container = pods(ray_job(run, *overrides))[1]["spec"]["containers"][0]
        return {each["name"]: each["value"] for each in container["env"]}

    assert variables(SMALL)["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in variables(PAPER)
    # The harness's data sets come from the hub, wherever the models are.
    harness = "evaluation={prompts: {path: s3://bkt/p}, sampling: {max_tokens: 9}, lm_eval: {tasks: [gsm8k]}}"
    assert "HF_HUB_OFFLINE" not in variables(SMALL, harness)


CLUSTERS = st.fixed_dictionaries(
    {"image": st.just("example.com/wrpo-ray:1"), "cloud": st.sampled_from(["aws", "gcp", "other"])},
    optional={
        "head": st.just({"cpus": 4, "memory_gb": 16}),
        "nodes": st.fixed_dictionaries(
            {},
            optional={
                "H100": st.fixed_dictionaries(
                    {"cpus": st.integers(8, 200), "memory_gb": st.integers(1, 2000), "gpus": st.integers(1, 16)},
                    optional={
                        "spot": st.booleans(), "on_demand_nodes": st.integers(0, 3), "min_nodes": st.integers(0, 3),
                        "max_nodes": st.integers(1, 9), "extended_resources": st.just({"vpc.amazonaws.com/efa": 4}),
                    },
                ),
                "CPU": st.just({"spot": True}),
            },
        ),
        "max_retries": st.integers(0, 9),
        "secrets": st.just(["one", "two"]),
        "kuberay": st.fixed_dictionaries(
            {},
            optional={
                "queue": st.sampled_from([{"name": "q"}, {"name": "q", "elastic": True}]),
                "gcs": st.sampled_from(
                    [{"backend": "rocksdb"}, {"backend": "redis", "redis_address": "r:6379"}, {"backend": "redis"}]
                ),
                "cache": st.sampled_from([{"claim": "c"}, {"size_gb": 5}, {"storage_class": "s"}]),
                "volumes": st.just([{"claim": "shared", "path": "/shared"}]),
                "network": st.sampled_from([None, {"storage_cidrs": ["10.0.0.0/8"]}]),
                "image_pull_secrets": st.just(["pull"]),
                "spot_selector": st.just({"spot": "yes"}),
            },
        ),
    },
)  # fmt: skip


@needs_crds
@settings(max_examples=40, deadline=None)
@given(cluster=CLUSTERS)
def test_what_is_rendered_is_taken_and_all_else_is_refused_with_its_place(cluster: dict[str, Any]) -> None:
    try:
        *others, job = objects(PAPER, f"cluster={json.dumps(cluster)}")
    except ConfigError as error:
        if not error.problems or not all(problem.place for problem in error.problems):
            raise
        return
    assert crd_errors(job) == operator_errors(job) == kueue_errors(job) == []
    for manifest in [*others, *pods(job)]:
        check_core(manifest)
