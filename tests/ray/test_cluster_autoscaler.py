"""Ray's own autoscaler reads the rendered cluster, and asks for the nodes that actors need. Starts no Ray."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from wrpo_ray.cluster_render.command import rendered
from wrpo_ray.cluster_render.overlay import overrides_of
from wrpo_ray.config_file import load_config

ROOT = Path(__file__).parents[2]
TYPE = "accelerator_type:H100"


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def autoscaling(*overrides: str) -> AutoscalingConfig:
    """Return what the autoscaler on the head makes of the paper's RayCluster."""
    overrides = (*overrides_of("cluster/sites/gke_h100.yaml"), *overrides)
    text = rendered(load_config("jobs/configs/llama3_8b.yaml", overrides), "kuberay", "x")["30-rayjob.yaml"]
    spec = yaml.safe_load(text)["spec"]["rayClusterSpec"]
    raw = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "c", "namespace": "n"}, "spec": spec})
    validate_config(raw)
    return AutoscalingConfig(raw, skip_content_hash=True)


def launched(config: AutoscalingConfig, *demands: tuple[int, dict[str, float]]) -> tuple[dict[str, int], int]:
    """Return the nodes that an empty cluster asks for, by group, and how many of the demands it can never meet."""
    requests = [ResourceRequestUtil.make(shape) for count, shape in demands for _ in range(count)]
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(requests),
        )
    )
    nodes = Counter[str]()
    for launch in reply.to_launch:
        nodes[launch.instance_type] += launch.count
    # The head is there already.
    nodes.pop("headgroup", None)
    return dict(nodes), len(reply.infeasible_resource_requests)


def test_it_reads_what_the_nodes_have() -> None:
    types = autoscaling().get_node_type_configs()
    assert list(types) == ["headgroup", "cpu", "h100-spot", "h100"]
    assert types["headgroup"].resources["CPU"] == 0
    spot: Any = types["h100-spot"]
    assert (spot.min_worker_nodes, spot.max_worker_nodes, spot.priority) == (0, 3, 1)
    assert {name: spot.resources[name] for name in ("CPU", "GPU", TYPE)} == {"CPU": 187, "GPU": 8, TYPE: 1}


def test_tasks_without_a_gpu_get_a_small_node() -> None:
    assert launched(autoscaling(), (4, {"CPU": 0.5})) == ({"cpu": 1}, 0)


def test_engines_get_spot_nodes_first_and_the_others_when_those_are_used_up() -> None:
    config = autoscaling()
    engine = {"CPU": 8.0, "GPU": 4.0}
    assert launched(config, (2, engine)) == ({"h100-spot": 1}, 0)
    assert launched(config, (6, engine)) == ({"h100-spot": 3}, 0)
    assert launched(config, (8, engine)) == ({"h100-spot": 3, "h100": 1}, 0)


def test_a_wanted_accelerator_type_is_known() -> None:
    """Ray finds the type only once a node is there: without the resource in the group none would ever come."""
    config = autoscaling()
    assert launched(config, (1, {"CPU": 8.0, "GPU": 8.0, TYPE: 0.001})) == ({"h100-spot": 1}, 0)
    assert launched(config, (1, {"GPU": 1.0, "accelerator_type:A100": 0.001})) == ({}, 1)


def test_no_more_than_planned() -> None:
    nodes, unmet = launched(autoscaling(), (100, {"CPU": 4.0, "GPU": 1.0}))
    assert nodes == {"h100-spot": 3, "h100": 1}
    assert unmet == 100 - 32
    nodes, unmet = launched(autoscaling("planning.cluster={H100: 64}"), (100, {"CPU": 4.0, "GPU": 1.0}))
    assert (sum(nodes.values()), unmet) == (8, 100 - 64)


def test_training_has_all_of_its_workers() -> None:
    train = load_config("jobs/configs/llama3_8b.yaml").wrpo
    worker = {"CPU": train.num_cpus_per_worker, "GPU": float(train.num_gpus_per_worker)}
    assert launched(autoscaling(), (train.num_workers, worker)) == ({"h100-spot": 1}, 0)
