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


@pytest.mark.parametrize("root", ["s3://bucket/a/../b", "s3://bucket/%2E%2E", "/proc/self/cwd", "/sys/x"])
def test_roots_that_are_refused(root: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(MINIMAL, f"run.root='{root}'")
    assert [(problem.place, problem.code) for problem in caught.value.problems] == [
        ("override `run.root`", "WRPO-C130")
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
