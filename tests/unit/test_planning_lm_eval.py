"""The plan of lm-eval: what the harness itself says of the tasks, and figures worked out by hand."""

import importlib.util
from pathlib import Path

import pytest
import yaml

from wrpo_ray.config import ResourcesConfig
from wrpo_ray.config_benchmarks import LmEvalConfig
from wrpo_ray.config_planning import PlanningConfig
from wrpo_ray.planning.generation import PREFILL_EFFICIENCY, Engine
from wrpo_ray.planning.lm_eval import TASKS, lm_eval_stage, planned_tasks, told
from wrpo_ray.planning.stage import Stage

# One accelerator that computes 1e12 FLOP/s and never waits for its memory; a model of 1e9 parameters.
ENGINE = Engine(1.0, 1e12, 1e18, None, 1e9, 1e9, 2.0, 1.0, 64)
FILES = {
    "gsm8k": "gsm8k/gsm8k", "hellaswag": "hellaswag/hellaswag", "arc_challenge": "arc/arc_easy",
    "arc_easy": "arc/arc_easy", "winogrande": "winogrande/default", "piqa": "piqa/piqa", "ifeval": "ifeval/ifeval",
}  # fmt: skip


def stage(*tasks: str, **fields: object) -> Stage:
    section = LmEvalConfig(tasks=tasks, **fields)  # type: ignore[arg-type]
    return lm_eval_stage("s", section, PlanningConfig(), ENGINE, "X", ResourcesConfig(num_gpus=1), 30.0, ("wrpo",))


def test_tasks_are_as_the_harness_has_them() -> None:
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("lm_eval is not installed")
    place = Path(spec.submodule_search_locations[0]) / "tasks"
    assert set(FILES) == set(TASKS) - {"mmlu"}
    for name, file in FILES.items():
        text = (place / f"{file}.yaml").read_text(encoding="utf-8")
        lines = dict(line.split(": ", 1) for line in text.splitlines() if line.startswith(("output_type", "num_few")))
        task = TASKS[name]
        assert (lines["output_type"] == "generate_until") == (task.num_choices == 0), name
        assert int(lines.get("num_fewshot", 0)) == task.num_fewshot, name
    subjects = [
        path
        for path in (place / "mmlu" / "default").glob("mmlu_*.yaml")
        if "task" in (found := yaml.safe_load(path.read_text(encoding="utf-8"))) and "group" not in found
    ]
    assert len(subjects) == TASKS["mmlu"].num_parts == 57


def test_choices_are_read_and_answers_written() -> None:
    read = stage("arc_easy")
    assert (read.responses, read.input_tokens, read.output_tokens) == (2376 * 4, 2376 * 4 * (25 + 5), 0)
    assert read.job.gpu_seconds == pytest.approx(2 * 1e9 * read.input_tokens / (1e12 * PREFILL_EFFICIENCY))
    written = stage("gsm8k")
    # Five examples with their answers, then the question.
    assert written.input_tokens == 1319 * (6 * 75 + 5 * 130)
    assert (written.responses, written.output_tokens) == (1319, 1319 * 130)
    both = stage("arc_easy", "gsm8k")
    assert both.job.gpu_seconds == pytest.approx(read.job.gpu_seconds + written.job.gpu_seconds)
    assert both.flops == pytest.approx(read.flops + written.flops)
    assert (both.job.max_replicas, both.job.start_s, both.job.after) == (1, 30.0, ("wrpo",))


def test_limit_examples_and_tasks_that_are_not_known() -> None:
    planning = PlanningConfig(lm_eval_questions=200)
    section = LmEvalConfig(tasks=("mmlu", "gsm8k", "my_task"), limit=10, num_fewshot=1)
    tasks = planned_tasks(section, planning)
    assert {name: task.num_questions for name, task in tasks.items()} == {"mmlu": 570, "gsm8k": 10, "my_task": 10}
    assert {task.num_fewshot for task in tasks.values()} == {1}
    free = LmEvalConfig(tasks=("mmlu", "my_task"))
    assert list(told(free, planning)) == [
        "lm-eval: questions 14,042 of mmlu, 200 of my_task (planning.lm_eval_questions)"
    ]
    assert list(told(None, planning)) == []
