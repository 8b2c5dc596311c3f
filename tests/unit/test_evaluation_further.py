"""Benchmarks, refusals and lm-eval as parts of a run: their steps, what they leave as it was, their checks."""

import json
from pathlib import Path

import pytest

from tests.tiny import chatml_tokenizer, save_llama
from wrpo_ray.config import FuseConfig
from wrpo_ray.config_file import parse_config
from wrpo_ray.live.holding import holdings
from wrpo_ray.pipeline import Pipeline
from wrpo_ray.preflight import check_run

TEXT = """\
run: {{name: tiny, root: "{folder}/runs"}}
prompts: {{path: "{folder}/prompts.jsonl", answer_column: answer}}
model_defaults: {{engine: {{max_model_len: 128}}, sampling: {{max_tokens: 8}}}}
sources: [{{name: a, path: "{folder}/t"}}]
target: {{name: t, path: "{folder}/t", resources: {{num_cpus: 2}}}}
reward: {{type: verifier}}
sft: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
wrpo: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
evaluation:
  prompts: {{path: "{folder}/heldout.jsonl", answer_column: answer}}
  sampling: {{max_tokens: 9, num_samples: 2}}
"""
MODELS = ("t", "target-sft", "fused")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("further")
    save_llama(folder / "t", chatml_tokenizer())
    for name, first in (("prompts", 0), ("heldout", 100), ("harmful", 200)):
        rows = [{"prompt": f"question {number}", "answer": str(number)} for number in range(first, first + 6)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    question = {"question_id": 81, "category": "writing", "turns": ["Write.", "Write more."]}
    (folder / "mt.jsonl").write_text(json.dumps(question) + "\n")
    return folder


def config_of(folder: Path, *overrides: str) -> FuseConfig:
    return parse_config(TEXT.format(folder=folder), "run.yaml", list(overrides))


def further(folder: Path) -> list[str]:
    return [
        f"evaluation.benchmarks={{mt_bench: '{folder}/mt.jsonl', max_tokens: 16}}",
        f"evaluation.safety={{prompts: '{folder}/harmful.jsonl', max_tokens: 16}}",
        "evaluation.lm_eval={tasks: [gsm8k]}",
    ]


def test_each_section_adds_its_steps_and_leaves_all_others_as_they_were(folder: Path) -> None:
    plain = {step.name: step for step in Pipeline(config_of(folder)).steps}
    steps = {step.name: step for step in Pipeline(config_of(folder, *further(folder))).steps}
    added = set(steps) - set(plain)
    sampled = {f"evaluation-{kind}-{name}" for name in MODELS for kind in (
        "benchmark-sample", "benchmark-turn-2", "benchmark-sample-2", "safety-sample", "lm-eval",
    )}  # fmt: skip
    singles = {"evaluation-benchmark-questions", "evaluation-benchmarks", "evaluation-safety-prompts"}
    assert added == sampled | singles | {"evaluation-safety"}
    changed = {name for name in plain if plain[name].fingerprint != steps[name].fingerprint}
    assert changed == {"evaluate", "export"}
    inputs = {step.name for step in steps["evaluate"].inputs}
    assert {"evaluation-safety", *(f"evaluation-lm-eval-{name}" for name in MODELS)} <= inputs


def test_what_their_steps_hold(folder: Path) -> None:
    config = config_of(folder, *further(folder))
    holding = holdings(config)
    for step in Pipeline(config).steps:
        if step.claim is not None and step.name.startswith("evaluation-") and "score" not in step.name:
            held = holding(step.name)
            assert held is not None, step.name
            assert held.kind == "sampling", step.name
            assert held.units == 2, step.name
    assert holding("evaluation-safety") is None
    assert holding("evaluation-benchmarks") is None


def test_all_that_is_wrong_with_them_is_found_before_the_run(folder: Path) -> None:
    config = config_of(
        folder,
        "evaluation.benchmarks={mt_bench: nowhere.jsonl, max_tokens: 128}",
        "evaluation.safety={prompts: no-such.jsonl}",
        "evaluation.lm_eval={tasks: [gsm8k], include_path: no-folder}",
    )
    places = {problem.place for problem in check_run(config)}
    assert {
        "evaluation.benchmarks.max_tokens",
        "evaluation.safety.max_tokens",
        "evaluation.lm_eval.include_path",
    } <= places
    told = [str(problem) for problem in check_run(config)]
    assert any("nowhere.jsonl" in text for text in told)
    assert any("no-such.jsonl" in text for text in told)
    assert check_run(config_of(folder, *further(folder))) == []
