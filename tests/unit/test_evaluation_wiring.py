"""The sections benchmarks, safety and lm_eval of a config become steps of the run, and fields of evaluation.json."""

from pathlib import Path

import pytest

from tests.unit.test_benchmark_questions import ARENA_2, MT, write
from wrpo_ray.config import FuseConfig
from wrpo_ray.config_file import load_config
from wrpo_ray.live.holding import holdings
from wrpo_ray.pipeline import Pipeline
from wrpo_ray.planning.plan import plan_run
from wrpo_ray.preflight import check_run

ROOT = Path(__file__).parents[2]
NAMES = ("target", "target-sft", "fused")


def config(folder: Path, *overrides: str) -> FuseConfig:
    """Return the smoke config with all three sections."""
    files = {
        "questions": write(folder / "mt.jsonl", MT),
        "others": write(folder / "v2.jsonl", ARENA_2),
        "harm": write(folder / "harm.jsonl", [{"prompt": "harm"}]),
    }
    return load_config(
        ROOT / "jobs/configs/smoke.yaml",
        [
            f"run.root={folder}", f"evaluation.prompts.path={ROOT}/jobs/smoke/heldout.jsonl",
            "evaluation.sampling.max_tokens=8",
            f"evaluation.benchmarks.mt_bench={files['questions']}",
            f"evaluation.benchmarks.arena_hard_v2={files['others']}", "evaluation.benchmarks.max_tokens=8",
            f"evaluation.safety.prompts={files['harm']}", "evaluation.safety.max_tokens=8",
            "evaluation.lm_eval.tasks=[gsm8k]", *overrides,
        ],
    )  # fmt: skip


def test_steps_and_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    pipeline = Pipeline(config(tmp_path))
    names = [step.name for step in pipeline.steps]
    beside = ("evaluation-b", "evaluation-m", "evaluation-safety", "evaluation-l")
    assert [name for name in names if name.startswith(beside)] == [
        "evaluation-benchmark-questions", *(f"evaluation-benchmark-sample-{name}" for name in NAMES),
        "evaluation-mt-bench-questions",
        *(f"evaluation-mt-bench-{stage}-{name}" for name in NAMES for stage in ("sample", "2-questions", "2-sample")),
        "evaluation-benchmarks", "evaluation-safety-prompts",
        *(f"evaluation-safety-sample-{name}" for name in NAMES), "evaluation-safety",
        *(f"evaluation-lm-eval-{name}" for name in NAMES),
    ]  # fmt: skip
    inputs = {step.name for step in pipeline.step("evaluate").inputs}
    assert {"evaluation-safety", *(f"evaluation-lm-eval-{name}" for name in NAMES)} <= inputs
    trained = {step.name: {given.name for given in step.inputs} for step in pipeline.steps}
    assert "wrpo" in trained["evaluation-mt-bench-2-sample-fused"]
    assert trained["evaluation-lm-eval-target"] == set()
    held = holdings(pipeline.config)
    samples = [name for name in names if "-sample-" in name]
    assert {holding.kind for name in samples if (holding := held(name))} == {"sampling"}
    assert all(held(name) for name in samples)


def test_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    given = config(tmp_path)
    planned = {stage.step: stage for planned in plan_run(given).stages if (stage := planned.stage)}
    drawn = {
        name: stage.responses
        for name, stage in planned.items()
        if name.startswith(("evaluation-b", "evaluation-m", "evaluation-saf"))
    }
    stages = {"benchmark-sample": 1, "mt-bench-sample": 1, "mt-bench-2-sample": 1, "safety-sample": 1}
    assert drawn == {f"evaluation-{stage}-{name}": count for stage, count in stages.items() for name in NAMES}
    assert set(drawn) <= {step.name for step in Pipeline(given).steps}
    assert planned["evaluation-mt-bench-2-sample-fused"].job.after == ("evaluation-mt-bench-sample-fused",)
    assert planned["evaluation-safety-sample-fused"].job.after == ("wrpo",)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    problems = check_run(
        config(
            tmp_path, "evaluation.benchmarks.arena_hard_v0_1=/nowhere.jsonl",
            "evaluation.safety.prompts=/nowhere.jsonl", "evaluation.safety.max_tokens=128",
        )
    )  # fmt: skip
    assert [problem.code for problem in problems] == ["WRPO-C020", "WRPO-D060", "WRPO-D002"]
