"""Shards that are files, and the budget that stops a step while its shards end."""

from pathlib import Path

import pyarrow as pa
import pytest

from wrpo_ray.config import RowsConfig
from wrpo_ray.data.budget import Budget
from wrpo_ray.data.scoring import FileShard, finite_reward
from wrpo_ray.engines.protocol import SetAside
from wrpo_ray.errors import ModelError, QuarantineError
from wrpo_ray.storage import ledger
from wrpo_ray.storage.ledger import QuarantinedRow, Shard
from wrpo_ray.storage.location import locate


def test_a_file_shard_is_named_by_its_content_whatever_is_known_of_its_rows(tmp_path: Path) -> None:
    driver, worker = FileShard(3, (), "sha", 2), FileShard(3, ("a", "b"), "sha", 2)
    assert driver.name == worker.name == Shard(3, ("sha",)).name
    assert FileShard(3, (), "other", 2).name != driver.name
    folder = locate(tmp_path)
    ledger.commit(folder, worker, pa.table({"x": [1]}), ["a"], [QuarantinedRow("b", "reward_not_finite", 0, "nan")])
    assert ledger.pending(folder, [driver]) == []
    assert [row.item for row in ledger.finish(folder, [driver]).first_set_aside] == ["b"]


def test_rows_that_are_only_dropped_cost_no_budget(tmp_path: Path) -> None:
    budget = Budget("sample a", locate(tmp_path), 100, RowsConfig(max_rows=0))
    budget.add(10, [("p1", "prompt_too_long")])
    budget.close()


def test_the_row_that_is_one_too_many_stops_the_step(tmp_path: Path) -> None:
    folder = locate(tmp_path)
    budget = Budget("sample a", folder, 100, RowsConfig(max_fraction=0.02))
    for number in range(3):
        row = QuarantinedRow(f"p{number}", "engine_crash", 2, "exit code 1")
        ledger.commit(folder, Shard(number, (row.item,)), pa.table({"x": [1]}).slice(0, 0), [], [row])
    budget.add(1, [("p0", "engine_crash")])
    budget.add(1, [("p1", "engine_timeout")])
    with pytest.raises(QuarantineError, match="3 of 100 rows were set aside") as raised:
        budget.add(1, [("p2", "engine_crash")])
    assert "p0, p1, p2" in raised.value.message
    assert f"{folder}/quarantine" in (raised.value.help or "")
    assert len((tmp_path / "quarantine" / "engine_crash.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), float("-inf"), 3.5e38, -1e308, 10**400])
def test_a_reward_that_is_not_finite_is_none(reward: float) -> None:
    found = finite_reward(reward, "score a")
    assert isinstance(found, SetAside)
    assert found.code == "reward_not_finite"


@pytest.mark.parametrize("reward", [None, "0.5", [0.5], True])
def test_what_is_no_number_is_a_fault_of_the_scorer(reward: object) -> None:
    with pytest.raises(ModelError, match=f"gave a {type(reward).__name__} as a reward") as raised:
        finite_reward(reward, "score a")
    assert raised.value.code == "WRPO-E007"


def test_rewards_pass_as_they_are() -> None:
    assert [finite_reward(reward, "score a") for reward in (-0.0, 1, 2.5, 3.4e38)] == [0.0, 1.0, 2.5, 3.4e38]
