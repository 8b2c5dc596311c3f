"""How many shards a replica works on at a time, so that its engine is never empty between two of them."""

from __future__ import annotations

import math

from wrpo_ray.config import OpenAISourceConfig, RewardConfig, SourceConfig, VerifierRewardConfig, VllmRewardConfig

_MOST = 64
"""Each shard at work is a thread of the actor; with more, resources.prompts_per_shard is too small for the engine."""
ONE_AT_A_TIME = 0
"""The `num_side_by_side` of an engine that works on one shard after another."""


def shards_in_flight(num_shards: int, num_replicas: int, requests_per_shard: float, num_side_by_side: int) -> int:
    """Return how many shards one replica works on at a time: 1 to 64, never more than its share of the shards.

    num_side_by_side: requests that the engine works on at once. A shard ends with its longest request, so about half of
    the requests of the shards at work are done already: twice the shards that fill the engine keep it full, and one
    more is read, or committed, meanwhile. More would only hold memory and take shards from replicas that have none.
    """
    share = math.ceil(num_shards / num_replicas)
    if num_side_by_side == ONE_AT_A_TIME:
        return max(1, min(share, 2))
    wanted = 2 * math.ceil(num_side_by_side / max(1.0, requests_per_shard)) + 1
    return max(1, min(share, wanted, _MOST))


def of_sampling(model: SourceConfig, num_shards: int, num_requests: int) -> int:
    """Return the shards in flight of a sampling step; an endpoint's limits are kept by one shard at a time."""
    resources = model.resources
    num_side_by_side = ONE_AT_A_TIME if isinstance(model, OpenAISourceConfig) else model.engine.max_num_seqs
    per_shard = num_requests / max(1, num_shards)
    return shards_in_flight(num_shards, resources.num_replicas, per_shard, num_side_by_side)


def of_scoring(reward: RewardConfig, num_shards: int, num_rows: int) -> int:
    """Return the shards in flight of a scoring step."""
    if isinstance(reward, VerifierRewardConfig):
        return shards_in_flight(num_shards, 1, 1, ONE_AT_A_TIME)
    num_side_by_side = reward.engine.max_num_seqs if isinstance(reward, VllmRewardConfig) else ONE_AT_A_TIME
    per_shard = num_rows / max(1, num_shards)
    return shards_in_flight(num_shards, reward.resources.num_replicas, per_shard, num_side_by_side)
