"""What evaluation reads is looked at before any engine starts."""

from pathlib import Path

from tests.unit.test_benchmark_questions import MT, write
from wrpo_ray.config import EngineConfig, ModelConfig, ResourcesConfig
from wrpo_ray.config_benchmarks import BenchmarksConfig, LmEvalConfig, SafetyConfig
from wrpo_ray.preflight.benchmarks import check_files, check_lm_eval, check_tokens, wanted_packages


def test_files(tmp_path: Path) -> None:
    good = BenchmarksConfig(mt_bench=write(tmp_path / "mt.jsonl", MT))
    harm = SafetyConfig(prompts=write(tmp_path / "harm.jsonl", [{"prompt": "harm"}]))
    assert list(check_files(good, harm)) == []
    assert list(check_files(None, None)) == []
    bad = BenchmarksConfig(mt_bench=write(tmp_path / "bad.jsonl", [{"question_id": 1}]))
    empty = SafetyConfig(prompts=write(tmp_path / "empty.jsonl", [{"prompt": " "}]))
    assert [problem.code for problem in check_files(bad, empty)] == ["WRPO-D061", "WRPO-D011"]


def test_answers_leave_room_for_a_prompt() -> None:
    target = ModelConfig(name="t", path="t", engine=EngineConfig(max_model_len=2048))
    (problem,) = check_tokens(target, BenchmarksConfig(max_tokens=2048), SafetyConfig(prompts="p", max_tokens=2047))
    assert (problem.place, problem.code) == ("evaluation.benchmarks.max_tokens", "WRPO-C020")


def test_lm_eval_has_its_tasks_and_one_node() -> None:
    target = ModelConfig(name="t", path="t", resources=ResourcesConfig(num_gpus=16, num_nodes=2))
    section = LmEvalConfig(tasks=("own",), include_path="/nowhere")
    assert [problem.code for problem in check_lm_eval(target, section)] == ["WRPO-C090", "WRPO-C016"]
    assert list(check_lm_eval(target, None)) == []


def test_packages() -> None:
    assert list(wanted_packages(None)) == []
    ((field, value, module, extra),) = wanted_packages(LmEvalConfig(tasks=("gsm8k", "mmlu")))
    assert (field, value, module, extra) == ("evaluation.lm_eval.tasks", "gsm8k, mmlu", "lm_eval", "lm-eval")
