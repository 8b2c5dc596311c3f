"""P-14 and P-15 where sampling and scoring are concerned: every odd row has its code, and none is lost or made up."""

import dataclasses
import json
import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import sampling_runs as runs
from tests.faults.sampling_runs import FAULTS, IDS, NUM_SAMPLES, fakes, make_scorer, num_commits, sampling_job
from wrpo_ray.config import RowsConfig, TransformersRewardConfig, VerifierRewardConfig
from wrpo_ray.data import shards
from wrpo_ray.data.sampling import sample
from wrpo_ray.data.scoring import score
from wrpo_ray.data.shard_actor import ShardActor
from wrpo_ray.data.sharded_work import ShardedWork
from wrpo_ray.errors import DataError, ModelError, QuarantineError, WrpoError
from wrpo_ray.schema import Response, ScoredResponse
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.tables import read_file, write_rows

REWARD = TransformersRewardConfig(type="transformers", path="./none")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call the actor here instead of through Ray; its engine is a process of its own all the same."""

    def reports(
        work: ShardedWork, todo: list[Any], make_worker: Callable[..., Any], arguments: dict[str, Any]
    ) -> Generator[dict[str, Any], None, None]:
        actor = ShardActor(make_worker, arguments, str(work.folder))
        for shard in todo:
            rows = actor({"description": [json.dumps(work.describe(shard))]})
            yield {name: values[0] for name, values in rows.items()}

    monkeypatch.setattr(shards, "reports", reports)


def drawn(folder: Path) -> Location:
    """Return a finished sampling step of eight files."""
    place, rows = locate(folder / "drawn" / "fingerprint"), runs.clean_responses()
    runs.prompts_step(folder / "of_drawn" / "prompts")
    parts = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    files = [write_rows(place, f"data/{number}.parquet", part, Response) for number, part in enumerate(parts)]
    return runs.finish(place, StepResult(tuple(files), {}))


def scored(folder: Path, rows: RowsConfig | None = None) -> StepResult:
    prompts, step = locate(folder / "of_drawn" / "prompts"), drawn(folder)
    return score(REWARD, prompts, [step], locate(folder / "step"), FAULTS, rows, make_scorer(folder))


def scored_rows(folder: Path, result: StepResult) -> list[ScoredResponse]:
    place = locate(folder / "step")
    return [
        row for entry in result.files if entry.num_rows is not None for row in read_file(place, entry, ScoredResponse)
    ]


def test_a_prompt_that_does_not_fit_is_dropped_and_listed(tmp_path: Path) -> None:
    fakes(tmp_path).plan(IDS[3], "too_long")
    result = runs.run(tmp_path, sampling_job(tmp_path, rows=RowsConfig(max_rows=0)))
    assert result.summary == {
        "num_prompts": 32,
        "num_prompts_without_response": 1,
        "quarantined": {"prompt_too_long": 1},
        "finish_reasons": {"stop": 31 * NUM_SAMPLES},
        "num_responses": 31 * NUM_SAMPLES,
        "num_tokens": 31 * NUM_SAMPLES * 3,
        "num_empty": 0,
        "engine_starts": 1,
    }
    listed = json.loads((tmp_path / "step" / "quarantine" / "prompt_too_long.jsonl").read_text())
    assert listed == {
        "item": IDS[3], "code": "prompt_too_long", "attempts": 0, "error": "99 tokens, 9 leave room for an answer",
    }  # fmt: skip


def test_the_same_prompt_counts_where_the_policy_says_so(tmp_path: Path) -> None:
    fakes(tmp_path).plan(IDS[3], "too_long")
    with pytest.raises(
        QuarantineError, match=f"1 of 32 rows were set aside .1 prompt_too_long., 0 are allowed: {IDS[3]}"
    ):
        runs.run(tmp_path, sampling_job(tmp_path, rows=RowsConfig(prompt_too_long="quarantine", max_rows=0)))


def test_too_few_samples_are_an_error_and_store_nothing(tmp_path: Path) -> None:
    fakes(tmp_path).plan(IDS[9], "wrong_count")
    with pytest.raises(ModelError, match=f"1 responses to prompt {IDS[9]}, 2 were asked for") as raised:
        runs.run(tmp_path, sampling_job(tmp_path))
    assert raised.value.code == "WRPO-E006"
    assert num_commits(tmp_path) == 2


def test_no_prompt_of_the_split(tmp_path: Path) -> None:
    job = sampling_job(tmp_path)
    with pytest.raises(DataError, match="no prompt of the splits preference for fake"):
        sample(dataclasses.replace(job, splits=("preference",)), locate(tmp_path / "step"))


def test_rewards_that_are_not_finite_are_set_aside(tmp_path: Path) -> None:
    fakes(tmp_path).plan(IDS[3], "nan")
    fakes(tmp_path).plan(IDS[8], "inf")
    fakes(tmp_path).plan(IDS[9], "too_long")
    result = scored(tmp_path, RowsConfig(max_fraction=0.1))
    rows = scored_rows(tmp_path, result)
    assert {row.prompt_id for row in rows} == set(IDS) - {IDS[3], IDS[8], IDS[9]}
    assert all(math.isfinite(row.reward) for row in rows)
    assert len(rows) == result.summary["num_responses"] == 29 * NUM_SAMPLES
    assert result.summary["quarantined"] == {"answer_too_long": 2, "reward_not_finite": 4}
    assert result.summary["num_not_finite"] == 4
    assert result.summary["num_distinct_rewards"] == 29 * NUM_SAMPLES
    lines = (tmp_path / "step" / "quarantine" / "reward_not_finite.jsonl").read_text().splitlines()
    assert [json.loads(line)["item"] for line in lines] == [f"{IDS[n]}:fake:{k}" for n in (3, 8) for k in range(2)]
    assert [json.loads(line)["error"] for line in lines] == ["the reward is nan"] * 2 + ["the reward is inf"] * 2


def test_too_many_of_them_stop_the_step(tmp_path: Path) -> None:
    for item in IDS[:2]:
        fakes(tmp_path).plan(item, "nan")
    with pytest.raises(QuarantineError, match=r"4 of 64 rows were set aside \(4 reward_not_finite\), 3 are allowed"):
        scored(tmp_path)


def test_a_broken_reward_model_is_named_as_such(tmp_path: Path) -> None:
    for item in IDS:
        fakes(tmp_path).plan(item, "nan")
    with pytest.raises(ModelError, match="the reward model is broken: 8 of 8 rewards are not finite") as raised:
        scored(tmp_path)
    assert raised.value.code == "WRPO-M030"
    assert raised.value.exit_code == 8


def test_a_broken_reward_model_is_found_where_such_rows_are_dropped(tmp_path: Path) -> None:
    for item in IDS:
        fakes(tmp_path).plan(item, "inf")
    with pytest.raises(ModelError, match="64 of 64 rewards are not finite"):
        scored(tmp_path, RowsConfig(reward_not_finite="drop"))


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("wrong_count", "WRPO-E005", "gave 7 results for 8 rows"),
        ("text", "WRPO-E007", "gave a str as a reward, a number was asked for"),
    ],
)
def test_rewards_that_are_no_rewards(tmp_path: Path, fault: str, code: str, message: str) -> None:
    fakes(tmp_path).plan(IDS[9], fault)
    with pytest.raises(WrpoError, match=message) as raised:
        scored(tmp_path)
    assert (raised.value.code, raised.value.exit_code) == (code, 8)
    assert num_commits(tmp_path) == 2


def test_a_response_that_ends_the_reward_model_is_set_aside(tmp_path: Path) -> None:
    fakes(tmp_path).plan(IDS[9], "crash")
    result = scored(tmp_path)
    assert result.summary["quarantined"] == {"engine_crash": 2}
    assert len(scored_rows(tmp_path, result)) == 31 * NUM_SAMPLES


def test_one_reward_for_everything_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "constant").touch()
    result = scored(tmp_path)
    assert result.summary["num_distinct_rewards"] == 1
    assert "have the reward 0.5; the reward model tells nothing apart" in caplog.text


def test_the_verifier_may_give_one_reward_for_everything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reward = VerifierRewardConfig(type="verifier")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "constant").touch()
    step = drawn(tmp_path)
    prompts = locate(tmp_path / "of_drawn" / "prompts")
    result = score(reward, prompts, [step], locate(tmp_path / "step"), FAULTS, make_scorer=make_scorer(tmp_path))
    assert result.summary["num_distinct_rewards"] == 1
    assert "tells nothing apart" not in caplog.text


def test_a_verifier_without_answers_says_so_at_once(tmp_path: Path) -> None:
    """An error of ours crosses the border of the process as itself."""
    step, prompts = drawn(tmp_path), locate(tmp_path / "of_drawn" / "prompts")
    with pytest.raises(DataError, match="has no reference answer"):
        score(VerifierRewardConfig(type="verifier"), prompts, [step], locate(tmp_path / "step"), FAULTS)


def test_a_second_attempt_makes_only_what_is_missing(tmp_path: Path) -> None:
    fakes(tmp_path).plan(IDS[17], "wrong_count", times=1)
    with pytest.raises(ModelError):
        runs.run(tmp_path, sampling_job(tmp_path))
    before = num_commits(tmp_path)
    result = runs.run(tmp_path, sampling_job(tmp_path))
    assert runs.responses(locate(tmp_path / "step"), result) == runs.clean_responses()
    assert before == 4
    assert len(fakes(tmp_path).events("batch")) == 8 + 1
