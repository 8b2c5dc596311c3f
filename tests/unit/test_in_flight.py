"""How many shards a replica works on at a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrpo_ray.config import (
    ModelConfig,
    OpenAISourceConfig,
    ResourcesConfig,
    TransformersRewardConfig,
    VerifierRewardConfig,
    VllmRewardConfig,
)
from wrpo_ray.data.in_flight import ONE_AT_A_TIME, of_sampling, of_scoring, shards_in_flight


@pytest.mark.parametrize(
    ("per_shard", "side_by_side", "expected"),
    [(1280, 256, 3), (1280, 1024, 3), (40, 256, 15), (1, 256, 64), (1280, ONE_AT_A_TIME, 2)],
)
def test_the_engine_is_full_and_no_more(per_shard: int, side_by_side: int, expected: int) -> None:
    assert shards_in_flight(1000, 1, per_shard, side_by_side) == expected


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 2000), st.integers(0, 1024))
def test_bounds(num_shards: int, num_replicas: int, per_shard: int, side_by_side: int) -> None:
    found = shards_in_flight(num_shards, num_replicas, per_shard, side_by_side)
    assert 1 <= found <= 64
    # The last shards are spread over all replicas.
    assert found * num_replicas < num_shards + num_replicas
    assert (found >= 2) == (num_shards > num_replicas)


def test_each_kind_of_engine() -> None:
    two = ResourcesConfig(num_replicas=2)
    model = ModelConfig(name="a", path="none", resources=two)
    assert of_sampling(model, 20, 20 * 1280) == 3
    assert of_sampling(model, 2, 2 * 1280) == 1
    endpoint = OpenAISourceConfig(name="a", type="openai", model="m", base_url="http://localhost:1/v1")
    assert of_sampling(endpoint, 20, 20 * 1280) == 2
    assert of_scoring(VllmRewardConfig(type="vllm", path="none", resources=two), 20, 20 * 1280) == 3
    assert of_scoring(TransformersRewardConfig(type="transformers", path="none", resources=two), 20, 20 * 1280) == 2
    assert of_scoring(VerifierRewardConfig(type="verifier"), 20, 20) == 2
