"""A valid config with one mutation is one error that names the field, or the very config that was written."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from tests.fuzz.case import fuzzed, outcome
from tests.fuzz.mutation import KeyPath, at, changed_bytes
from tests.fuzz.valid_config import REWARDS, VALID, yaml_text
from wrpo_ray.config import FuseConfig
from wrpo_ray.config_file import dump_config, load_config, parse_config
from wrpo_ray.errors import ConfigError, Problem, WrpoError
from wrpo_ray.study.load import Study, load_study

ROOT = Path(__file__).parents[2]
CONFIGS = [json.loads(dump_config(parse_config(yaml_text({**VALID, "reward": each}), "whole"))) for each in REWARDS]
# To JSON Schema 1.0 is an integer, to us it is not.
INTEGER = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
SCHEMA = extend(Draft202012Validator, type_checker=INTEGER)(FuseConfig.model_json_schema())
# What is below these keys is passed on as it is: any key, any JSON value.
FREE = {"extra_args", "deepspeed", "extra_body", "model_args"}
ODD_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 255, 2**31, 2**32, 2**63, 2**64, 0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 8.0, 1e-9,
    5e-324, 1e308, math.inf, -math.inf, math.nan, "", " ", "text", "8", "1e-5", "0.5", "5GB", "1,5", "true", "null",
    "none", "../x", "/etc/passwd", "~", "a\0b", "CON", "x" * 300, "\u202ea", "\u00e9", "\U0001f600", "%2e%2e", "a/b",
    "a\n", "https://169.254.169.254/", "file:///proc/self/environ", "s3://b@evil/x", "{{ x }}", "os.system", "first",
    "second", "fused", "vllm", "openai", "verifier", [], [None], [[]], ["a"], ["a", "a"], [1], [0.5, 0.5], [["a", "b"]],
    {}, {"a": 1}, {"type": "vllm"}, {"_target_": "os.system"},
]  # fmt: skip


def nodes(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every value of a config with its path, but not what is below free sections."""
    if path:
        yield path, value
    if path and path[-1] in FREE:
        return
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from nodes(child, (*path, key))


NODES = [(number, *node) for number, config in enumerate(CONFIGS) for node in nodes(config)]
SECTIONS = [
    (number, path) for number, path, value in NODES
    if isinstance(value, dict) and path[-1] not in {*FREE, "env_vars", "per_hour", "cluster", "accelerators",
                                                    "per_million_tokens", "token_costs"}
]  # fmt: skip
KEYS = [(number, path) for number, path, _ in NODES if isinstance(path[-1], str) and (number, path[:-1]) in SECTIONS]


def dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def place_of(problem: Problem) -> str:
    """Return the dotted path that a problem names."""
    return problem.place.partition("`")[2].rstrip("`")


def only_problem(config: Any, path: KeyPath) -> Problem:
    """Return the one problem of a config, which must be at `path` or below it."""
    found = outcome(lambda: parse_config(yaml_text(config), "fuse.yaml"))
    assert isinstance(found, ConfigError), f"taken as it is: {dotted(path)} = {at(config, path)!r}"
    (problem,) = found.problems
    place = place_of(problem)
    assert place == dotted(path) or place.startswith(f"{dotted(path)}."), problem
    assert problem.fix
    return problem


@fuzzed(60, node=st.sampled_from(NODES), odd=st.sampled_from(ODD_VALUES))
def test_one_odd_value_is_one_problem_or_taken_as_it_is(node: tuple[int, KeyPath, Any], odd: Any) -> None:
    number, path, value = node
    config = copy.deepcopy(CONFIGS[number])
    at(config, path[:-1])[path[-1]] = copy.deepcopy(odd)
    if is_valid(config):
        require_taken(config, path)
    elif not isinstance(odd, dict) and not (isinstance(odd, list) and isinstance(value, list)):
        assert only_problem(config, path).code in ("WRPO-C004", "WRPO-C006", "WRPO-C007")
    else:
        # Several things may be missing in another section or list.
        found = outcome(lambda: parse_config(yaml_text(config), "fuse.yaml"))
        assert isinstance(found, ConfigError)
        assert all(place_of(problem).startswith(dotted(path)) for problem in found.problems)


def is_valid(config: Any) -> bool:
    """Tell by JSON Schema alone whether each field of a config is valid; JSON has no inf and nan."""
    text = json.dumps(config)
    return "Infinity" not in text and "NaN" not in text and SCHEMA.is_valid(config)


def require_taken(config: Any, path: KeyPath) -> None:
    """Check that a config whose fields are valid is read as it is written, or that it breaks a rule over fields."""
    found = outcome(lambda: parse_config(yaml_text(config), "fuse.yaml"))
    if isinstance(found, ConfigError):
        codes = {problem.code for problem in found.problems}
        assert not codes & {"WRPO-C003", "WRPO-C004", "WRPO-C007"}, (path, found)
        return
    assert isinstance(found, FuseConfig)
    read = json.loads(dump_config(found))
    assert at(read, path) == at(config, path) or isinstance(at(config, path), dict)
    at(read, path[:-1])[path[-1]] = at(config, path)
    assert read == config


EDITS: dict[str, Any] = {
    "two letters swapped": lambda key, at: key[:at] + key[at : at + 2][::-1] + key[at + 2 :],
    "a letter twice": lambda key, at: key[: at + 1] + key[at:],
    "a letter left out": lambda key, at: key[:at] + key[at + 1 :],
    "upper case": lambda key, at: key[:at] + key[at].upper() + key[at + 1 :],
    "a space behind": lambda key, at: key + " ",
    "a hyphen": lambda key, at: key.replace("_", "-"),
    "a look-alike": lambda key, at: key.replace("e", "\u0435"),
    "a namespace": lambda key, at: f"_target_.{key}",
}


@fuzzed(40, place=st.sampled_from(KEYS), edit=st.sampled_from(sorted(EDITS)), position=st.integers(0, 10))
def test_a_misspelt_key_is_one_problem_that_names_it(place: tuple[int, KeyPath], edit: str, position: int) -> None:
    number, path = place
    key = str(path[-1])
    typo = EDITS[edit](key, position % len(key))
    section = at(CONFIGS[number], path[:-1])
    assume(typo not in section)
    config = copy.deepcopy(CONFIGS[number])
    at(config, path[:-1])[typo] = at(config, path[:-1]).pop(key)
    found = outcome(lambda: parse_config(yaml_text(config), "fuse.yaml"))
    assert isinstance(found, ConfigError)
    unknown = [problem for problem in found.problems if problem.rule == "unknown field"]
    # Without `type` a section is none of its kinds, and nothing in it can be known.
    if key == "type" and path[0] == "reward":
        unknown = list(found.problems)
    assert len(unknown) == 1
    assert place_of(unknown[0]).startswith(dotted(path[:-1]))
    # Where the name is not recognised in the typo, what is missing is told as well.
    assert all(problem.code in ("WRPO-C003", "WRPO-C004") for problem in found.problems)
    assert len(found.problems) <= 2


@fuzzed(25, place=st.sampled_from(KEYS))
def test_a_key_that_is_left_out_has_its_default_or_is_asked_for(place: tuple[int, KeyPath]) -> None:
    number, path = place
    config = copy.deepcopy(CONFIGS[number])
    del at(config, path[:-1])[path[-1]]
    found = outcome(lambda: parse_config(yaml_text(config), "fuse.yaml"))
    if isinstance(found, ConfigError) and found.code == "WRPO-C004":
        (problem,) = found.problems
        assert place_of(problem) == dotted(path)
        assert problem.rule == "this field is required"
    elif isinstance(found, FuseConfig):
        without = json.loads(dump_config(found))
        del at(without, path[:-1])[path[-1]]
        assert without == config


@fuzzed(20, place=st.sampled_from(KEYS), odd=st.sampled_from(ODD_VALUES))
def test_an_override_is_the_same_as_the_file(place: tuple[int, KeyPath], odd: Any) -> None:
    number, path = place
    config = copy.deepcopy(CONFIGS[number])
    at(config, path[:-1])[path[-1]] = copy.deepcopy(odd)
    in_file = outcome(lambda: parse_config(yaml_text(config), "fuse.yaml"))
    override = f"{dotted(path)}={yaml_text(odd)}"
    given = outcome(lambda: parse_config(yaml_text(CONFIGS[number]), "fuse.yaml", [override]))
    if isinstance(in_file, ConfigError):
        assert isinstance(given, ConfigError)
        assert [(each.rule, each.code) for each in given.problems] == [(e.rule, e.code) for e in in_file.problems]
    else:
        assert given == in_file


AUTHORED = [path.read_bytes() for path in sorted((ROOT / "jobs/configs").glob("*.yaml")) if path.name.find("study")]
STUDIES = [path.read_bytes() for path in sorted((ROOT / "jobs/configs").glob("study*.yaml"))]
LINES = "abc:-[]{}&*!|>'\"#%@`,? \n\t0123.eE~\\u\u00a0\u2028"


CONTENT = st.one_of(changed_bytes(AUTHORED), st.binary(max_size=60), st.text(LINES, max_size=60).map(str.encode))


@fuzzed(40, content=CONTENT)
def test_any_bytes_are_a_config_or_an_error(folder: Path, content: bytes) -> None:
    (folder / "any.yaml").write_bytes(content)
    found = outcome(lambda: load_config(folder / "any.yaml"))
    assert isinstance(found, FuseConfig | ConfigError)
    if isinstance(found, FuseConfig):
        assert parse_config(dump_config(found), "dumped") == found


@fuzzed(20, content=changed_bytes(STUDIES))
def test_any_bytes_are_a_study_or_an_error(folder: Path, content: bytes) -> None:
    (folder / "study.yaml").write_bytes(content)
    assert isinstance(outcome(lambda: load_study(folder / "study.yaml")), Study | WrpoError)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configs")
