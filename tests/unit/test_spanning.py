"""Engines larger than a node: what is refused, what is asked of Ray, and what the processes are told."""

from __future__ import annotations

import pytest

from wrpo_ray.claims import engine_claim
from wrpo_ray.cluster import demands, unmet
from wrpo_ray.config import FuseConfig, ResourcesConfig
from wrpo_ray.config_file import load_config
from wrpo_ray.data.spanning import bundles, own_resources
from wrpo_ray.engines.groups import given_group, group_environment
from wrpo_ray.errors import ConfigError
from wrpo_ray.planning.plan import plan_run

SMOKE = "jobs/configs/smoke.yaml"


def with_source(*settings: str) -> FuseConfig:
    plain = load_config(SMOKE)
    return load_config(SMOKE, [f"sources.{plain.sources[0].name}.{setting}" for setting in settings])


SPANNING = ("resources.num_gpus=4", "engine.tensor_parallel_size=2", "engine.pipeline_parallel_size=2")


def test_each_node_gives_equally_many_gpus() -> None:
    assert with_source(*SPANNING, "resources.num_nodes=2").sources[0].resources.num_nodes == 2
    for wrong in (3, 8):
        with pytest.raises(ConfigError, match=r"num_nodes.*must divide resources.num_gpus = 4") as raised:
            with_source(*SPANNING, f"resources.num_nodes={wrong}")
        assert raised.value.code == "WRPO-C016"
    with pytest.raises(ConfigError, match=r"must divide resources\.num_gpus = 0"):
        with_source("resources.num_nodes=2")


def test_nothing_but_an_engine_of_vllm_spans_nodes() -> None:
    with pytest.raises(ConfigError, match="is set by the run"):
        with_source(*SPANNING, "resources.num_nodes=2", "engine.extra_args.distributed_executor_backend=mp")
    assert with_source(*SPANNING, "engine.extra_args.distributed_executor_backend=mp")


def test_a_bundle_is_one_gpu_and_its_share_of_the_cpus() -> None:
    resources = ResourcesConfig(num_cpus=6, num_gpus=4, num_nodes=2, accelerator_type="H100")
    assert bundles(resources) == [{"CPU": 1.5, "GPU": 1.0, "accelerator_type:H100": 0.001}] * 4
    # The actor holds CPUs alone: the GPUs are the group's, and asked for twice they would not be there.
    assert own_resources(resources) == {"num_cpus": 1.5}
    assert own_resources(ResourcesConfig(num_cpus=6, num_gpus=4))["num_gpus"] == 4


def test_shares_of_cpus_are_never_more_than_there_are() -> None:
    for gpus in range(2, 65):
        resources = ResourcesConfig(num_cpus=1, num_gpus=gpus, num_nodes=2)
        total = sum(bundle["CPU"] for bundle in bundles(resources))
        assert 0.99 < total <= 1 + 1e-9


def test_what_the_cluster_must_hold_is_counted_by_node() -> None:
    config = with_source(*SPANNING, "resources.num_nodes=2", "resources.num_cpus=2")
    place = f"sources.{config.sources[0].name}.resources"
    (demand,) = (each for each in demands(config) if each.place == place)
    assert (demand.count, demand.num_cpus, demand.num_gpus) == (2, 1.0, 2.0)
    assert not unmet([demand], [{"CPU": 1.0, "GPU": 2.0}] * 2)
    assert unmet([demand], [{"CPU": 8.0, "GPU": 2.0}])
    claim = engine_claim(config.sources[0].resources)
    assert (claim.num_nodes, claim.num_gpus) == (2, 4.0)


def test_the_plan_is_the_same_for_gpus_on_one_node_and_on_two() -> None:
    def stages(config: FuseConfig) -> list[object]:
        return [planned.stage for planned in plan_run(config).stages]

    assert stages(with_source(*SPANNING)) == stages(with_source(*SPANNING, "resources.num_nodes=2"))


def test_a_process_outside_of_a_group_is_told_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WRPO_RAY_PLACEMENT_GROUP", raising=False)
    assert given_group() is None
    assert group_environment() == {}
    monkeypatch.setenv("WRPO_RAY_PLACEMENT_GROUP", "0a" * 18)
    group = given_group()
    assert group is not None
    assert group.id.hex() == "0a" * 18
