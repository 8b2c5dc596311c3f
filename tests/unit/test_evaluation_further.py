"""Benchmarks, refusals and lm-eval as parts of a run: their steps, what they leave as it was, their checks."""

import json
from pathlib import Path

import pytest

from tests.evaluation_config import OWN, evaluation_config, evaluation_folder
from wrpo_ray.errors import ConfigError
from wrpo_ray.live.holding import holdings
from wrpo_ray.live.remaining import planned_stages, time_left
from wrpo_ray.live.view import StepView
from wrpo_ray.pipeline import Pipeline
from wrpo_ray.planning.against import plan_record
from wrpo_ray.preflight import check_run
from wrpo_ray.submissions import differences, submission


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = evaluation_folder(tmp_path_factory.mktemp("further"))
    question = {"question_id": 81, "category": "writing", "turns": ["Write.", "Write more."]}
    (folder / "mt.jsonl").write_text(json.dumps(question) + "\n")
    return folder


def further(folder: Path) -> list[str]:
    return [
        f"evaluation.benchmarks={{mt_bench: '{folder}/mt.jsonl', max_tokens: 16}}",
        f"evaluation.safety={{prompts: '{folder}/harmful.jsonl', max_tokens: 16}}",
        "evaluation.lm_eval={tasks: [gsm8k]}",
    ]


def test_each_section_adds_its_steps_and_leaves_all_others_as_they_were(folder: Path) -> None:
    plain = {step.name: step for step in Pipeline(evaluation_config(folder)).steps}
    steps = {step.name: step for step in Pipeline(evaluation_config(folder, *further(folder))).steps}
    added = set(steps) - set(plain)
    sampled = {f"evaluation-{kind}-{name}" for name in OWN for kind in (
        "mt-bench-sample", "mt-bench-2-questions", "mt-bench-2-sample", "safety-sample", "lm-eval",
    )}  # fmt: skip
    singles = {"evaluation-mt-bench-questions", "evaluation-benchmarks", "evaluation-safety-prompts"}
    assert added == sampled | singles | {"evaluation-safety"}
    changed = {name for name in plain if plain[name].fingerprint != steps[name].fingerprint}
    assert changed == {"evaluate", "export"}
    inputs = {step.name for step in steps["evaluate"].inputs}
    assert {"evaluation-safety", *(f"evaluation-lm-eval-{name}" for name in OWN)} <= inputs


def test_what_their_steps_hold(folder: Path) -> None:
    config = evaluation_config(folder, *further(folder))
    holding = holdings(config)
    for step in Pipeline(config).steps:
        if step.claim is not None and step.name.startswith("evaluation-") and "score" not in step.name:
            held = holding(step.name)
            assert held is not None, step.name
            assert held.kind == "sampling", step.name
            assert held.units == 2, step.name
    assert holding("evaluation-safety") is None
    assert holding("evaluation-benchmarks") is None


def test_sources_answer_benchmarks_on_demand(folder: Path) -> None:
    before = {step.name: step.fingerprint for step in Pipeline(evaluation_config(folder, *further(folder))).steps}
    config = evaluation_config(folder, *further(folder), "evaluation.benchmarks.sources=all")
    steps = {step.name: step for step in Pipeline(config).steps}
    assert set(steps) - set(before) == {
        f"evaluation-mt-bench-{kind}-{name}" for name in ("a", "gpt") for kind in ("sample", "2-questions", "2-sample")
    }
    changed = {name for name in before if before[name] != steps[name].fingerprint}
    assert changed == {"evaluation-benchmarks", "export"}
    # Asked of a run that is finished it is no mix of results; another temperature is.
    first = submission(1, {}, Pipeline(evaluation_config(folder, *further(folder))).steps, {})
    assert list(differences(first, submission(1, {}, list(steps.values()), {}))) == []
    other = Pipeline(evaluation_config(folder, *further(folder), "evaluation.benchmarks.temperature=0.5")).steps
    assert any("temperature" in line for line in differences(first, submission(1, {}, other, {})))
    held = holdings(config)
    of_endpoint, of_source = held("evaluation-mt-bench-2-sample-gpt"), held("evaluation-mt-bench-sample-a")
    assert of_endpoint is not None
    assert of_source is not None
    assert (of_endpoint.endpoint, of_endpoint.source, of_source.units, of_source.source) == ("gpt", None, 1, None)
    # A source that the run goes on without is asked no more.
    left = Pipeline(config).without({"a": "broken"})
    assert [step.name for step in left.steps if step.name.endswith("-a") and "bench" in step.name] == []


@pytest.mark.parametrize(
    ("fields", "rule", "code"),
    [
        ("sources: [b]", "no source has this name; there are: a, gpt", "WRPO-C045"),
        ("sources: [a], max_tokens: 128", "sources.a.engine.max_model_len", "WRPO-C020"),
        ("sources: [gpt], max_tokens: 1000", "no request may ever be sent", "WRPO-C083"),
        ("temperature: -1", "greater than or equal to 0", "WRPO-C006"),
    ],
)
def test_rules(folder: Path, fields: str, rule: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluation_config(folder, f"evaluation.benchmarks={{mt_bench: '{folder}/mt.jsonl', {fields}}}")
    found = [(problem.code, str(problem)) for problem in caught.value.problems]
    assert any(code == each and rule in text for each, text in found), found


def test_every_step_that_holds_something_is_planned_and_its_time_left_is_known(folder: Path) -> None:
    config = evaluation_config(folder, *further(folder), "evaluation.benchmarks.sources=all", "evaluation.sources=all")
    steps, held = Pipeline(config).steps, holdings(config)
    plan = plan_record(config)
    assert {step.name for step in steps if held(step.name)} == {stage["step"] for stage in plan["stages"]}
    stages = {stage["step"]: stage["job"] for stage in plan["stages"]}
    assert stages["evaluation-mt-bench-2-sample-gpt"]["after"] == ("evaluation-mt-bench-sample-gpt",)
    assert stages["evaluation-lm-eval-fused"]["after"] == ("wrpo",)
    views = [StepView(step.name, "waiting", held(step.name)) for step in steps]
    left = time_left(views, plan, planned_stages(plan))
    assert left.unknown is None
    assert left.seconds is not None


def test_all_that_is_wrong_with_them_is_found_before_the_run(folder: Path) -> None:
    config = evaluation_config(
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
    # Without the source whose endpoint is none.
    sources = f"sources=[{{name: a, path: '{folder}/t'}}]"
    assert check_run(evaluation_config(folder, *further(folder), sources)) == []
