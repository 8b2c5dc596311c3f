"""The section `evaluation`: its rules, the steps that it adds, and what it leaves as it was."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.endpoint import Endpoint, serving
from tests.evaluation_config import URL, evaluation_config, evaluation_folder
from wrpo_ray.cluster import demands
from wrpo_ray.config_evaluation_rules import evaluated_pairs
from wrpo_ray.config_file import dump_config, parse_config
from wrpo_ray.errors import ConfigError, Problem, WrpoError
from wrpo_ray.judging import TEMPLATE
from wrpo_ray.live.holding import holdings
from wrpo_ray.pipeline import Pipeline
from wrpo_ray.planning.plan import plan_run
from wrpo_ray.preflight import check_run
from wrpo_ray.run import require_begun
from wrpo_ray.submissions import differences, submission

JUDGE = f"evaluation.judge={{name: judge, base_url: '{URL}', model: large}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluation_folder(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with serving() as running:
        running.key = None
        yield running


def steps(folder: Path, *overrides: str) -> dict[str, str]:
    return {step.name: step.fingerprint for step in Pipeline(evaluation_config(folder, *overrides)).steps}


RULES = {
    "source": (("evaluation.sources=[b]",), "no source has this name; there are: a, gpt", "WRPO-C045"),
    "pair": (("evaluation.pairs=[[fused, a]]",), "add it to evaluation.sources", "WRPO-C045"),
    "unknown": (("evaluation.pairs=[[fused, nobody]]",), "correct the name", "WRPO-C045"),
    "itself": (("evaluation.pairs=[[fused, fused]]",), "must name two models", "WRPO-C045"),
    "twice": (("evaluation.pairs=[[fused, t], [fused, t]]",), "no pair twice", "WRPO-C045"),
    "no pair": (("evaluation.pairs=[]",), "at least one pair", "WRPO-C045"),
    "verifier": (
        ("evaluation.prompts.answer_column=null", "evaluation.verifier={type: verifier}"),
        "column with the reference answers", "WRPO-C023",
    ),
    "target is too short": (("evaluation.sampling.max_tokens=128",), "target.engine.max_model_len", "WRPO-C020"),
    "source is too short": (
        ("evaluation.sources=all", "sources.a.engine.max_model_len=16", "evaluation.sampling.max_tokens=16"),
        "sources.a.engine.max_model_len", "WRPO-C020",
    ),
    "limit": (
        ("evaluation.sources=[gpt]", "evaluation.sampling.max_tokens=100", "sources.gpt.limits.tokens_per_minute=90"),
        "no request may ever be sent", "WRPO-C083",
    ),
    "judge's name": ((JUDGE, "evaluation.judge.name=fused"), "another model of the run", "WRPO-C013"),
    "judge's address": ((JUDGE, "evaluation.judge.base_url=example.com"), "https://", "WRPO-C081"),
    "judge's key": ((JUDGE, "evaluation.judge.api_key_env=hush"), "name of an environment variable", "WRPO-C082"),
    "judge's samples": ((JUDGE, "evaluation.judge.sampling.num_samples=2"), "must be 1", "WRPO-C006"),
    "judge's typo": ((JUDGE, "evaluation.judge.templat=x"), "did you mean `template`", "WRPO-C003"),
    "judge's body": ((JUDGE, "evaluation.judge.extra_body={seed: 1}"), "set by the run", "WRPO-C018"),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "rule", "code"), RULES.values(), ids=RULES)
def test_rules(folder: Path, overrides: tuple[str, ...], rule: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluation_config(folder, *overrides)
    found = [(problem.code, str(problem)) for problem in caught.value.problems]
    assert any(code == each and rule in text for each, text in found), found


def test_defaults(folder: Path) -> None:
    read = evaluation_config(folder, JUDGE, "evaluation.sources=all")
    assert evaluated_pairs(read) == (
        ("fused", "target-sft"), ("fused", "t"), ("target-sft", "t"), ("fused", "a"), ("fused", "gpt"),
    )  # fmt: skip
    assert read.evaluation is not None
    judge = read.evaluation.judge
    assert judge is not None
    assert (judge.type, judge.sampling.num_samples, judge.sampling.temperature) == ("openai", 1, 0.0)
    assert parse_config(dump_config(read), "again.yaml") == read
    # A source that the run goes on without is compared no more.
    left = Pipeline(read).without({"a": "broken"})
    assert "evaluation-sample-a" not in [step.name for step in left.steps]
    assert ("fused", "a") not in evaluated_pairs(left.config)


def test_more_to_compare_adds_steps_and_changes_no_answer(folder: Path) -> None:
    before = steps(folder)
    own = [f"evaluation-sample-{name}" for name in ("t", "target-sft", "fused")]
    assert [name for name in before if name.startswith("evalua")] == [
        "evaluation-prompts",
        *own,
        "evaluation-score",
        "evaluate",
    ]
    for more, added in (
        ("evaluation.sources=[a]", ["evaluation-sample-a", "evaluation-score-a"]),
        (JUDGE, ["evaluation-questions", "evaluation-judge"]),
        ("evaluation.pairs=[[fused, t]]", []),
        ("evaluation.verifier={type: verifier, mode: numeric}", []),
        ("evaluation.num_bootstrap=50", []),
    ):
        after = steps(folder, more)
        assert [name for name in after if name not in before] == added
        assert {name for name in before if after[name] != before[name]} == {"evaluate", "export"}


def test_a_finished_run_may_be_evaluated_in_another_way(folder: Path) -> None:
    """Neither an older version's evaluation nor another question to a judge is a mix of results."""
    first = Pipeline(evaluation_config(folder)).steps
    old = submission(1, {}, first, {})
    for step in old["steps"]:
        if step["name"] == "evaluate":
            step |= {"identity": {"num_bootstrap": 7, "seed": 42}, "inputs": ["evaluation-score"]}
    now = Pipeline(evaluation_config(folder, JUDGE, "evaluation.sources=all", "evaluation.pairs=[[fused, a]]")).steps
    assert list(differences(old, submission(1, {}, now, {}))) == []
    other = Pipeline(evaluation_config(folder, "evaluation.sampling.temperature=0.1")).steps
    assert any("temperature" in line for line in differences(old, submission(1, {}, other, {})))


def test_the_judge_is_who_is_asked_and_what(folder: Path, tmp_path: Path) -> None:
    before = steps(folder, JUDGE)
    template = tmp_path / "template.txt"
    template.write_text(f"Be quick. {TEMPLATE}")

    def changed(*more: str) -> set[str]:
        after = steps(folder, JUDGE, *more)
        return {name for name in before if after[name] != before[name]} - {"evaluate", "export"}

    assert changed("evaluation.judge.limits.max_concurrent_requests=2", "evaluation.judge.name=other") == set()
    assert changed("evaluation.judge.model=larger") == {"evaluation-judge"}
    assert changed("evaluation.judge.sampling.max_tokens=50") == {"evaluation-judge"}
    assert changed(f"evaluation.judge.template={template}") == {"evaluation-questions", "evaluation-judge"}


def problems(folder: Path, endpoint: Endpoint, *overrides: str) -> list[Problem]:
    judge = f"evaluation.judge={{name: judge, base_url: '{endpoint.url}', model: large}}"
    return check_run(evaluation_config(folder, judge, *overrides, url=endpoint.url))


def test_preflight_looks_at_the_judge(folder: Path, endpoint: Endpoint, tmp_path: Path) -> None:
    assert problems(folder, endpoint) == []
    (found,) = problems(folder, endpoint, "evaluation.judge.api_key_env=NO_SUCH_KEY")
    assert (found.place, found.code) == ("evaluation.judge.api_key_env", "WRPO-C080")
    (found,) = problems(folder, endpoint, f"evaluation.judge.template={tmp_path / 'none.txt'}")
    assert (found.code, "No such file" in found.rule) == ("WRPO-C046", True)
    (tmp_path / "bad.txt").write_text("{{answer_a}} or {{answer_b}}?")
    (found,) = problems(folder, endpoint, f"evaluation.judge.template={tmp_path / 'bad.txt'}")
    assert found.rule.endswith("wrong: {{conversation}}, {{mark}}")


def test_answers_that_a_numeric_rule_cannot_use(folder: Path, endpoint: Endpoint, tmp_path: Path) -> None:
    rows = [{"prompt": "one?", "answer": "1"}, {"prompt": "none?", "answer": None}, {"prompt": "two?", "answer": "two"}]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = (
        f"evaluation.prompts.path={tmp_path / 'words.jsonl'}",
        "evaluation.verifier={type: verifier, mode: numeric}",
    )
    # The verifier as the reward needs every answer, another one takes those that are there.
    reward = "reward={type: vllm, path: /nowhere}"
    found = [each for each in problems(folder, endpoint, *given, reward) if each.place.startswith("evaluation")]
    assert [(each.code, each.value[:9]) for each in found] == [("WRPO-D017", "1 answers")]
    assert found[0].fix.endswith("set evaluation.verifier.mode to exact")


def test_plan_and_display_know_the_steps(folder: Path) -> None:
    read = evaluation_config(
        folder, JUDGE, "evaluation.sources=all", "prices.per_million_tokens.judge={input: 1, output: 2}",
        "planning.mean_prompt_tokens=100", "evaluation.judge.sampling.max_tokens=50", "reward={type: verifier}",
    )  # fmt: skip
    stages = {each.stage.step: each for each in plan_run(read).stages}
    held = holdings(read)
    for name in ("evaluation-sample-a", "evaluation-sample-gpt", "evaluation-score-gpt", "evaluation-judge"):
        stage, holding = stages[name].stage, held(name)
        assert holding is not None
        assert (holding.kind, holding.accelerator, holding.units) == (
            stage.kind,
            stage.job.accelerator,
            stage.job.gpus_per_replica,
        )
        assert (holding.endpoint, holding.source) == (stage.endpoint, None)
    judge = stages["evaluation-judge"]
    # Both orders of five pairs on thirty prompts; the prompt, two answers of nine tokens, and our own words.
    assert judge.stage.responses == 2 * 5 * 30
    assert judge.stage.input_tokens == 300 * (250 + 100 + 18)
    assert judge.price == pytest.approx((300 * 368 * 1 + 300 * 50 * 2) / 1e6)
    assert held("evaluation-questions") is None


def test_only_the_evaluation(folder: Path) -> None:
    pipeline = Pipeline(evaluation_config(folder))
    assert [step.name for step in pipeline.steps_called("evaluation")][0::5] == ["evaluation-prompts", "evaluate"]
    with pytest.raises(ConfigError, match="needs sft first"):
        pipeline.selected("evaluation")
    with pytest.raises(ConfigError, match="no section `evaluation`"):
        Pipeline(evaluation_config(folder, "evaluation=null")).steps_called("evaluation")
    with pytest.raises(WrpoError, match="there is no run tiny") as caught:
        require_begun(evaluation_config(folder))
    assert caught.value.code == "WRPO-C048"
    assert not (folder / "runs").exists()


def test_the_judge_needs_room_on_the_cluster(folder: Path) -> None:
    assert [each.place for each in demands(evaluation_config(folder, JUDGE))].count("evaluation.judge.num_cpus") == 1


def test_the_section_in_the_docs_is_a_valid_one(folder: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    limits = ("target.engine.max_model_len=4096", "sources.a.engine.max_model_len=4096")
    limits = (*limits, "sources.gpt.limits.tokens_per_minute=10000")
    read = evaluation_config(folder, *limits, evaluation=section.replace("{", "{{").replace("}", "}}"))
    assert read.evaluation is not None
    assert read.evaluation.sources == "all"
    assert read.evaluation.judge is not None
