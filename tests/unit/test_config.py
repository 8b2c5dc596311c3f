"""Config files: defaults, overrides, and every problem at once with its place, value, rule and fix."""

import json
import os
from pathlib import Path

import pytest

from wrpo_ray.config import FuseConfig
from wrpo_ray.config_file import dump_config, load_config, parse_config
from wrpo_ray.errors import ConfigError, render
from wrpo_ray.study.load import load_study

MINIMAL = """\
run: {name: tiny}
prompts: {path: prompts.jsonl}
sources:
  - name: first
    path: ./first
  - name: second
    path: ./second
target: {name: base, path: ./base}
reward: {type: vllm, path: ./reward}
sft: {learning_rate: 7e-6}
wrpo:
  learning_rate: 3e-7
"""


def parsed(text: str = MINIMAL, *overrides: str) -> FuseConfig:
    return parse_config(text, "fuse.yaml", overrides)


def message(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(text, *overrides)
    return str(caught.value)


def test_minimal_config_has_the_values_of_the_paper() -> None:
    config = parsed()
    assert config.sft.learning_rate == 7e-6
    assert (config.wrpo.beta, config.wrpo.alpha.schedule, config.wrpo.alpha.end) == (0.01, "linear", 0.1)
    assert config.sources[0].sampling.num_samples == 5
    assert config.prompts.sft_fraction == 1 / 3


def test_unknown_key_names_line_and_close_match() -> None:
    text = message(MINIMAL.replace("wrpo:\n", "wrpo:\n  learning_rat: 1e-5\n"))
    assert "fuse.yaml:12:3 `wrpo.learning_rat`: unknown field" in text
    assert "did you mean `learning_rate`?" in text


def test_unknown_key_inside_a_list_knows_its_siblings() -> None:
    text = message(MINIMAL.replace("path: ./second", "path: ./second\n    engin: {}"))
    assert "`sources.1.engin`" in text
    assert "did you mean `engine`?" in text


def test_all_problems_are_reported_at_once() -> None:
    text = message(MINIMAL, "run.seed=-1", "sft.num_epochs=0", "wrpo.beta=text", "nonsense=1")
    assert "4 problems" in text
    for place in ("run.seed", "sft.num_epochs", "wrpo.beta", "nonsense"):
        assert f"`{place}`" in text


def test_missing_section_says_what_to_add() -> None:
    text = message(MINIMAL.replace("reward: {type: vllm, path: ./reward}\n", ""))
    assert "`reward`: this field is required" in text
    assert "add `reward`" in text


def test_broken_item_does_not_make_its_list_too_short() -> None:
    text = message(MINIMAL.replace("  - name: second\n    path: ./second\n", "").replace("path: ./first", "path: 3"))
    assert "1 problem\n" in text
    assert "`sources.0.path`" in text


def test_empty_list_of_sources_is_too_short() -> None:
    assert "`sources`" in message(MINIMAL, "sources=[]")


@pytest.mark.parametrize("value", ['"8"', "true", "8.5", "8GB", "null", "[8]"])
def test_only_an_integer_is_an_integer(value: str) -> None:
    assert "`sft.global_batch_size`" in message(MINIMAL, f"sft.global_batch_size={value}")


@pytest.mark.parametrize("value", [".inf", ".nan", "0", "-1e-5", '"1e-5"'])
def test_learning_rate_is_finite_and_positive(value: str) -> None:
    assert "`wrpo.learning_rate`" in message(MINIMAL, f"wrpo.learning_rate={value}")


def test_integer_serves_as_a_float() -> None:
    assert parsed(MINIMAL, "wrpo.beta=1").wrpo.beta == 1.0


def test_overrides_reach_sources_by_name_and_by_number() -> None:
    config = parsed(MINIMAL, "sources.second.sampling.num_samples=8", "sources.0.sampling.num_samples=3")
    assert [source.sampling.num_samples for source in config.sources] == [3, 8]


def test_a_name_with_dots_in_it_is_found() -> None:
    text = MINIMAL.replace("name: second", "name: yi1.5-34b")
    assert "yi1.5-34b" in text
    config = parsed(text, "sources.yi1.5-34b.sampling.num_samples=3")
    assert config.sources[1].sampling.num_samples == 3


def test_override_makes_sections_that_are_not_there() -> None:
    assert parsed(MINIMAL, "wrpo.alpha.end=0.5").wrpo.alpha.end == 0.5


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("sources.third.path=x", "named ['first', 'second']"),
        ("wrpo.beta", "section.key=value"),
        ("run.name.deep=1", "not a section"),
    ],
)
def test_bad_overrides_are_explained(override: str, part: str) -> None:
    assert part in message(MINIMAL, override)


def test_model_defaults_lie_under_each_model() -> None:
    text = MINIMAL.replace("path: ./second", "path: ./second\n    engine: {max_num_seqs: 7}")
    config = parsed(text + "model_defaults: {engine: {max_num_seqs: 3, max_model_len: 5000}}\n")
    engines = [model.engine for model in (*config.sources, config.target)]
    assert [engine.max_num_seqs for engine in engines] == [3, 7, 3]
    assert {engine.max_model_len for engine in engines} == {5000}


def test_model_defaults_hold_known_sections_only() -> None:
    assert "['path']" in message(MINIMAL + "model_defaults: {path: x}\n")


def test_dumped_config_is_the_same_config() -> None:
    config = parsed()
    assert parse_config(dump_config(config), "config.json") == config
    assert "model_defaults" not in json.loads(dump_config(config))


def test_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parsed().run.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        (["sources.1.name=First"], "sources[*].name"),
        (["sources.1.path=./first"], "sources[*].path"),
        (["target.name=second"], "target.name"),
        (["target.name=fused"], "target.name"),
        (["sft.num_workers=200"], "sft.global_batch_size"),
        (["wrpo.max_prompt_length=4000"], "wrpo.max_prompt_length"),
        (["target.sampling.max_tokens=4096"], "target.sampling.max_tokens"),
        (["sources.0.sampling.temperature=0"], "sources.first.sampling.num_samples"),
        (["target.sampling.num_samples=1"], "target.sampling.num_samples"),
        (["target.resources.num_gpus=2"], "target.resources.num_gpus"),
        (["target.engine.extra_args={seed: 1}"], "target.engine.extra_args.seed"),
        (["target.path=org/name", "target.trust_remote_code=true"], "target.revision"),
        (["reward={type: verifier}"], "prompts.answer_column"),
        (["reward={type: verifier, wrong_reward: 2.0}"], "reward"),
        (["min_sources=3"], "min_sources"),
        (["run.lease_timeout_s=9.9"], "run.lease_timeout_s"),
        (["sft.deepspeed={gradient_clipping: .inf}"], "sft.deepspeed.gradient_clipping"),
        (["target.engine.extra_args={a: [{b: .nan}]}"], "target.engine.extra_args.a.0.b"),
    ],
)
def test_rules_across_fields(overrides: list[str], place: str) -> None:
    assert f"`{place}`: " in message(MINIMAL, *overrides)


@pytest.mark.parametrize(
    "override", ["min_sources=1", "min_sources=2", "run.lease_timeout_s=0", "run.lease_timeout_s=10"]
)
def test_limits_themselves_are_allowed(override: str) -> None:
    parsed(MINIMAL, override)


@pytest.mark.parametrize("root", ["runs", "/mnt/runs", "s3://bucket", "s3://my.bucket-1/a/b", "gs://bucket/a", "a:b"])
def test_roots_of_runs(root: str) -> None:
    assert parsed(MINIMAL, f"run.root='{root}'").run.root == root


@pytest.mark.parametrize(
    "root",
    ["", " ", "~/runs", "http://host/x", "https://host/x", "hdfs://host/x", "file:///runs", "s3a://bucket/x", "s3://",
     "S3://bucket", "s3:/bucket", "s3://b@evil/x", "s3://bucket:80/x", "s3://bucket/x?versionId=1", "gs://Bucket/x",
     "memory://x"],
)  # fmt: skip
def test_places_that_are_no_root(root: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(MINIMAL, f"run.root='{root}'")
    (problem,) = caught.value.problems
    assert (problem.place, problem.code) == ("override `run.root`", "WRPO-C027")


CANARY = "hf_" + "CaNaRyCaNaRyCaNaRyCaNaRyCaNaRy0001"


@pytest.mark.parametrize(
    "line",
    [
        f"target.resources.env_vars={{ANYTHING: {CANARY}}}",
        "target.resources.env_vars={HF_TOKEN: whatever}",
        "sources.0.resources.env_vars={MY_PASSWORD: '1'}",
        "sft.deepspeed={wandb: {api_key: whatever}}",
        "tracking.mlflow_tracking_uri=http://user:c4nary@host:5000",
        f"run.root=s3://bucket/{CANARY}",
        f"prices.per_hour={{{CANARY}: 1}}",
        f"planning.cluster={{{CANARY}: 8}}",
    ],
)
def test_secrets_are_refused_and_not_shown(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(MINIMAL, line)
    (problem,) = caught.value.problems
    assert (problem.code, problem.value) == ("WRPO-C024", "[redacted]")
    assert "never put a secret here" in problem.rule
    assert not {"whatever", "c4nary", CANARY} & set(render(caught.value).replace("/", " ").split())


@pytest.mark.parametrize("name", ["password", "api_key", "HF_TOKEN"])
def test_value_of_an_unknown_field_that_is_named_like_a_secret_is_not_shown(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(MINIMAL, f"run.{name}=c4nary-correct-horse")
    (problem,) = caught.value.problems
    assert (problem.code, problem.value) == ("WRPO-C003", "[redacted]")
    assert "c4nary" not in render(caught.value)
    with pytest.raises(ConfigError) as caught:
        parsed(f"{MINIMAL}{name}: c4nary\n")
    assert "c4nary" not in render(caught.value)


def test_secret_of_the_environment_is_found_in_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    assert "never put a secret here" in message(MINIMAL, f"tracking.wandb_project='{'0123456789' * 4}'")
    monkeypatch.delenv("WANDB_API_KEY")
    parsed(MINIMAL, f"tracking.wandb_project='{'0123456789' * 4}'")


def test_secret_in_a_field_of_another_type_is_not_echoed() -> None:
    text = MINIMAL.replace("sft: {learning_rate: 7e-6}", f"sft: {{learning_rate: {CANARY}}}")
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert CANARY not in str(caught.value)
    assert "[redacted]" in caught.value.problems[0].value


@pytest.mark.parametrize(
    "line",
    [
        "target.resources.env_vars={TOKENIZERS_PARALLELISM: 'false', AWS_WEB_IDENTITY_TOKEN_FILE: /var/token}",
        "target.engine.extra_args={skip_tokenizer_init: false}",
        "target.revision=0123456789abcdef0123456789abcdef01234567",
        "tracking.mlflow_tracking_uri=http://host:5000",
    ],
)
def test_settings_that_are_no_secrets(line: str) -> None:
    parsed(MINIMAL, line)


def test_rules_name_the_line_of_the_field_they_are_about() -> None:
    text = MINIMAL.replace("sft: {learning_rate: 7e-6}", "sft:\n  learning_rate: 7e-6\n  num_workers: 200\n")
    with pytest.raises(ConfigError) as caught:
        parsed(text.replace("- name: first\n", "- name: llama-3.1\n    sampling: {max_tokens: 9000}\n"))
    places = {problem.code: problem.place for problem in caught.value.problems}
    assert places["WRPO-C020"] == "fuse.yaml:5:16 `sources.llama-3.1.sampling.max_tokens`"
    assert places["WRPO-C019"] == "fuse.yaml:11:1 `sft.global_batch_size`"


def test_broken_rules_are_reported_together() -> None:
    assert "2 problems" in message(MINIMAL, "sft.num_workers=200", "target.sampling.num_samples=1")


EVALUATION = "evaluation={prompts: {path: p}, lm_eval: {tasks: [gsm8k]}}"


@pytest.mark.parametrize(
    ("override", "place", "rule", "code"),
    [
        ("evaluation.sources=7", "evaluation.sources", "must be 'all' or a valid array", "WRPO-C006"),
        ("evaluation.sources=al", "evaluation.sources", "must be 'all' or a valid array", "WRPO-C006"),
        ("evaluation.sources=[7]", "evaluation.sources.0", "must be a valid string", "WRPO-C007"),
        ("sft.lora={target_modules: [7]}", "sft.lora.target_modules.0", "must be a valid string", "WRPO-C007"),
        ("evaluation.lm_eval.batch_size=0", "evaluation.lm_eval.batch_size", "must be greater than or", "WRPO-C006"),
        ("evaluation.lm_eval.batch_size=x", "evaluation.lm_eval.batch_size", "must be a valid integer or", "WRPO-C006"),
    ],
)
def test_a_value_of_several_kinds_has_one_problem(override: str, place: str, rule: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(MINIMAL, EVALUATION, override)
    (problem,) = caught.value.problems
    assert (problem.place, problem.code) == (f"override `{place}`", code)
    assert problem.rule.startswith(rule)


def test_secret_values_are_cut_short() -> None:
    assert "x" * 90 not in message(MINIMAL, f"run.seed={'x' * 200}")


def test_unreadable_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the config"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read the config"):
        load_config(tmp_path / "binary.yaml")


@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name, reason in (("pipe.yaml", "no regular file"), ("loop.yaml", "symbolic links"), ("a\0b", "null byte")):
        for load in (load_config, load_study):
            with pytest.raises(ConfigError, match=reason) as caught:
                load(tmp_path / name)
            assert caught.value.code == "WRPO-C002"
    with pytest.raises(ConfigError, match="no regular file"):
        load_config("/dev/zero")


@pytest.mark.parametrize("text", ["", "- a\n", "just text"])
def test_config_must_be_a_mapping(text: str) -> None:
    assert "must hold a mapping" in message(text)


def test_half_a_surrogate_pair_is_explained() -> None:
    assert "surrogate" in message(MINIMAL.replace("name: tiny", 'name: "\\ud800"'))


def test_exit_code() -> None:
    assert ConfigError.exit_code == 2
