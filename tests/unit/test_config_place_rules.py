"""Paths, URIs and names that lead where a run has no business: refused before anything is opened."""

import pytest

from tests.unit.test_config import MINIMAL, parsed
from wrpo_ray.errors import ConfigError

BAD_PATHS = [
    "/proc/self/environ", "//proc/1/environ", "/proc/../proc/self", "/sys/class", "/dev/sda", "/dev/shm/../sda",
    "s3://b@evil/x", "s3://bucket:80/x", "s3://bucket/a/../b", "s3://bucket/%2e%2e/b", "gs://bucket/./b",
    "file:///proc/self/environ", "http://169.254.169.254/", "https://host/model", "hf://../..", "hdfs://h/x",
    "a\\u0000b", "a\\u000ab", " ",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS)
@pytest.mark.parametrize("field", ["target.path", "target.chat_template", "reward.path", "export.path"])
def test_places_that_are_refused(field: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(MINIMAL, f'{field}="{path}"')
    (problem,) = caught.value.problems
    assert (problem.place, problem.code) == (f"override `{field}`", "WRPO-C130")


@pytest.mark.parametrize(
    "path",
    ["./model", "../model", "/models/m", "/dev/shm/model", "organisation/name", "s3://bucket/a/m", "gs://bucket/m",
     "/process/m", "/data/a..b", "~/models/m", "a b/ü"],
)  # fmt: skip
def test_places_that_are_not(path: str) -> None:
    assert parsed(MINIMAL, f"target.path='{path}'").target.path == path


@pytest.mark.parametrize("path", ["/proc/self/environ", "file:///proc/self/environ", "a\\u000ab", " "])
def test_wording_of_the_judge_is_a_place_too(path: str) -> None:
    judge = f'{{name: judge, base_url: "https://api.example.com/v1", model: m, template: "{path}"}}'
    with pytest.raises(ConfigError) as caught:
        parsed(MINIMAL, f"evaluation={{prompts: {{path: p.jsonl}}, judge: {judge}}}")
    assert [problem.code for problem in caught.value.problems] == ["WRPO-C130"]
    assert "evaluation.judge.template" in caught.value.problems[0].place


def test_what_an_endpoint_is_sent_is_no_place() -> None:
    source = '{name: a, type: openai, base_url: "https://h/v1", model: m, extra_body: {template: "a\\nb", store: " "}}'
    assert parsed(MINIMAL, f"sources=[{source}]")


@pytest.mark.parametrize("root", ["s3://bucket/a/../b", "s3://bucket/%2E%2E", "/proc/self/cwd", "/sys/x"])
@pytest.mark.parametrize("field", ["run.root", "models.store"])
def test_roots_that_are_refused(field: str, root: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(MINIMAL, f"{field}='{root}'")
    assert [(problem.place, problem.code) for problem in caught.value.problems] == [
        (f"override `{field}`", "WRPO-C130")
    ]


NAMES = [
    "../x",
    "/abs",
    "a\\u0000b",
    "a/b",
    "..",
    ".",
    ".hidden",
    "%2e%2e",
    "x" * 64,
    "name ",
    "a\\n",
    "ünicode",
    "a∕b",
    "",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["run.name", "target.name", "run.reuse"])
def test_names_that_would_leave_their_folder(field: str, name: str) -> None:
    value = f'["{name}"]' if field == "run.reuse" else f'"{name}"'
    with pytest.raises(ConfigError) as caught:
        parsed(MINIMAL, f"{field}={value}")
    assert len(caught.value.problems) == 1
    assert field in caught.value.problems[0].place


@pytest.mark.parametrize("line", ["_target_: os.system", "hydra: {run: {dir: /}}", "wrpo._target_: x"])
def test_config_names_no_code(line: str) -> None:
    """Import paths in a config are a way to run code (Hydra's instantiate)."""
    with pytest.raises(ConfigError, match="unknown field"):
        parsed(MINIMAL + line + "\n")
