"""Allocation as steps of a run: which steps there are, what they read, what they write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.allocation_tables import REGIMES, make
from tests.unit.test_pipeline_plan import config, fingerprints, folder
from wrpo_ray.allocation.policy import first_counts
from wrpo_ray.allocation.replay import replay
from wrpo_ray.allocation.slices import slices_of
from wrpo_ray.allocation.table import RewardTable
from wrpo_ray.config import ModelConfig, RowsConfig, VerifierRewardConfig
from wrpo_ray.config_allocation import AllocationConfig
from wrpo_ray.data.allocation import FirstLoad, allocate, first_table
from wrpo_ray.data.requested import sample_requested
from wrpo_ray.data.requests import REQUESTS, FirstRequests, FurtherRequests, Requests
from wrpo_ray.data.sampling import SamplingJob, require_all_samples
from wrpo_ray.data.scoring import score
from wrpo_ray.engines.requests import RequestedPrompt
from wrpo_ray.errors import ConfigError, ModelError
from wrpo_ray.schema import Prompt, Response, ScoredResponse, prompt_id
from wrpo_ray.steps import Step, StepResult, execute
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import Manifest, RunLayout, create_manifest
from wrpo_ray.storage.tables import read_rows, write_rows, write_table

__all__ = ["folder"]
ROWS = RowsConfig()
LARGE = ("sampling.allocation.pilot_fraction=0.49", "sampling.allocation.audit_fraction=0.49")
SETTINGS = AllocationConfig(pilot_fraction=0.1, audit_fraction=0.1, token_costs={"source-00": 4.0})
REGIME = REGIMES[1]


@pytest.fixture
def many(folder: Path, tmp_path: Path) -> str:
    """Return the override that gives the run enough prompts."""
    rows = [{"prompt": f"question {number}", "answer": str(number)} for number in range(120)]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"prompts.path={tmp_path / 'many.jsonl'}"


def test_each_source_has_two_loads_and_the_rest_of_the_run_is_as_ever(folder: Path, many: str) -> None:
    plain, allocated = fingerprints(folder, many), fingerprints(folder, many, *LARGE)
    added = ["first-sample-a", "first-score-a", "allocate"]
    assert list(allocated) == ["prompts", *added, *[name for name in plain if name != "prompts"]]
    assert plain["prompts"] == allocated["prompts"]
    assert all(plain[name] != allocated[name] for name in plain if name != "prompts")


def test_without_allocation_nothing_changes(folder: Path, many: str) -> None:
    assert fingerprints(folder, many) == fingerprints(folder, many, "sampling.allocation=null")


@pytest.mark.parametrize(
    ("override", "first_that_changes"),
    [
        ("sampling.allocation.target=0.9", "allocate"),
        ("sampling.allocation.max_cost_share=0.5", "allocate"),
        ("sampling.allocation.token_costs={a: 2}", "allocate"),
        ("rows.response_cut=drop", "allocate"),
        ("sampling.allocation.policy=halving", "first-sample-a"),
        ("sampling.allocation.pilot_fraction=0.45", "first-sample-a"),
        ("sources.a.sampling.num_samples=3", "first-sample-a"),
    ],
)
def test_what_decides_about_the_allocation_is_in_the_fingerprints(
    folder: Path, many: str, override: str, first_that_changes: str
) -> None:
    before, after = fingerprints(folder, many, *LARGE), fingerprints(folder, many, *LARGE, override)
    changed = [name for name in before if before[name] != after[name]]
    assert changed == list(before)[list(before).index(first_that_changes) :]


def test_slices_of_a_few_prompts_and_settings_that_make_no_sense_are_refused(folder: Path, many: str) -> None:
    with pytest.raises(ConfigError, match="at least 20 are needed"):
        fingerprints(folder, *LARGE)
    with pytest.raises(ConfigError, match="no source has this name"):
        config(folder, many, *LARGE, "sampling.allocation.token_costs={x: 2}")
    with pytest.raises(ConfigError, match="nothing is left to decide"):
        config(folder, many, *LARGE, "sources.a.sampling.num_samples=1")


def asked(requests: Requests) -> dict[str, range]:
    """Return the samples of every prompt that has any, in order of prompt_id."""
    rows = [row for each in requests.lists() for row in requests.rows(each.path).to_pylist()]
    assert [row["prompt_id"] for row in rows] == sorted({row["prompt_id"] for row in rows})
    found = {row["prompt_id"]: range(row["first_sample"], row["first_sample"] + row["num_samples"]) for row in rows}
    assert sum(each.num_requests for each in requests.lists()) == sum(map(len, found.values()))
    return found


class Recorded:
    """Finished steps of a run in which a recorded table's responses are drawn."""

    def __init__(self, place: Path, num_prompts: int = 400) -> None:
        self.layout = RunLayout(locate(place))
        messages = [[{"role": "user", "content": f"question {number}"}] for number in range(num_prompts)]
        rows = sorted((Prompt(prompt_id(m), m, "sft", None) for m in messages), key=lambda row: row.prompt_id)
        made = make(REGIME, num_prompts, seed=3)
        ids = tuple(row.prompt_id for row in rows)
        self.table = RewardTable(
            ids, made.sources, made.num_samples, made.rewards, made.tokens, made.drawn, made.present
        )
        self.prompts = self.step("prompts", {"data/p.parquet": (rows, Prompt)})

    def step(self, name: str, files: dict[str, tuple[list, type]]) -> Location:
        def run(place: Location) -> StepResult:
            return StepResult(tuple(write_rows(place, path, *content) for path, content in files.items()), {})

        step = Step(name, {}, (), run)
        execute(step, self.layout, {})
        return step.folder(self.layout)

    def load(self, source: str, shards: int = 3) -> FirstLoad:
        """Draw and score what the first load of a source asks for, last shard first."""
        number = self.table.sources.index(source)
        numbers = {prompt_id: row for row, prompt_id in enumerate(self.table.prompt_ids)}
        places = [
            (numbers[prompt_id], index)
            for prompt_id, indices in asked(FirstRequests(str(self.prompts), SETTINGS, 1, 5)).items()
            for index in indices
        ]
        drawn: dict[str, tuple[list, type]] = {}
        scored: dict[str, tuple[list, type]] = {}
        for shard in reversed(range(shards)):
            of_shard = places[shard::shards]
            values = [
                (self.table.prompt_ids[row], source, index, self.table.tokens[row, number, index].item())
                for row, index in of_shard
            ]
            responses = [Response(item, name, index, "text", [1], "stop", n) for item, name, index, n in values]
            rewards = [
                ScoredResponse(item, name, index, "text", "stop", n, self.table.rewards[row, number, index].item())
                for (row, _), (item, name, index, n) in zip(of_shard, values, strict=True)
                if self.table.present[row, number, index]
            ]
            drawn[f"data/{shard}.parquet"] = (responses, Response)
            scored[f"data/{shard}.parquet"] = (rewards, ScoredResponse)
        return FirstLoad(source, 5, self.step(f"sample-{source}", drawn), self.step(f"score-{source}", scored))


def test_the_step_decides_from_files_what_the_policy_decides_from_the_table(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    table = recorded.table
    loads = [recorded.load(source) for source in table.sources]
    step = Step("allocate", {}, (), lambda place: allocate(SETTINGS, 1, recorded.prompts, loads, ROWS, place))
    summary = execute(step, recorded.layout, {}).summary
    allocated = step.folder(recorded.layout)
    replayed = replay(SETTINGS, table, np.array([4.0] + [1.0] * 9), seed=1)
    slices = slices_of(table.prompt_ids, 0.1, 0.1, seed=1)
    expected = replayed.decision.counts - first_counts("waves", table.num_samples, slices)
    for number, source in enumerate(table.sources):
        requests = asked(FurtherRequests(str(allocated), source))
        found = [len(requests.get(prompt_id, ())) for prompt_id in table.prompt_ids]
        assert found == np.where(slices.rest, expected[:, number], 0).tolist()
        assert all(indices.start == 1 and len(indices) for indices in requests.values())
    assert summary["audit"]["num_prompts"] == slices.audit.sum()
    assert summary["request_share"] == pytest.approx(replayed.whole.token_share, abs=0.03)
    assert json.loads((allocated / "allocation.json").read_bytes()) == json.loads(json.dumps(dict(summary)))


def test_responses_that_may_not_be_chosen_have_no_reward_in_the_table(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, num_prompts=300)
    ids = recorded.table.prompt_ids
    texts = {0: "good", 1: "  ", 2: "good"}
    responses = [Response(ids[0], "a", index, text, [1], "stop", 0) for index, text in texts.items()]
    scored = [ScoredResponse(ids[0], "a", index, texts[index], "stop", 0, 5.0 - index) for index in (0, 1)]
    load = FirstLoad(
        "a",
        3,
        recorded.step("drawn", {"data/d.parquet": (responses, Response)}),
        recorded.step("scored", {"data/s.parquet": (scored, ScoredResponse)}),
    )
    table = first_table(recorded.prompts, [load], ROWS)
    assert table.present[0, 0].tolist() == [True, False, False]
    assert table.drawn[0, 0].tolist() == [True, True, True]
    # An endpoint that does not count tokens is not one that refused the prompt.
    assert table.tokens[0, 0].tolist() == [1, 1, 1]
    assert not table.drawn[1:].any()


def test_a_list_of_requests_is_named_by_what_it_asks_for(tmp_path: Path) -> None:
    """Another library writes other bytes; what was drawn for the same rows still counts."""
    rows = pa.table([["p0", "p1"], [1, 1], [2, 3]], schema=REQUESTS)
    others = [pa.table([["p0", "p1"], [1, 1], [2, 2]], schema=REQUESTS), rows.replace_schema_metadata({"other": "1"})]
    found, entries = [], []
    for number, table in enumerate((rows, *others)):
        folder = locate(tmp_path / str(number))
        entries.append(write_table(folder, "data/a/requests-00000.parquet", table))
        create_manifest(folder, Manifest("allocate", "f", {}, {}, tuple(entries[-1:]), {}, {}, 0.0))
        found += FurtherRequests(str(folder), "a").lists()
    assert len({entry.sha256 for entry in entries}) == 3
    assert found[0] == found[2]
    assert found[0].content != found[1].content
    assert [(each.num_items, each.num_requests) for each in found] == [(2, 5), (2, 4), (2, 5)]


def test_a_source_that_is_left_out_costs_no_engine(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, num_prompts=30)
    job = SamplingJob(ModelConfig(name="a", path="nowhere"), recorded.prompts, ("sft",), 1, "identity")
    nothing = FurtherRequests(str(recorded.step("allocate", {})), "a")
    drawn = Step("sample-a", {}, (), lambda place: sample_requested(job, nothing, place))
    assert execute(drawn, recorded.layout, {}).summary["num_prompts"] == 0
    reward, place = VerifierRewardConfig(type="verifier"), drawn.folder(recorded.layout)
    scored = Step("score-a", {}, (), lambda folder: score(reward, recorded.prompts, [place], folder))
    assert execute(scored, recorded.layout, {}).summary["mean_reward"] is None
    assert read_rows(scored.folder(recorded.layout), ScoredResponse) == []


def test_an_engine_that_draws_other_samples_than_those_asked_for_is_told() -> None:
    model = ModelConfig(name="a", path="nowhere")
    rows = [Response("p", "a", index, "text", [1], "stop", 1) for index in (1, 2)]
    require_all_samples(model, [RequestedPrompt("p", [], "sft", None, (1, 2))], {"p": rows})
    for wanted in ((0, 1), (1,), (1, 2, 3)):
        with pytest.raises(ModelError, match="were asked for"):
            require_all_samples(model, [RequestedPrompt("p", [], "sft", None, wanted)], {"p": rows})
