"""The evaluation of given answers with a judge behind a real HTTP server, through the steps of a run."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.endpoint import KEY, KEY_VARIABLE, Asked, Endpoint, Reply, completion, failure, serving
from wrpo_ray.config import FuseConfig, SourceConfig
from wrpo_ray.config_file import parse_config
from wrpo_ray.engines.generators import load_generator
from wrpo_ray.errors import ModelError
from wrpo_ray.evaluate.evaluation_file import read_evaluation_file
from wrpo_ray.evaluate.step_builder import EvaluationBuilder
from wrpo_ray.evaluation_steps import evaluation_steps
from wrpo_ray.prompts import load_prompts
from wrpo_ray.schema import Prompt, Response, ScoredResponse, stable_hash
from wrpo_ray.steps import Step, StepResult, execute
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import RunLayout, read_manifest, require_manifest
from wrpo_ray.storage.tables import read_rows, write_rows

NUM_PROMPTS, QUESTIONS_PER_SHARD = 20, 16
NUM_QUESTIONS = 2 * 3 * NUM_PROMPTS

TEXT = """\
run: {{name: r, root: "{folder}/runs"}}
prompts: {{path: p}}
sources: [{{name: a, path: ./a}}, {{name: b, path: ./b}}]
target: {{name: t, path: ./t}}
reward: {{type: transformers, path: ./r}}
sft: {{learning_rate: 1e-3}}
wrpo: {{learning_rate: 1e-3}}
evaluation:
  prompts: {{path: "{folder}/heldout.jsonl", answer_column: answer}}
  sources: [b]
  pairs: [[fused, target-sft], [fused, t], [fused, b]]
  judge:
    name: judge
    base_url: "{url}"
    model: large
    api_key_env: {key}
    prompts_per_shard: {shard}
    max_retries: 1
    limits: {{max_concurrent_requests: 4}}
"""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as running:
        yield running


class Run:
    """The steps of an evaluation, with models whose answers and rewards are given."""

    def __init__(self, folder: Path, url: str, answer: Callable[[Prompt, str, int], Response]) -> None:
        self.answer = answer
        rows = [{"prompt": f"question {number}", "answer": "good"} for number in range(NUM_PROMPTS)]
        (folder / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = TEXT.format(folder=folder, url=url, key=KEY_VARIABLE, shard=QUESTIONS_PER_SHARD)
        self.config: FuseConfig = parse_config(text, "c.yaml")
        self.layout = RunLayout(locate(folder / "run"))
        self.steps: list[Step] = []
        assert self.config.evaluation is not None
        loaded = load_prompts(self.config.evaluation.prompts)
        prompts = self.add(Step("evaluation-prompts", {}, (), loaded.write))
        trained = [
            (
                self.config.target.model_copy(update={"name": name}),
                self.add(Step(name, {}, (), lambda _: StepResult((), {}))),
            )
            for name in ("target-sft", "fused")
        ]
        models, make = ((self.config.target, None), *trained), load_generator
        builder = EvaluationBuilder(self.config, models, self.add, self.folder, self.sample, self.score, make)
        evaluation_steps(builder, self.config.evaluation, prompts)

    def add(self, step: Step) -> Step:
        self.steps.append(step)
        return step

    def folder(self, step: Step) -> Location:
        return step.folder(self.layout)

    def sample(self, name: str, model: SourceConfig, prompts: Step, trained_by: Step | None) -> Step:
        def run(folder: Location) -> StepResult:
            rows = [
                self.answer(row, model.name, index)
                for row in read_rows(self.folder(prompts), Prompt)
                for index in (0, 1)
            ]
            return StepResult((write_rows(folder, "data/r.parquet", rows, Response),), {})

        return self.add(Step(name, {}, (prompts,), run))

    def score(self, name: str, prompts: Step, drawn: Sequence[Step]) -> Step:
        def run(folder: Location) -> StepResult:
            given = [row for step in drawn for row in read_rows(self.folder(step), Response)]
            rows = [
                ScoredResponse(row.prompt_id, row.source, row.sample_index, row.text, "stop", 2, float(len(row.text)))
                for row in given
            ]
            return StepResult((write_rows(folder, "data/r.parquet", rows, ScoredResponse),), {})

        return self.add(Step(name, {}, (prompts, *drawn), run))

    def execute(self) -> dict[str, Any]:
        for step in self.steps:
            execute(step, self.layout, {})
        folder = self.folder(self.steps[-1])
        found = read_evaluation_file(folder, require_manifest(folder))
        assert found is not None
        return found


def of_their_quality(prompt: Prompt, model: str, index: int) -> Response:
    """The fused model is good, the source bad, and the others are one or the other."""
    luck = stable_hash(model, prompt.messages[0]["content"]) % 2
    is_good = model == "fused" or (model != "b" and luck)
    text = ("good" if is_good else f"bad {model}") + (" too" if index else "")
    return Response(prompt.prompt_id, model, index, text, [], "stop", 2)


def pairs(found: dict[str, Any], judged_by: str) -> dict[str, dict[str, Any]]:
    return {pair["baseline"]: pair for pair in found["pairs"] if pair["judged_by"] == judged_by}


@pytest.mark.usefixtures("local_ray")
def test_a_judge_that_prefers_the_first_answer_is_found_out(endpoint: Endpoint, tmp_path: Path) -> None:
    run = Run(tmp_path, endpoint.url, of_their_quality)

    def reply(asked: Asked, number: int) -> Reply:
        # The key is taken back in the middle.
        if len(endpoint.asked) > 40:
            return failure(401, "invalid_api_key", f"Incorrect key {KEY}")
        return completion("I like the first one.\n[[A]]")

    endpoint.answer = reply
    with pytest.raises(ModelError) as caught:
        run.execute()
    assert caught.value.code == "WRPO-E040"
    before = len(endpoint.asked)
    endpoint.answer = lambda asked, number: completion("I like the first one.\n[[A]]")
    found = run.execute()
    asked = [request.body["messages"][0]["content"] for request in endpoint.asked]
    num_questions = len(set(asked))
    # Equal answers are no question; of what had been committed nothing was asked again.
    assert num_questions < NUM_QUESTIONS
    assert len(asked) - before <= num_questions - QUESTIONS_PER_SHARD
    for pair in pairs(found, "judge").values():
        assert (pair["wins"], pair["losses"], pair["win_rate"]) == (0, 0, 0.5)
        assert (pair["position_bias"], pair["num_undecided"], pair["num_prompts"]) == (1.0, 0, NUM_PROMPTS)
        assert pair["words"].endswith("no difference can be seen (sign test: p = 1, also as one of 9 comparisons)")
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


@pytest.mark.usefixtures("local_ray")
def test_a_judge_that_sees_what_is_good_agrees_with_the_rule(endpoint: Endpoint, tmp_path: Path) -> None:
    def reply(asked: Asked, number: int) -> Reply:
        first = asked.text.partition("[BEGIN answer A")[2].splitlines()[1]
        return completion("Hm." if "question 7\n" in asked.text else "[[A]]" if first == "good" else "[[B]]")

    endpoint.answer = reply
    run = Run(tmp_path, endpoint.url, of_their_quality)
    found = run.execute()
    assert set(found) == {"format", "models", "pairs", "safety", "benchmarks"}
    assert [model["name"] for model in found["models"]] == ["t", "target-sft", "fused", "b"]
    assert {model["num_answers"] for model in found["models"]} == {2 * NUM_PROMPTS}
    assert [(pair["judged_by"], pair["baseline"]) for pair in found["pairs"]] == [
        (judged_by, baseline) for judged_by in ("reward", "verifier", "judge") for baseline in ("target-sft", "t", "b")
    ]
    judged, by_rule = pairs(found, "judge"), pairs(found, "verifier")
    against_source = judged["b"]
    assert (against_source["wins"], against_source["num_prompts"]) == (NUM_PROMPTS - 1, NUM_PROMPTS - 1)
    assert against_source["words"].startswith(f"fused beats b on 100.0 % of {NUM_PROMPTS - 1} prompts (95 % interval")
    evidence = "(sign test: p < 0.0001, also as one of 9 comparisons)"
    undecided = "undecided and left out: 1 without a verdict as their last line"
    assert f": better {evidence}; {undecided}" in against_source["words"]
    assert by_rule["b"]["wins"] == NUM_PROMPTS
    for baseline in ("target-sft", "t"):
        assert judged[baseline]["wins"] == by_rule[baseline]["wins"] - judged[baseline]["num_undecided"]
        assert judged[baseline]["position_bias"] == pytest.approx(0.0)
    # The reward of this test likes length: "bad b" is longer than "good".
    assert pairs(found, "reward")["b"]["losses"] == NUM_PROMPTS
    summary = read_manifest(run.folder(run.steps[-1]))
    assert summary is not None
    assert summary.summary["pairs"] == found["pairs"]


def test_equal_answers_tie_and_nobody_is_asked(tmp_path: Path) -> None:
    def parrots(prompt: Prompt, model: str, index: int) -> Response:
        return dataclasses.replace(of_their_quality(prompt, "fused", index), source=model)

    # Nothing listens there, and no cluster is started.
    found = Run(tmp_path, "http://127.0.0.1:9/v1", parrots).execute()
    for pair in found["pairs"]:
        assert (pair["ties"], pair["win_rate"], pair["position_bias"]) == (NUM_PROMPTS, 0.5, None)
