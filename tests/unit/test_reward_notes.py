"""What workers note about rewards gives what a look at all rewards would give."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrpo_ray.data.reward_notes import MAX_DISTINCT_REWARDS, MIN_ANSWERS_TO_DIFFER, RewardNotes, reward_notes
from wrpo_ray.schema import ScoredResponse


def row(number: int, reward: float, text: str | None = None) -> ScoredResponse:
    return ScoredResponse("p", "s", number, text if text is not None else f"text {number}", "stop", 1, reward)


def added(shards: list[list[ScoredResponse]]) -> RewardNotes:
    notes = RewardNotes()
    for shard in shards:
        notes.add(json.loads(json.dumps(reward_notes(shard))))
    return notes


@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=200), max_size=6))
def test_mean_and_number_of_different_rewards(shards: list[list[float]]) -> None:
    notes = added([[row(number, reward) for number, reward in enumerate(rewards)] for rewards in shards])
    rewards = np.array([reward for shard in shards for reward in shard])
    assert notes.num_rewards == rewards.size
    assert notes.num_distinct == min(np.unique(rewards).size, MAX_DISTINCT_REWARDS)
    if rewards.size:
        assert notes.mean == pytest.approx(rewards.mean(), abs=1e-6)
    else:
        assert notes.mean is None


def test_one_reward_for_everything_is_told_only_of_many_different_answers() -> None:
    half = MIN_ANSWERS_TO_DIFFER // 2
    first, second = [row(number, 0.5) for number in range(half)], [row(half + number, 0.5) for number in range(half)]
    assert added([first, second]).only_reward == 0.5
    assert added([first, first]).only_reward is None
    assert added([first, second, [row(0, 0.6)]]).only_reward is None
    assert added([[row(number, 0.5, "same") for number in range(99)]]).only_reward is None
    assert added([]).only_reward is None


def test_notes_stay_small() -> None:
    notes = reward_notes([row(number, number / 7) for number in range(5000)])
    assert len(json.dumps(notes)) < 4000
