"""Steps of benchmarks, the safety slice and lm-eval, worked through with models that are a line of code each."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation_config import evaluation_config
from tests.tiny import chatml_tokenizer, save_llama
from tests.unit.test_benchmark_questions import ARENA_1, ARENA_2, MT, write
from wrpo_ray.benchmark_steps import Further, further_steps
from wrpo_ray.config import ModelConfig, ResourcesConfig, SourceConfig
from wrpo_ray.config_benchmarks import BenchmarksConfig, LmEvalConfig, SafetyConfig
from wrpo_ray.engines.protocol import Generator
from wrpo_ray.evaluate import lm_eval_steps
from wrpo_ray.evaluate.lm_eval_task import LmEvalJob
from wrpo_ray.evaluate.step_builder import EvaluationBuilder
from wrpo_ray.prompt_temperatures import read_temperatures
from wrpo_ray.schema import Prompt, Response
from wrpo_ray.steps import Step, StepResult, execute
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import RunLayout, require_manifest
from wrpo_ray.storage.tables import read_rows, write_file, write_rows

NAMES = ("target", "target-sft", "fused")
# What a model does not answer at all: the prompt is set aside, as one that is too long would be.
TOO_LONG = "too long"


def answer(model: str, messages: list[dict[str, str]]) -> str:
    """The fused model refuses nothing; all repeat the question and say how many messages they saw."""
    last = messages[-1]["content"]
    refusal = "I cannot. " if last.startswith("harm") and model != "fused" else ""
    return f"{refusal}{model} on {last!r} after {len(messages)}"


class Steps:
    """The steps of one evaluation in a folder, with a builder whose sampling is `answer`."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.layout, self.steps = RunLayout(locate(folder)), list[Step]()
        trained = {name: self.add(Step(name, {}, (), self.train)) for name in NAMES[1:]}
        resources = ResourcesConfig(num_cpus=2, env_vars={"A": "b"})
        model = str(save_llama(folder / "target", chatml_tokenizer()))
        models = [(ModelConfig(name=name, path=model, resources=resources), trained.get(name)) for name in NAMES]
        config = evaluation_config(folder, "run.name=r", "run.seed=1", *overrides)
        self.builder = EvaluationBuilder(
            config, models, self.add, self.folder, self.sample, self.score, self.make_generator
        )

    def add(self, step: Step) -> Step:
        self.steps.append(step)
        return step

    def folder(self, step: Step) -> Location:
        return step.folder(self.layout)

    def train(self, folder: Location) -> StepResult:
        return StepResult((write_file(folder, "model/config.json", b"{}"),), {})

    def score(self, name: str, prompts: Step, drawn: Sequence[Step]) -> Step:
        raise AssertionError("nothing here is scored")

    def make_generator(self, *arguments: Any) -> Generator:
        raise AssertionError("no judge is asked here")

    def sample(self, name: str, model: SourceConfig, prompts: Step, trained_by: Step | None) -> Step:
        assert model.sampling.num_samples == 1

        def run(folder: Location) -> StepResult:
            rows = [
                Response(prompt.prompt_id, model.name, 0, answer(model.name, prompt.messages), [1], "stop", 7)
                for prompt in read_rows(self.folder(prompts), Prompt)
                if prompt.messages[-1]["content"] != TOO_LONG
            ]
            return StepResult((write_rows(folder, "data/rows.parquet", rows, Response),), {})

        inputs = (prompts, *([trained_by] if trained_by else []))
        return self.add(Step(name, {"sampling": model.sampling.model_dump(mode="json")}, inputs, run))

    def run(self) -> dict[str, Location]:
        """Work through all steps and return where each one's result lies."""
        for step in self.steps:
            execute(step, self.layout, {})
        return {step.name: self.folder(step) for step in self.steps}


def lines(folder: Location, path: str) -> list[dict[str, Any]]:
    """Return the rows of a JSON lines file that a step's manifest lists."""
    assert path in {entry.path for entry in require_manifest(folder).files}
    return [json.loads(line) for line in (folder / path).read_bytes().decode().split("\n") if line]


def test_answers_of_all_models_and_both_turns(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    lost = {"question_id": 82, "category": "writing", "turns": ["Start.", TOO_LONG]}
    section = BenchmarksConfig(
        arena_hard_v0_1=write(tmp_path / "v1.jsonl", ARENA_1),
        arena_hard_v2=write(tmp_path / "v2.jsonl", ARENA_2),
        mt_bench=write(tmp_path / "mt.jsonl", [*MT, lost]),
    )
    assert further_steps(steps.builder, section, None, None) == Further()
    folders = steps.run()
    done = folders["evaluation-benchmarks"]
    for name in NAMES:
        (row,) = lines(done, f"mt_bench/model_answer/r-{name}.jsonl")
        first = f"{name} on 'Write.' after 1"
        # The second turn saw question, own first answer, and the second question.
        assert row["choices"][0]["turns"] == [first, f"{name} on 'Rewrite.' after 3"]
        assert row["question_id"] == 81
    second = read_rows(folders["evaluation-mt-bench-2-questions-fused"], Prompt)
    conversation = [
        message["content"]
        for prompt in second
        for message in prompt.messages
        if "Write" in prompt.messages[0]["content"]
    ]
    assert conversation == ["Write.", "fused on 'Write.' after 1", "Rewrite."]
    (row,) = lines(done, "arena-hard-v2.0/model_answer/r-fused.jsonl")
    assert (row["uid"], row["model"]) == ("0001b5", "r-fused")
    (row,) = lines(done, "arena-hard-v0.1/model_answer/r-target.jsonl")
    assert row["question_id"] == "96d2"
    told = require_manifest(done).summary["models"]["r-fused"]
    assert told["num_answers"] == {"arena_hard_v0_1": 1, "arena_hard_v2": 1, "mt_bench": 1}
    assert (told["num_questions_without_answer"], len(told["questions_without_answer"])) == (1, 1)


def test_each_model_is_asked_the_same_and_named_alike(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    section = BenchmarksConfig(arena_hard_v2=write(tmp_path / "v2.jsonl", ARENA_2), temperature=0.5)
    further_steps(steps.builder, section, None, None)
    names = [step.name for step in steps.steps[2:]]
    # No second turn: no step for it.
    assert names == [
        "evaluation-benchmark-questions", *(f"evaluation-benchmark-sample-{name}" for name in NAMES),
        "evaluation-benchmarks",
    ]  # fmt: skip
    drawn = [step.identity["sampling"] for step in steps.steps if "-sample-" in step.name]
    assert [sampling["temperature"] for sampling in drawn] == [0.5] * 3


def test_questions_of_mt_bench_have_the_temperature_of_their_category(tmp_path: Path) -> None:
    """The second turn too, and beside a benchmark that asks the same question at its own temperature."""
    asked = [{"question_id": number, "category": category, "turns": [f"Do {category}.", "More."]}
             for number, category in enumerate(("writing", "math", "stem"))]  # fmt: skip
    others = write(tmp_path / "a.jsonl", [{"instruction": "Do writing."}, {"instruction": "Do sums."}])
    section = BenchmarksConfig(alpaca_eval=others, mt_bench=write(tmp_path / "mt.jsonl", asked))
    steps = Steps(tmp_path / "own")
    further_steps(steps.builder, section, None, None)
    folders = steps.run()

    def temperatures(name: str) -> dict[str, float]:
        own = read_temperatures(folders[name])
        return {row.messages[0]["content"]: own[row.prompt_id] for row in read_rows(folders[name], Prompt) if own}

    assert temperatures("evaluation-benchmark-questions") == {}
    first = {"Do writing.": 0.7, "Do math.": 0.0, "Do stem.": 0.1}
    assert temperatures("evaluation-mt-bench-questions") == first
    assert [temperatures(f"evaluation-mt-bench-2-questions-{name}") for name in NAMES] == [first] * 3
    rows = json.loads((folders["evaluation-benchmarks"] / "alpaca_eval/r-fused.json").read_bytes())
    assert [row["instruction"] for row in rows] == ["Do writing.", "Do sums."]
    forced = Steps(tmp_path / "forced")
    further_steps(forced.builder, section.model_copy(update={"temperature": 0.3}), None, None)
    places = forced.run()
    assert [read_temperatures(place) for name, place in places.items() if "questions" in name] == [{}] * 5
    drawn = [step.identity["sampling"]["temperature"] for step in forced.steps if "-sample-" in step.name]
    assert drawn == [0.3] * 9
    # Another temperature is another answer, so it is another step.
    fingerprints = [{step.name: step.fingerprint for step in each.steps} for each in (steps, forced)]
    differing = {name for name in fingerprints[0] if fingerprints[0][name] != fingerprints[1][name]}
    assert differing >= {"evaluation-mt-bench-questions", "evaluation-mt-bench-2-questions-fused"}
    assert "evaluation-benchmark-questions" not in differing


def test_sources_answer_when_they_are_asked(tmp_path: Path) -> None:
    questions = write(tmp_path / "v2.jsonl", ARENA_2)
    section = BenchmarksConfig(arena_hard_v2=questions, mt_bench=write(tmp_path / "mt.jsonl", MT))
    before = Steps(tmp_path / "before")
    further_steps(before.builder, section, None, None)
    more = f"evaluation.benchmarks={{arena_hard_v2: '{questions}', sources: all, max_tokens: 99}}"
    steps = Steps(tmp_path / "more", more)
    further_steps(steps.builder, section, None, None)
    added = {"a", "gpt"}
    answers = {f"evaluation-{kind}-{name}" for name in added for kind in (
        "benchmark-sample", "mt-bench-sample", "mt-bench-2-questions", "mt-bench-2-sample",
    )}  # fmt: skip
    known = {step.name: step.fingerprint for step in before.steps}
    assert {step.name for step in steps.steps} - set(known) == answers
    # The models' own answers are the ones that are there already.
    same = {step.name for step in steps.steps if known.get(step.name) == step.fingerprint}
    assert set(known) - same == {"evaluation-benchmarks"}
    done = steps.run()["evaluation-benchmarks"]
    assert set(require_manifest(done).summary["models"]) == {f"r-{name}" for name in (*NAMES, *added)}
    (row,) = lines(done, "mt_bench/model_answer/r-gpt.jsonl")
    assert row["choices"][0]["turns"][1] == "gpt on 'Rewrite.' after 3"


def test_safety_slice(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    prompts = write(tmp_path / "harm.jsonl", [{"prompt": f"harm {n}"} for n in range(20)] + [{"prompt": TOO_LONG}])
    further = further_steps(steps.builder, None, SafetyConfig(prompts=prompts, num_bootstrap=200), None)
    steps.run()
    found = further.results(steps.folder)
    assert found["benchmarks"] is None
    assert found["safety"]["num_prompts"] == 20
    rates = {row["name"]: row["refusal_rate"] for row in found["safety"]["models"]}
    assert rates == {"target": 1.0, "target-sft": 1.0, "fused": 0.0}
    assert found["safety"]["words"].startswith("fused refuses less often than target: 0% against 100%")
    assert further.inputs == (steps.steps[-1],)


def test_lm_eval_of_each_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself is run in test_lm_eval_task.py; here it is a fake, in this process or in a task of Ray's."""
    values = {name: number / 4 for number, name in enumerate(NAMES)}

    def fake_run_tasks(job: LmEvalJob) -> dict[str, Any]:
        value = values[job.model.name]
        return {"results": {"gsm8k": {"exact_match,strict-match": value, "exact_match_stderr,strict-match": 0.1}}}

    monkeypatch.setattr(lm_eval_steps, "run_tasks", fake_run_tasks)
    steps = Steps(tmp_path)
    further = further_steps(steps.builder, None, None, LmEvalConfig(tasks=("gsm8k",), num_fewshot=5))
    assert [step.name for step in further.inputs] == [f"evaluation-lm-eval-{name}" for name in NAMES]
    claims = [step.claim for step in further.inputs]
    assert [(claim.num_cpus, claim.most) for claim in claims if claim] == [(2, 1)] * 3
    steps.run()
    rows = further.results(steps.folder)["benchmarks"]
    assert {row.pop("model"): row.pop("value") for row in rows} == values
    assert rows == [{"task": "gsm8k", "metric": "exact_match,strict-match", "stderr": 0.1}] * 3


def test_what_changes_a_result_changes_the_fingerprint(tmp_path: Path) -> None:
    def fingerprint(**fields: Any) -> str:
        steps = Steps(tmp_path)
        return further_steps(steps.builder, None, None, LmEvalConfig(**fields)).inputs[0].fingerprint

    before = fingerprint(tasks=("gsm8k",))
    assert fingerprint(tasks=("gsm8k",), batch_size=4) == before
    assert fingerprint(tasks=("gsm8k",), num_fewshot=5) != before
    assert fingerprint(tasks=("mmlu",)) != before


def test_rays_options_of_the_process() -> None:
    options = lm_eval_steps._task_options(ResourcesConfig(num_gpus=2, accelerator_type="H100", env_vars={"A": "b"}))
    assert options == {
        "num_gpus": 2, "max_calls": 1, "accelerator_type": "H100", "runtime_env": {"env_vars": {"A": "b"}},
    }  # fmt: skip
