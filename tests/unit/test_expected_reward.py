"""Expected rewards worked out by hand, and intervals that cover what they should."""

import math
from pathlib import Path

import numpy as np
import pytest

from wrpo_ray.errors import DataError
from wrpo_ray.evaluate.answers import rewarded
from wrpo_ray.evaluate.expected_reward import compare, estimate
from wrpo_ray.schema import ScoredResponse
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import Manifest, create_manifest
from wrpo_ray.storage.tables import write_rows


def scored(tmp_path: Path, rewards: dict[str, dict[str, list[float]]]) -> Location:
    rows = [
        ScoredResponse(prompt_id, model, index, "x", "stop", 1, value)
        for model, of_model in rewards.items()
        for prompt_id, values in of_model.items()
        for index, value in enumerate(values)
    ]
    folder = locate(tmp_path)
    entry = write_rows(folder, "data/shard-000000.parquet", rows, ScoredResponse)
    create_manifest(folder, Manifest("s", "f", {}, {}, (entry,), {}, {}, 0.0))
    return folder


def test_means_leave_non_finite_rewards_out(tmp_path: Path) -> None:
    folder = scored(tmp_path, {"a": {"p": [0.0, 1.0, math.nan], "q": [0.5], "r": [math.nan]}})
    found = rewarded([folder], ["a", "none"])
    assert found["a"].values == {"p": 0.5, "q": 0.5}
    assert (found["a"].num_answers, found["a"].num_tokens, found["a"].lengths["p"]) == (3, 3, 1.0)
    assert found["none"].values == {}


def test_equal_rewards_in_another_order_tie(tmp_path: Path) -> None:
    folder = scored(tmp_path, {"a": {"p": [0.1, 0.2, 0.3]}, "b": {"p": [0.3, 0.2, 0.1]}})
    found = rewarded([folder], ["a", "b"])
    assert found["a"].values == found["b"].values


def test_compare_pairs_prompts_and_counts_those_that_a_model_fails_on() -> None:
    means = {"before": {"p": 0.1, "q": 0.4, "failed": 9.0}, "after": {"q": 0.9, "p": 0.6}}
    result = compare(means, ["before", "after"], num_prompts=3, num_bootstrap=100, seed=1)
    assert (result.prompt_ids, result.num_prompts, result.num_prompts_left_out) == (("p", "q"), 2, 1)
    assert result.models["before"]["reward"].mean == pytest.approx(0.25)
    assert result.models["after"]["reward"].mean == pytest.approx(0.75)
    gain = result.models["after"]["gain"]
    # Both prompts gain 0.5, so every resample does: a paired interval has no width here.
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(DataError, match="no prompt with a finite reward in common"):
        compare(means, ["before", "other"], num_prompts=3, num_bootstrap=10, seed=1)


def test_interval_covers_the_true_mean_about_95_times_in_100() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        interval = estimate(generator.normal(1.0, 1.0, size=80).tolist(), num_bootstrap=300, seed=seed)
        covered += interval.low <= 1.0 <= interval.high
    assert 180 <= covered <= 199
    assert estimate([1.0, 2.0, 3.0], 200, 7) == estimate([1.0, 2.0, 3.0], 200, 7)
