"""Sources behind an endpoint in the config: rules, checks before a run, fingerprints; no key is ever repeated."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.endpoint import KEY_VARIABLE, Endpoint, serving
from tests.tiny import chatml_tokenizer, save_llama
from wrpo_ray.cluster import demands
from wrpo_ray.config import FuseConfig, ModelConfig, OpenAISourceConfig
from wrpo_ray.config_file import dump_config, parse_config
from wrpo_ray.endpoints import normal_url
from wrpo_ray.errors import ConfigError, Problem, render
from wrpo_ray.model_card import model_card
from wrpo_ray.pipeline import Pipeline
from wrpo_ray.preflight import check_run

TEXT = """\
run: {{name: tiny, root: "{folder}/runs"}}
prompts: {{path: "{folder}/prompts.jsonl", answer_column: answer}}
model_defaults:
  engine: {{max_model_len: 128}}
  sampling: {{max_tokens: 8, num_samples: 3}}
  resources: {{num_gpus: 1, num_replicas: 4}}
sources:
  - {{name: local, path: "{folder}/t"}}
  - name: gpt
    type: openai
    base_url: {url}
    model: small-1
    api_key_env: WRPO_TEST_API_KEY
    sampling: {{temperature: 0.5}}
    limits: {{requests_per_minute: 600}}
target: {{name: t, path: "{folder}/t", revision: null}}
reward: {{type: verifier}}
sft: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
wrpo: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endpoint")
    save_llama(folder / "t", chatml_tokenizer())
    rows = [{"prompt": f"question {number}", "answer": str(number)} for number in range(30)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with serving() as running:
        yield running


def config(folder: Path, *overrides: str, url: str = "https://api.example.com/v1") -> FuseConfig:
    return parse_config(TEXT.format(folder=folder, url=url), "c.yaml", overrides)


def gpt(config: FuseConfig) -> OpenAISourceConfig:
    source = config.sources[1]
    assert isinstance(source, OpenAISourceConfig)
    return source


@pytest.mark.parametrize("line", ["", "    tipe: openai\n"])
def test_an_endpoint_without_a_type_is_one_problem(folder: Path, line: str) -> None:
    text = TEXT.format(folder=folder, url="https://api.example.com/v1").replace("    type: openai\n", line)
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml")
    (problem,) = caught.value.problems
    assert ("tipe" if line else "type") in problem.place
    assert problem.code == ("WRPO-C003" if line else "WRPO-C004")


def test_a_source_is_of_vllm_unless_it_says_otherwise(folder: Path) -> None:
    read = config(folder)
    local, source = read.sources[0], gpt(read)
    assert isinstance(local, ModelConfig)
    assert (local.type, local.resources.num_gpus, local.engine.max_model_len) == ("vllm", 1.0, 128)
    # Of the defaults, an endpoint gets what it has too: nobody wants GPUs for it.
    assert (source.sampling.max_tokens, source.sampling.num_samples, source.sampling.temperature) == (8, 3, 0.5)
    assert (source.resources.num_gpus, source.resources.num_replicas) == (0.0, 1)
    assert parse_config(dump_config(read), "again.yaml") == read
    demand = next(demand for demand in demands(read) if demand.place == "sources.gpt.resources")
    assert (demand.count, demand.num_cpus, demand.num_gpus) == (1, 0.5, 0.0)


RULES = {
    "kind": (("sources.gpt.type=opnai",), "did you mean `openai`", "WRPO-C006"),
    "kind is no word": (("sources.gpt.type=7",), "must be", "WRPO-C006"),
    "replicas": (("sources.gpt.num_replicas=2",), "unknown field", "WRPO-C003"),
    "typo": (("sources.gpt.max_retrys=2",), "did you mean `max_retries`", "WRPO-C003"),
    "nested typo": (("sources.gpt.limits.request_per_minute=2",), "did you mean `requests_per_minute`", "WRPO-C003"),
    "zero": (("sources.gpt.limits.requests_per_minute=0",), "greater than 0", "WRPO-C006"),
    "target": (("target.type=openai",), "must be 'vllm'", "WRPO-C006"),
    "scheme": (("sources.gpt.base_url=api.example.com/v1",), "https://", "WRPO-C081"),
    "whole url": (("sources.gpt.base_url=https://x.example/v1/chat/completions",), "end before", "WRPO-C081"),
    "query": (("sources.gpt.base_url=https://x.example/v1?code=1234567890",), "query", "WRPO-C081"),
    "user": (("sources.gpt.base_url=https://hush@x.example/v1",), "user", "WRPO-C081"),
    "port": (("sources.gpt.base_url=https://x.example:port/v1",), "no address", "WRPO-C081"),
    "key in place of its name": (("sources.gpt.api_key_env=a1b2c3d4e5f6",), "name of an environment", "WRPO-C082"),
    "variable that is not redacted": (("sources.gpt.api_key_env=MY_HUSH",), "such are redacted", "WRPO-C082"),
    "real key": (("sources.gpt.api_key_env=sk-0123456789abcdefghijklmn",), "never put a secret", "WRPO-C024"),
    "secret field": (('sources.gpt.extra_body={"api_key": "hush"}',), "never put a secret", "WRPO-C024"),
    "own field": (("sources.gpt.extra_body.n=2",), "set by the run", "WRPO-C018"),
    "small limit": (("sources.gpt.limits.tokens_per_minute=8",), "more than sampling.max_tokens", "WRPO-C083"),
    "greedy": (("sources.gpt.sampling.temperature=0",), "same response every time", "WRPO-C021"),
}


@pytest.mark.parametrize(("overrides", "rule", "code"), RULES.values(), ids=RULES)
def test_rules(folder: Path, overrides: tuple[str, ...], rule: str, code: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config(folder, *overrides)
    text = render(raised.value)
    assert rule in text
    assert code in {problem.code for problem in raised.value.problems}
    for secret in ("hush", "1234567890", "a1b2c3d4e5f6", "sk-0123456789abcdefghijklmn"):
        assert secret not in text.replace("MY_HUSH", "")


def test_the_same_model_twice(folder: Path) -> None:
    twice = TEXT.replace(
        "  - name: gpt\n", "  - {{name: other, type: openai, base_url: {url}, model: small-1}}\n  - name: gpt\n"
    )
    with pytest.raises(ConfigError, match="the same model is listed 2 times"):
        parse_config(twice.format(folder=folder, url="https://api.example.com/v1"), "c.yaml")
    other = "sources.other.extra_body.reasoning_effort=low"
    parse_config(twice.format(folder=folder, url="https://api.example.com/v1"), "c.yaml", [other])


def found(folder: Path, endpoint: Endpoint, *overrides: str) -> Problem:
    (problem,) = check_run(config(folder, *overrides, url=endpoint.url))
    return problem


def test_a_sound_endpoint_passes_the_checks_and_is_asked_for_no_response(folder: Path, endpoint: Endpoint) -> None:
    assert check_run(config(folder, url=endpoint.url)) == []
    # One that has no list of models.
    assert check_run(config(folder, url=f"{endpoint.url}/other")) == []
    assert endpoint.asked == []


def test_the_checks_find_a_missing_or_wrong_key_and_a_wrong_address(
    folder: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = found(folder, endpoint, "sources.gpt.api_key_env=WRPO_TEST_OTHER_KEY")
    assert (missing.place, missing.value, missing.code) == (
        "sources.gpt.api_key_env", "WRPO_TEST_OTHER_KEY", "WRPO-C080",
    )  # fmt: skip
    monkeypatch.setenv(KEY_VARIABLE, "wrong-key-9876543210")
    wrong = found(folder, endpoint)
    assert (wrong.place, wrong.code) == ("sources.gpt.api_key_env", "WRPO-E040")
    assert "wrong-key-9876543210" not in str(wrong)
    with serving() as closed:
        pass
    nobody = found(folder, endpoint, f"sources.gpt.base_url={closed.url}")
    assert (nobody.place, nobody.code) == ("sources.gpt.base_url", "WRPO-E041")


def fingerprint(folder: Path, *overrides: str) -> str:
    return Pipeline(config(folder, *overrides)).step("sample-gpt").fingerprint


@pytest.mark.parametrize(
    "override",
    [
        "model=small-2", "base_url=https://other.example.com/v1", "sampling.temperature=0.6", "send_seed=false",
        "max_tokens_field=max_completion_tokens", "extra_body.reasoning_effort=low",
    ],
)  # fmt: skip
def test_what_is_asked_is_in_the_fingerprint(folder: Path, override: str) -> None:
    assert fingerprint(folder, f"sources.gpt.{override}") != fingerprint(folder)


@pytest.mark.parametrize(
    "override",
    [
        "base_url=https://API.example.com:443/v1/", "api_key_env=OTHER_API_KEY", "limits.requests_per_minute=7",
        "timeout_s=5", "max_retries=1", "prompts_per_shard=3", "num_cpus=1",
    ],
)  # fmt: skip
def test_how_it_is_asked_is_not(folder: Path, override: str) -> None:
    assert fingerprint(folder, f"sources.gpt.{override}") == fingerprint(folder)


def test_normal_url() -> None:
    assert normal_url("HTTPS://User:pw@Host.Example:443/v1//") == "https://host.example/v1"
    assert normal_url("http://[::1]:8000/v1") == "http://[::1]:8000/v1"


def test_the_model_card_names_the_model_and_not_its_address(folder: Path) -> None:
    card = model_card(config(folder), {})
    assert "| gpt | `small-1 (API)` | 3 |" in card
    assert "api.example.com" not in card
